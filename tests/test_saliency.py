"""Maps, weights and importances: other libraries say the same, parts change nothing, nothing is left behind."""

import gc
import resource
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from captum import attr
from captum.attr import visualization
from torch import nn
from torch.nn import functional as F

from fmm_nb import maps, saliency
from fmm_nb.errors import InputError
from fmm_nb.fullgrad import fullgrad_terms
from fmm_nb.gates import Gated, SEGate, frozen_gates, read_gates, unit
from fmm_nb.models import ToyNet, create_model
from fmm_nb.saliency import (
    IMPORTANCES,
    FullGrad,
    SmoothFullGrad,
    attention_weights,
    channel_importance,
    channels_removed,
    explain,
    noisy_copies,
)


def net_and_images(model="am", count=5, **options):
    torch.manual_seed(0)
    net = create_model(model, image_size=16, widths=(8, 8, 8), **options).double().eval()
    return net, torch.randn(count, 1, 16, 16, dtype=torch.double)


# ----- definitions -----


def test_input_times_gradient_is_captums():
    net, x = net_and_images()
    target = net(x).argmax(1)
    for name, value in channel_importance(net, x, "gxa_in", signed=True).items():
        theirs = attr.LayerGradientXActivation(net, net.get_submodule(name)).attribute(
            x, target, attribute_to_layer_input=True
        )
        torch.testing.assert_close(value, theirs.sum((2, 3)))


@pytest.mark.parametrize("combine", ["mul", "add", "normalised"])
def test_the_gates_gradient_is_what_moving_the_gate_does(combine):
    net, x = net_and_images(count=2, combine=combine)
    gates, target, step = read_gates(net, x), net(x).argmax(1, keepdim=True), 1e-6
    for name, value in channel_importance(net, x, signed=True).items():
        for channel in (0, 5):
            moved = []
            for sign in (1, -1):
                at = gates[name].clone()
                at[:, channel] += sign * step
                later = [other for other in list(attention_weights(net, x)) if other <= name]  # gates behind it answer
                with torch.no_grad(), frozen_gates(net, {n: gates[n] for n in later} | {name: at}):
                    moved.append(net(x).gather(1, target)[:, 0])
            torch.testing.assert_close(value[:, channel], (moved[0] - moved[1]) / (2 * step), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("recompute", [False, True])
def test_ablation_is_a_forward_pass_without_the_channel(recompute):
    net, x = net_and_images(count=3)
    target, values = net(x).argmax(1, keepdim=True), read_gates(net, x)
    name = "features.1.gate"
    found = channel_importance(net, x, "ablation_recomputed" if recompute else "ablation", signed=True)[name]
    mask = torch.arange(8)[None] == 3
    with (
        torch.no_grad(),
        frozen_gates(net, {} if recompute else {n: v for n, v in values.items() if n in attention_weights(net, x)}),
    ):
        with channels_removed(net, {name: mask}):
            without = net(x).gather(1, target)[:, 0]
    torch.testing.assert_close(found[:, 3], net(x).detach().gather(1, target)[:, 0] - without)


def test_ablation_is_captums():
    net, x = net_and_images(count=3)
    gate, mask = net.features[2].gate, torch.arange(8)[None, :, None, None].expand(1, 8, 4, 4)
    theirs = attr.LayerFeatureAblation(net, gate).attribute(x, target=0, layer_baselines=0, layer_mask=mask)
    torch.testing.assert_close(
        channel_importance(net, x, "ablation", 0, signed=True)["features.2.gate"], theirs[:, :, 0, 0]
    )


def test_the_terms_of_a_bias_are_fullgrads():
    net, x = net_and_images()
    terms = fullgrad_terms(net, x).terms
    for place, value in enumerate(channel_importance(net, x, "bias_grad", signed=True).values()):
        torch.testing.assert_close(value.sum(1), terms[f"features.{place}.conv.conv2d"])


def test_absolute_values_within_the_sum_are_larger_and_smooth_means_a_mean():
    net, x = net_and_images()
    for name in saliency.BY_GRADIENT:
        plain, absolute, smooth = (
            channel_importance(net, x, form.format(name), 3, signed=True) for form in ("{}", "{}_abs_sum", "smooth_{}")
        )
        draws = [channel_importance(net, noisy, name, 3, signed=True) for noisy in noisy_copies(x, 25, 0.15, 0)]
        for gate in plain:
            assert (absolute[gate] >= plain[gate].abs() - 1e-12).all() and (
                absolute[gate] > plain[gate].abs() + 1e-9
            ).any()
            torch.testing.assert_close(smooth[gate], torch.stack([draw[gate] for draw in draws]).mean(0))


@pytest.mark.parametrize("model", ["am", "am_nomtp", "am_norl", "am_tanh", "am_shuffled"])
@pytest.mark.parametrize("method", IMPORTANCES)
def test_every_definition_has_the_shape_of_the_weights_and_a_size(model, method):
    net, x = net_and_images(model, count=2)
    if model == "am_shuffled" and "bias" in method:  # in evaluation its gate is a constant
        with pytest.raises(InputError, match="has no term of its own"):
            channel_importance(net, x, method)
        return
    weights, found = attention_weights(net, x), channel_importance(net, x, method)
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in weights.items()
    }
    assert len(found) == 3 and all(
        value.isfinite().all() and (value >= 0).all() and value.any() for value in found.values()
    )


