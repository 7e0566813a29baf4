"""Every net and unit does what a torch module is expected to do; the gates work on nets that we did not write."""

import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn

from fmm_nb.activations import replace_activations
from fmm_nb.errors import InputError
from fmm_nb.gates import Gated, all_units, frozen_gates, gates_of, read_gates, replace_gate, unit
from fmm_nb.models import create_model, list_models
from fmm_nb.vision import prepare_torchvision


def module_of(kind, name):
    "A net, or a unit on 8 channels, with a batch for it."
    torch.manual_seed(0)
    if kind == "unit":
        return unit(name, 8), torch.randn(4, 8, 6, 6)
    small = {"blocks": (1, 1, 1, 1), "width": 16} if name.endswith("resnet50") else {}
    return create_model(name, in_channels=3, image_size=16, num_classes=5, **small), torch.randn(4, 3, 16, 16)


@pytest.fixture(
    params=[*(("net", name) for name in list_models()), *(("unit", name) for name in all_units())], ids=" ".join
)
def case(request):
    return module_of(*request.param)


def test_backward_reaches_every_parameter(case):
    net, x = case
    net(x.requires_grad_()).square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.any()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_double_precision_agrees_with_single(case):
    net, x = case
    torch.testing.assert_close(deepcopy(net).eval().double()(x.double()).float(), net.eval()(x), rtol=1e-3, atol=1e-4)


def test_bfloat16_autocast_trains(case):
    net, x = case
    with torch.autocast("cpu", torch.bfloat16):
        loss = net(x.requires_grad_()).float().square().mean()
    loss.backward()
    assert torch.isfinite(loss) and all(p.grad.dtype == torch.float32 for p in net.parameters())


def test_channels_last_computes_the_same(case):
    net, x = case
    other = deepcopy(net).to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        other.eval()(x.to(memory_format=torch.channels_last)), net.eval()(x), rtol=1e-4, atol=1e-5
    )