def by_the_official_code(net, x):
    "FullGrad of a net of convolutions with BatchNorm, layer by layer and channel by channel."
    kept, hooks = [], []
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
            hooks.append(layer.register_forward_hook(lambda layer, inputs, output: kept.append((layer, output))))
    image = x.clone().requires_grad_()
    logits = net(image)
    [hook.remove() for hook in hooks]
    gradients = torch.autograd.grad(logits.amax(1).sum(), [image, *[output for _, output in kept]])

    def processed(term):
        term = term.abs().flatten(1)
        term = term - term.amin(1, keepdim=True)
        return (term / (term.amax(1, keepdim=True) + 1e-6)).view(shape)

    found = 0
    for place, gradient in enumerate(gradients):
        layer = kept[place - 1][0] if place else None
        shape = gradient.shape
        if isinstance(layer, nn.BatchNorm2d):
            bias = layer.bias - layer.running_mean * layer.weight / (layer.running_var + layer.eps).sqrt()
        else:
            bias = layer.bias if layer else None
        term = gradient * (x if layer is None else bias[:, None, None])
        found = found + F.interpolate(processed(term), x.shape[2:], mode="bilinear", align_corners=True).sum(
            1, keepdim=True
        )
    return found.detach()


def test_the_official_map_is_the_official_codes():
    torch.manual_seed(0)
    net = ToyNet(image_size=16, widths=(8, 8, 8), batch_norm=True).double().eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(), layer.running_var.uniform_(0.5, 1.5)
    x = torch.randn(4, 1, 16, 16, dtype=torch.double)
    torch.testing.assert_close(FullGrad(net).attribute(x), by_the_official_code(net, x))


# ----- odd nets -----


class Vectors(nn.Module):
    "A gate on vectors, and one whose output is written over."

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.on_maps = unit("se", 8)
        self.on_vectors = Gated(SEGate(8))
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x.mul_(2)
        y = self.on_maps(self.conv(x))
        y += 1
        return self.head(self.on_vectors(y.relu_().mean((2, 3))))


@pytest.mark.parametrize("postprocess", ["official", "signed"])
def test_an_image_of_one_pixel_has_a_map(postprocess):
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(3, 4)).double()
    x = torch.randn(5, 2, 1, 1, dtype=torch.float64)
    maps = FullGrad(net, postprocess).attribute(x)
    assert maps.shape == (5, 1, 1, 1)
    if postprocess == "signed":
        torch.testing.assert_close(maps.flatten() + net[3].bias[net(x).argmax(1)], net(x).amax(1))