def test_copies_are_equal_and_apart(case):
    net, x = case
    net(x)  # moves the buffers of those that have some
    copy, loaded = deepcopy(net).eval(), deepcopy(net)
    for value in loaded.state_dict().values():
        value.zero_()
    loaded.load_state_dict(net.state_dict())
    expected = net.eval()(x)
    torch.testing.assert_close(copy(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(loaded.eval()(x), expected, rtol=0, atol=0)


def test_one_image_in_evaluation_is_what_it_is_in_a_batch(case):
    net, x = case
    net.eval()
    torch.testing.assert_close(net(x)[2:3], net(x[2:3]), rtol=1e-4, atol=1e-5)


def test_evaluation_is_plain_for_torch_func(case):
    net, x = case
    net.eval().double()
    x = x.double()
    alone = lambda image: net(image[None])[0].flatten()[:4]
    torch.testing.assert_close(torch.func.vmap(alone)(x), net(x).flatten(1)[:, :4])
    jacobian = torch.func.vmap(torch.func.jacrev(alone))(x)
    _, forward = torch.func.vmap(lambda image: torch.func.jvp(alone, (image,), (image,)))(x)
    torch.testing.assert_close(forward, torch.einsum("nkchw,nchw->nk", jacobian, x))


def test_no_module_is_called_twice_and_gates_come_in_order(case):
    net, x = case
    calls, names = [], {module: name for name, module in net.named_modules()}
    for module in net.modules():
        module.register_forward_pre_hook(lambda module, inputs: calls.append(module))
    net.train()(x)
    assert len(calls) == len(set(calls))
    assert [names[module] for module in calls if isinstance(module, Gated)] == list(gates_of(net))


def test_nothing_works_in_place(case):
    "The input of every module, gates and activations within the net among them, is after the pass what it was before."
    net, x = case
    seen = []
    for module in net.modules():
        module.register_forward_hook(
            lambda module, inputs, output: seen.append(
                (inputs[0], inputs[0].detach().clone(), output, output.detach().clone())
            )
        )
    net(x)
    for given, before, made, after in seen:
        assert torch.equal(given, before) and torch.equal(made, after)


@pytest.fixture(scope="module")
def resnet():
    prepare_torchvision()
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return resnet18(num_classes=7).eval()


def test_resnet18_with_relu_gates_is_resnet18(resnet):
    gated, x = replace_activations(resnet, nn.ReLU, lambda channels: unit("relu", channels)), torch.randn(2, 3, 64, 64)
    assert len(gates_of(gated)) == 17  # one a call: the module in each block is called twice
    assert not any(isinstance(m, nn.ReLU) for m in gated.modules())
    torch.testing.assert_close(gated(x), resnet(x))
    assert gated.state_dict().keys() == resnet.state_dict().keys()


def test_resnet18_with_attention_trains(resnet):
    gated = replace_activations(resnet, nn.ReLU, lambda channels: unit("atac", channels)).train()
    gated(torch.randn(2, 3, 64, 64)).sum().backward()
    channels = {
        name: gate.gate.squeeze.in_channels
        for name, gate in gates_of(gated).items()
        if isinstance(gate.gate, type(unit("atac", 8).gate))
    }
    assert channels["relu"] == 64 and channels["layer4.1.relu_2"] == 512 and len(channels) == 17
    assert all(p.grad is not None for p in gated.parameters())


def test_other_peoples_gates_are_read_frozen_and_replaced(resnet):
    gated = replace_activations(resnet, nn.ReLU, lambda channels: unit("se", channels)).eval()
    x = torch.randn(2, 3, 64, 64)
    values = read_gates(gated, x)
    assert values["layer2.0.relu"].shape == (2, 128, 1, 1)
    expected = gated(x)
    with frozen_gates(gated, values):
        torch.testing.assert_close(gated(x), expected)
        assert not torch.allclose(gated(2 * x), gated(x))
    with pytest.raises(RuntimeError), frozen_gates(gated):
        raise RuntimeError
    assert all(gate.held is None for gate in gates_of(gated).values())
    replace_gate(gated, "layer2.0.relu", nn.Sigmoid())
    assert read_gates(gated, x)["layer2.0.relu"].shape == (2, 128, 8, 8)


class Functional(nn.Module):
    "A net as some torchvision ones are: an activation as a function, in place, and another way in training."

    def __init__(self, dropout):
        super().__init__()
        self.conv, self.other, self.dropout = nn.Conv2d(3, 8, 3), nn.Conv2d(16, 4, 3), dropout

    def forward(self, x):
        y = torch.cat([self.conv(x), self.conv(x)], 1)
        y = nn.functional.relu(y, inplace=True)
        return self.other(nn.functional.dropout(y, 0.5, self.training) if self.dropout else y).relu()


def test_functions_are_calls_too():
    torch.manual_seed(0)
    net, x = Functional(dropout=False), torch.randn(2, 3, 9, 9)
    gated = replace_activations(net, nn.ReLU, lambda channels: unit("relu", channels))
    assert list(gates_of(gated)) == ["relu", "relu_1"]
    torch.testing.assert_close(gated(x), net(x))
    seen = []
    replace_activations(net, nn.ReLU, lambda channels: seen.append(channels) or unit("relu", channels))
    assert seen == [16, 4]


def test_a_net_with_another_way_in_training_is_refused():
    with pytest.raises(InputError, match="takes another way in training"):
        replace_activations(Functional(dropout=True), nn.ReLU, lambda channels: unit("relu", channels))


def test_modules_called_once_are_replaced_where_they_stand():
    "So a net keeps what a trace would lose: here, dropout only in training."
    prepare_torchvision()
    from torchvision.models import efficientnet_b0

    net = replace_activations(efficientnet_b0(num_classes=3), nn.SiLU, lambda channels: unit("swish", channels)).eval()
    x = torch.randn(1, 3, 32, 32)
    assert len(gates_of(net)) == 49 and torch.equal(net(x), net(x))


class Over(nn.Module):
    "Goes on with what an activation wrote over; holds a layer that is never called, and one under a second name."

    def __init__(self, activate):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 1)
        self.relu = nn.ReLU(inplace=True)
        self.spare = nn.Sequential(nn.Conv2d(3, 3, 1))
        self.again, self.activate, self.scale = self.second, activate, nn.Parameter(torch.ones(3))
        self.register_buffer("note", torch.zeros(2), persistent=False)

    def forward(self, x):
        y = self.first(x)
        seen = self.activate(self, y)
        return self.second(seen) + y


@pytest.mark.parametrize(
    "activate",
    [
        lambda net, y: net.relu(y),
        lambda net, y: net.relu(input=y),
        lambda net, y: nn.functional.relu_(y),
        lambda net, y: y.relu_().relu_(),
        lambda net, y: nn.functional.relu(y, True),
        lambda net, y: nn.functional.relu(input=y),
        lambda net, y: nn.functional.relu_(nn.functional.avg_pool2d(y, 1)),
    ],
)
def test_an_activation_that_writes_over_its_input_is_the_same_as_a_unit(activate):
    torch.manual_seed(0)
    net, x = Over(activate), torch.randn(2, 3, 9, 9)
    gated = replace_activations(net, nn.ReLU, lambda channels: unit("relu", channels))
    torch.testing.assert_close(gated(x), net(x))
    gated.load_state_dict(net.state_dict())
    assert gates_of(gated) and gated.again.weight is gated.second.weight


def test_what_was_written_over_under_another_name_is_refused():
    before = lambda taken, written: taken
    for activate in (
        lambda net, y: net.relu(y.flatten(2)).view_as(y),
        lambda net, y: net.relu(y[:, :]),
        lambda net, y: before(y.float(), net.relu(y)),
        lambda net, y: before(y.swapaxes(2, 3), net.relu(y)).swapaxes(2, 3),
    ):
        with pytest.raises(InputError, match=r"relu works in place, and \w+ goes on with what it wrote over"):
            replace_activations(Over(activate), nn.ReLU, lambda channels: unit("relu", channels))


def test_units_are_of_the_nets_type_and_in_its_mode():
    net = (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()).double().eval()
    )
    net[4].train()
    gated = replace_activations(net, nn.ReLU, lambda channels: unit("atac", channels))
    assert {value.dtype for value in gated.state_dict().values() if value.is_floating_point()} == {torch.float64}
    assert [not part.training for part in (gated, gated[2], gated[2].gate.squeeze_norm, gated[4])] == [
        True,
        True,
        True,
        False,
    ]