def test_gates_on_vectors_and_steps_in_place():
    torch.manual_seed(0)
    net, x = Vectors().double(), torch.randn(3, 1, 8, 8, dtype=torch.double)
    kept, weights = x.clone(), attention_weights(net, x)
    gradient, output = (channel_importance(net, x, name, signed=True) for name in ("gate_grad", "gxa_out"))
    for name, value in weights.items():
        assert value.shape == (3, 8)
        torch.testing.assert_close(output[name], value * gradient[name])
    for method in IMPORTANCES.keys() - {
        "bias_grad",
        "bias_grad_abs_sum",
        "smooth_bias_grad",
        "integrated_gradients",
        "conductance",
    }:
        channel_importance(net, x, method)
    FullGrad(net).attribute(x), SmoothFullGrad(net).attribute(x, samples=2)
    assert torch.equal(x, kept)


def test_a_gate_that_is_used_twice_is_refused():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), gate := unit("se", 4), gate, nn.Flatten(), nn.Linear(4 * 36, 10))
    for use in (attention_weights, *[partial(channel_importance, method=method) for method in IMPORTANCES]):
        with pytest.raises(InputError, match="gate 1 is used more than once"):
            use(net, torch.rand(2, 1, 8, 8))


class Named(nn.Module):
    "A gate that is given its input by name, and one that is not used."

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.gate = unit("se", 4)
        self.spare = unit("se", 4)
        self.head = nn.Linear(4 * 36, 10)

    def forward(self, x):
        return self.head(self.gate(x=self.conv(x)).flatten(1))


def test_a_gate_may_be_given_its_input_by_name_and_must_be_used():
    torch.manual_seed(0)
    net, x = Named(), torch.rand(2, 1, 8, 8)
    for use in (channel_importance, attention_weights):
        with pytest.raises(InputError, match="gate spare is not used"):
            use(net, x)
    del net.spare
    by_place = nn.Sequential(net.conv, net.gate, nn.Flatten(), net.head)
    for method in IMPORTANCES:
        torch.testing.assert_close(
            channel_importance(net, x, method)["gate"], channel_importance(by_place, x, method)["1"]
        )


def test_a_net_without_attention_has_no_importances():
    assert (
        channel_importance(ToyNet(), torch.rand(2, 1, 28, 28))
        == attention_weights(ToyNet(), torch.rand(2, 1, 28, 28))
        == {}
    )


def test_integrated_gradients_of_a_net_that_writes_over_its_input():
    net, x = net_and_images(count=2)
    shifted = nn.Sequential(Shift(), net)
    for method in ("integrated_gradients", "conductance"):
        kept = x.clone()
        found = channel_importance(shifted, x, method)
        assert torch.equal(x, kept)
        alone = channel_importance(nn.Sequential(Shift(in_place=False), net), x, method)
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value)


class Shift(nn.Module):
    def __init__(self, in_place=True):
        super().__init__()
        self.in_place = in_place

    def forward(self, x):
        return x.sub_(0.5) if self.in_place else x - 0.5


def test_a_layer_behind_a_gate_is_not_before_it():
    net = nn.Sequential(
        Gated(nn.Conv2d(1, 1, 3, padding=1, bias=False), "add"),
        nn.Conv2d(1, 1, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 3),
    )
    with pytest.raises(InputError, match="0 has no term of its own"):
        channel_importance(net, torch.rand(2, 1, 8, 8), "bias_grad")


@pytest.mark.parametrize("method", ["bias_grad", "smooth_bias_grad"])
def test_a_gate_without_a_bias_before_it_is_named(method):
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), unit("se", 4), nn.Flatten(), nn.Linear(4 * 36, 10))
    with pytest.raises(InputError, match="stands before 1: take another method"):
        channel_importance(net, torch.rand(2, 1, 8, 8), method)