def test_a_unit_for_maps_does_not_stand_behind_a_linear_layer():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 3)
    )
    with pytest.raises(InputError, match=r"make\(8\) gives no unit for vectors"):
        replace_activations(net, nn.ReLU, lambda channels: unit("atac", channels))
    for make in (
        lambda channels: unit("se", channels),
        lambda channels: unit("atac" if channels == 4 else "relu", channels),
    ):
        assert replace_activations(net, nn.ReLU, make)(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_what_hides_the_number_of_channels_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.ReLU())
    with pytest.raises(InputError, match="cannot tell how many channels"):
        replace_activations(net, nn.ReLU, lambda channels: unit("se", channels))


def test_gated_nets_are_pickled(resnet):
    gated = replace_activations(resnet, nn.ReLU, lambda channels: unit("se", channels))
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(pickle.loads(pickle.dumps(gated))(x), gated(x))


def test_frozen_blocks_nest():
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3), unit("se", 8)), torch.randn(2, 3, 8, 8)
    values = read_gates(net, x)
    with frozen_gates(net, values):
        held = net(2 * x)
        with frozen_gates(net):
            assert torch.equal(net(2 * x), held)


def test_reading_moves_nothing():
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3), unit("atac", 8)).train(), torch.randn(2, 3, 8, 8)
    before = deepcopy(net.state_dict())
    read_gates(net, x)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()) and net[1].gate.training


def test_a_net_that_cannot_be_traced_is_refused_in_one_line():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(x) if x.sum() > 0 else x

    with pytest.raises(InputError, match="Branching cannot be traced"):
        replace_activations(Branching(), nn.ReLU, lambda channels: unit("relu", channels))


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("name", [name for name in list_models() if name.endswith("resnet50")])
def test_the_imagenet_nets_train_at_their_full_size(name, size):
    torch.manual_seed(0)
    net = create_model(name, 3, size, 1000).train()
    logits = net(torch.randn(2 if name == "ge_resnet50" else 1, 3, size, size))  # its gathered maps are of one pixel
    torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)).backward()
    assert logits.shape[1:] == (1000,) and torch.isfinite(logits).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("name", [name for name in list_models() if name.endswith("resnet50")])
@pytest.mark.parametrize("size", [28, 36])
def test_the_imagenet_nets_take_sizes_that_do_not_halve(name, size):
    net = create_model(name, 3, size, 5, blocks=(1, 2, 1, 1), width=16)
    assert net(torch.randn(2, 3, size, size)).shape == (2, 5)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"image_size": 4}, "too small"),
        ({"in_channels": -1}, "in_channels must be a whole number"),
        ({"num_classes": 2.5}, "got 2.5"),
        ({"gate": "sse"}, "did you mean 'se'"),
        ({"reduction": 0}, "reduction must be a whole number of at least 1"),
        ({"kernel_size": "3"}, "kernel_size must be a whole number"),
        ({"padding": -1}, "padding must be a whole number of at least 0"),
        ({"widths": (-1, 2, 3)}, "widths must be a whole number"),
        ({"bias": "no"}, "bias is True or False"),
        ({"image_size": 10**7}, "at most 100000"),
        ({"initialisation": "kaiming"}, "unknown initialisation"),
        ({"activation": "rellu"}, "did you mean 'relu'"),
        ({"combine": "times"}, "unknown combine"),
    ],
)
def test_impossible_nets_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        create_model("am", **given)


class Joined(nn.Module):
    "Two maps, joined in some way before the activation."

    def __init__(self, join):
        super().__init__()
        self.one, self.eight, self.join, self.relu = nn.Conv2d(3, 1, 1), nn.Conv2d(3, 8, 1), join, nn.LeakyReLU()

    def forward(self, x):
        return self.relu(self.join(self.one(x), self.eight(x)))


@pytest.mark.parametrize(
    "join, channels",
    [
        (lambda one, eight: one * eight, 8),
        (lambda one, eight: torch.cat([one, eight], 1), 9),
        (lambda one, eight: torch.cat(tensors=[eight, eight], dim=-3), 16),
        (lambda one, eight: torch.cat([eight, eight], dim=2), None),
        (lambda one, eight: nn.functional.leaky_relu(eight), 8),
    ],
)
def test_the_channels_of_what_is_joined_are_counted_or_not_told(join, channels):
    seen = []
    make = lambda count: seen.append(count) or unit("relu", count)
    if channels is None:
        with pytest.raises(InputError, match="cannot tell how many channels"):
            replace_activations(Joined(join), nn.LeakyReLU, make)
    else:
        assert replace_activations(Joined(join), nn.LeakyReLU, make)(torch.rand(2, 3, 4, 4)).shape[1] == channels
        assert set(seen) == {channels}