def test_maps_of_layers_whose_channels_lie_last():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.middle, self.head = nn.Conv2d(1, 4, 3, bias=False), nn.Linear(4, 6), nn.Linear(6, 10)

        def forward(self, x):
            return self.head(self.middle(self.first(x).permute(0, 2, 3, 1)).relu().mean((1, 2)))

    torch.manual_seed(0)
    net, x = Last().double(), torch.randn(2, 1, 12, 8, dtype=torch.double)
    as_convolution = nn.Sequential(
        net.first, nn.Conv2d(4, 6, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.head
    ).double()
    as_convolution[1].weight.data = net.middle.weight.data[:, :, None, None]
    as_convolution[1].bias.data = net.middle.bias.data
    torch.testing.assert_close(FullGrad(net).attribute(x), FullGrad(as_convolution).attribute(x))


class Turned(nn.Module):
    "A bias and an activation on maps whose channels lie last, or first."

    def __init__(self, last):
        super().__init__()
        self.linear_stem = nn.Conv2d(1, 4, 3)
        self.bias = nn.Parameter(torch.randn(4))
        self.head = nn.Conv2d(4, 3, 3)
        self.last = last

    def forward(self, x):
        y = self.linear_stem(x)
        y = (
            F.gelu(y.permute(0, 2, 3, 1) + self.bias).permute(0, 3, 1, 2)
            if self.last
            else F.gelu(y + self.bias[:, None, None])
        )
        return self.head(y).sum((2, 3))


def test_a_term_is_laid_where_its_map_is_or_left_out():
    torch.manual_seed(0)
    first, last, x = Turned(False).double(), Turned(True).double(), torch.randn(2, 1, 12, 8, dtype=torch.double)
    last.load_state_dict(first.state_dict())
    signed, seen = FullGrad(first, "signed"), FullGrad(last, "signed")
    target = first(x).argmax(1)
    whole, known = signed.terms(x, target), seen.terms(x, target)
    assert whole.keys() - known.keys() == {"add", "gelu"} and "linear_stem.conv2d" in known
    torch.testing.assert_close(known, {name: whole[name] for name in known})
    torch.testing.assert_close(signed.attribute(x).sum((1, 2, 3)), fullgrad_terms(first, x).output)


class Windows(nn.Module):
    "A bias on quarters of a map, which stand along the axis of the images."

    def __init__(self):
        super().__init__()
        self.stem, self.bias, self.head = nn.Conv2d(1, 4, 1), nn.Parameter(torch.randn(4, 4, 4)), nn.Conv2d(4, 3, 1)

    def forward(self, x):
        y = torch.cat(self.stem(x).split(4, 2))
        return self.head(torch.cat(F.relu(y + self.bias).split(len(x)), 2)).sum((2, 3))


def test_windows_of_a_map_are_no_maps():
    torch.manual_seed(0)
    net, x = Windows().double(), torch.randn(5, 1, 16, 4, dtype=torch.double)
    assert list(FullGrad(net).attribute(x[:1]).shape) == [1, 1, 16, 4]
    torch.testing.assert_close(
        FullGrad(net).attribute(x), torch.cat([FullGrad(net).attribute(one) for one in x.split(1)])
    )


# ----- parts and noise -----


@pytest.mark.parametrize("memory", [1, 2**40])
def test_parts_change_nothing(monkeypatch, memory):
    net, x = net_and_images(count=4)
    uses = [
        lambda: FullGrad(net).attribute(x),
        lambda: SmoothFullGrad(net).attribute(x, samples=5),
        lambda: attention_weights(net, x),
    ]
    uses += [lambda method=method: channel_importance(net, x, method) for method in IMPORTANCES]
    whole = [use() for use in uses]
    for module in (maps, saliency):
        monkeypatch.setattr(module, "fitting_size", lambda batch_size, x: 3)
    monkeypatch.setattr(maps, "MEMORY", memory)
    for want, use in zip(whole, uses):
        torch.testing.assert_close(use(), want)


def test_the_noise_is_the_seeds_the_image_its_own_and_the_class_the_clean_images():
    net, x = net_and_images(count=4)
    x[1] *= 100  # a bright mate
    smooth, state = SmoothFullGrad(net), torch.get_rng_state()
    first, again, other = (smooth.attribute(x, samples=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.allclose(first, other) and torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(smooth.attribute(x[:1], samples=3, seed=1), first[:1])
    torch.testing.assert_close(smooth.attribute(x, net(x).argmax(1), samples=3, seed=1), first)
    spread = (noisy_copies(x, 2000, 0.15, 0) - x).std((0, 2, 3, 4)) / (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))
    torch.testing.assert_close(spread, torch.full_like(spread, 0.15), rtol=0.02, atol=0)


def test_the_reported_error_is_that_of_the_map():
    net, x = net_and_images(count=3)
    smooth = SmoothFullGrad(net, "signed")
    found = [smooth.with_error(x, target=0, samples=10, seed=seed) for seed in range(40)]
    maps = torch.stack([one for one, _ in found])
    true = (maps - maps.mean(0)).square().sum((2, 3, 4)).mean(0).sqrt() / maps.mean(0).flatten(1).norm(dim=1)
    reported = torch.stack([error for _, error in found]).square().mean(0).sqrt()
    assert ((reported / true > 0.7) & (reported / true < 1.4)).all(), (reported, true)


@pytest.mark.parametrize("target", [[1, 2], torch.tensor([1, 2, 3, 4, 5, 6])])
def test_a_number_of_classes_that_is_not_the_images_is_refused(target):
    net, x = net_and_images()
    for use in (
        lambda: FullGrad(net).attribute(x, target),
        lambda: channel_importance(net, x, target=target),
        lambda: fullgrad_terms(net, x, target),
    ):
        with pytest.raises(InputError, match=r"one an image, \[5\]"):
            use()


# ----- other libraries -----


def test_captum_draws_a_map():
    net, x = net_and_images(count=1)
    figure, _ = visualization.visualize_image_attr(
        FullGrad(net).attribute(x)[0].movedim(0, -1).numpy(), sign="positive", use_pyplot=False
    )
    assert figure.axes


@pytest.mark.filterwarnings("ignore")
def test_quantus_takes_maps_as_they_come():
    import quantus

    net, x = net_and_images(count=4)
    y, net, x = net(x).argmax(1).numpy(), net.float(), x.float().numpy()
    metric = quantus.Sparseness(disable_warnings=True, display_progressbar=False)
    for method in (FullGrad, SmoothFullGrad):
        asked = metric(net, x, y, explain_func=explain, explain_func_kwargs={"method": method})
        given = metric(net, x, y, a_batch=explain(net, x, y, method))
        assert np.allclose(asked, given) and np.all(np.array(asked) > 0)


# ----- nothing is left behind -----


@pytest.mark.parametrize(
    "use",
    [
        lambda net, x: fullgrad_terms(net, x),
        lambda net, x: FullGrad(net).attribute(x),
        channel_importance,
        attention_weights,
    ],
)
def test_200_calls_leave_memory_and_the_net_as_they_were(use):
    net, x = net_and_images(count=2)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    tensors = lambda: (gc.collect(), sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects()))[1]
    resident = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    for _ in range(20):
        use(net, x)
    before, size = tensors(), resident()
    for _ in range(200):
        use(net, x)
    assert tensors() == before and resident() - size < 2**23
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_what_stands_on_no_known_axes_is_left_out_of_a_map():
    class Stacked(nn.Module):
        "Channels last without a permutation, or a layer along the width: whose term is no map of channels."

        def __init__(self, act):
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 3)
            self.row = nn.Linear(6, 6)
            self.bias = nn.Parameter(torch.randn(4))
            self.act = act
            self.head = nn.Conv2d(4, 3, 1)

        def forward(self, x):
            return self.head(self.act(self, self.stem(x))).mean((2, 3))

    last = Stacked(lambda net, y: (torch.stack(y.unbind(1), -1) + net.bias).relu().permute(0, 3, 1, 2))
    along = Stacked(lambda net, y: net.row(y).relu())
    for net in (last, along):
        torch.manual_seed(0)
        x = torch.randn(2, 1, 8, 8)
        shapes = {tuple(term.shape[2:]) for term in FullGrad(net).terms(x, net(x).argmax(1)).values()}
        assert shapes <= {(8, 8), (6, 6)} and FullGrad(net).attribute(x).shape == (2, 1, 8, 8)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read where Linux tells it")
def test_attention_weights_keep_no_maps_of_the_images_before(monkeypatch):
    held = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6  # megabytes
    seen = []
    monkeypatch.setattr(saliency, "read_gates", lambda *given: (seen.append(held()), read_gates(*given))[1])
    attention_weights(create_model("am").eval(), torch.rand(2000, 1, 28, 28))  # the maps of whose ReLUs are 330 MB
    assert len(seen) == 40 and seen[-1] - seen[1] < 100
