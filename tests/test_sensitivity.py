"Sensitivities leave a net as it was, do not depend on batches, and say what is wrong."

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fmm_nb import sensitivity
from fmm_nb.batches import stream
from fmm_nb.errors import InputError
from fmm_nb.models import create_model
from fmm_nb.sensitivity import (
    DEFINITIONS,
    OUTPUTS,
    jacobian_gram,
    jacobian_norm,
    jacobian_norms,
    jacobian_sensitivities,
    output_sensitivities,
    output_sensitivity,
)

MEASURES = {
    "jacobian": lambda net, x: jacobian_norms(net, x, batch_size=2),
    "jacobian_means": lambda net, x: jacobian_sensitivities(net, x, batch_size=2),
    "noise": lambda net, x: output_sensitivities(net, x, (0.1, 0.3), draws=2, batch_size=2),
}

UNTRACKED = nn.BatchNorm2d(2, track_running_stats=False)


class Probe(nn.Module):
    "A net that keeps the sizes of its batches, and raises at the one asked for."

    def __init__(self, net, fail_at=None):
        super().__init__()
        self.net, self.fail_at, self.sizes = net, fail_at, []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(self.sizes) == self.fail_at:
            raise RuntimeError("in the middle")
        return self.net(x)


@pytest.fixture
def case():
    torch.manual_seed(0)
    net = create_model("am", in_channels=2, image_size=8, num_classes=4, widths=(4, 4, 4), batch_norm=True).double()
    net(torch.randn(9, 2, 8, 8, dtype=torch.double))  # the running means leave their start
    return net, torch.rand(6, 2, 8, 8, dtype=torch.double)


def state(net, x):
    "All that a measure could leave behind."
    flags = [(p.requires_grad, p.grad is None, p._version) for p in net.parameters()]
    modes = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in net.modules()
    ]
    chance = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()
    values = {name: value.clone().tolist() for name, value in net.state_dict().items()}
    return flags, modes, chance, values, x.tolist(), x.requires_grad, torch.is_grad_enabled()


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("fail_at", [None, 3])
def test_leaves_everything_as_it_was(case, measure, fail_at):
    net, x = Probe(case[0], fail_at), case[1]
    net.train()
    net.net.features[1].eval()
    net.net.features[0].conv.weight.requires_grad_(False)
    before = state(net, x)
    if fail_at is None:
        MEASURES[measure](net, x)
    else:
        with pytest.raises(RuntimeError, match="in the middle"):
            MEASURES[measure](net, x)
    assert state(net, x) == before


def test_gradients_that_were_there_stay(case):
    net, x = case
    net(x).sum().backward()
    before = [p.grad.clone() for p in net.parameters()]
    jacobian_norm(net, x.requires_grad_())
    assert all(torch.equal(p.grad, old) for p, old in zip(net.parameters(), before)) and x.grad is None


def test_measures_work_where_gradients_are_off(case):
    net, x = case
    expected = jacobian_norm(net, x)
    with torch.no_grad():
        found = jacobian_norm(net, x)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_image_has_its_own_jacobian(case, output):
    net, x = case
    whole = jacobian_norm(net.train(), x, output)
    for size in (1, 4):
        torch.testing.assert_close(jacobian_norm(net, x, output, batch_size=size), whole)
    torch.testing.assert_close(jacobian_norm(net, x.flip(0), output).flip(0), whole)


class Shifted(nn.Module):
    "A net that writes over its input."

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.sub_(0.5))


def test_a_net_that_writes_over_its_input_is_measured_where_it_was_shown(case):
    net, x = case
    given = x.clone()
    torch.testing.assert_close(jacobian_norm(Shifted(net), x), jacobian_norm(net, x - 0.5))
    assert output_sensitivity(Shifted(net), x, draws=2) == pytest.approx(
        output_sensitivity(net, x - 0.5, draws=2), rel=1e-9
    )
    assert torch.equal(x, given)


def test_a_jacobian_in_half_precision_does_not_overflow(case):
    net, x = case
    net.classifier.weight.data *= 10**5
    whole = jacobian_norm(net, x)
    assert whole.max() > 256
    for output in ("logits", "spectral"):
        torch.testing.assert_close(
            jacobian_norm(net.half(), x.half(), output).double(),
            jacobian_norm(net.double(), x, output),
            rtol=0.02,
            atol=0,
        )


def test_batches_and_precision_do_not_change_the_noise(case):
    net, x = case
    whole = output_sensitivities(net, x, (0.1,), draws=3, batch_size=6)[0.1]
    for size in (1, 4):
        assert output_sensitivities(net, x, (0.1,), draws=3, batch_size=size)[0.1] == pytest.approx(whole, rel=1e-9)
    single = output_sensitivities(copy.deepcopy(net).float(), x.float(), (0.1,), draws=3)[0.1]
    assert single == pytest.approx(whole, rel=1e-3)
    assert output_sensitivities(net, x, (0.3, 0.1), draws=3)[0.1] == pytest.approx(whole, rel=1e-9)
    assert output_sensitivity(net, x, seed=1) != output_sensitivity(net, x, seed=0)


def test_definitions_are_what_they_say(case):
    net, x = case
    unit, net = torch.tensor([2.0, 3.0]), net.eval()
    found = output_sensitivities(net, x, (0.1,), draws=2, seed=5, unit=unit)[0.1]
    expected = dict.fromkeys(DEFINITIONS, 0.0)
    with torch.no_grad():
        before = net(x).numpy()
        for draw in range(2):
            noise = stream(5, "noise", draw).standard_normal(x.shape, "float32") * np.array([2.0, 3.0])[:, None, None]
            after = net(x + 0.1 * torch.from_numpy(noise)).numpy()
            change, centred = after - before, lambda z: z - z.mean(1, keepdims=True)
            soft = lambda z: np.exp(z) / np.exp(z).sum(1, keepdims=True)
            expected["official"] += change.mean(1).var() / 2
            expected["per_class"] += change.var(0).mean() / 2
            expected["centred"] += (centred(change) ** 2).sum(1).mean() / 2
            expected["probabilities"] += ((soft(after) - soft(before)) ** 2).sum(1).mean() / 2
            expected["temperature_matched"] += (centred(change) ** 2).sum(1).mean() / centred(before).var(0).sum() / 2
    assert found == pytest.approx(expected, rel=1e-9)


def test_means_of_the_jacobian_are_what_they_say(case):
    net, x = case
    found, unit = jacobian_sensitivities(net, x, torch.tensor([2.0, 3.0]), batch_size=4), torch.tensor([2.0, 3.0])
    whole = torch.func.vmap(torch.func.jacrev(lambda image: net.eval()(image[None])[0]))(x) * unit[:, None, None]
    logits = net(x)
    centred = whole - whole.mean(1, keepdim=True)
    spread = (logits - logits.mean(1, keepdim=True)).var(0, correction=0).sum()
    assert found["logits"] == pytest.approx(whole.flatten(1).norm(dim=1).mean().item(), rel=1e-9)
    assert found["squared"] == pytest.approx(whole.flatten(1).square().sum(1).mean().item(), rel=1e-9)
    assert found["centred"] == pytest.approx(centred.flatten(1).norm(dim=1).mean().item(), rel=1e-9)
    assert found["temperature_matched"] == pytest.approx(
        (centred.flatten(1).square().sum(1).mean() / spread).sqrt().item(), rel=1e-9
    )


def test_half_gates_are_a_smaller_learning_rate_bit_for_bit():
    torch.manual_seed(0)
    half = create_model("am_half", image_size=8, widths=(8, 8, 8)).train()
    cnn = create_model("cnn", image_size=8, widths=(8, 8, 8)).train()
    cnn.load_state_dict(half.state_dict())
    scaled = [cnn.features[1].conv.weight, cnn.features[2].conv.weight, cnn.classifier.weight]
    with torch.no_grad():
        for weight in scaled:
            weight /= 2
    rest = [p for p in cnn.parameters() if all(p is not weight for weight in scaled)]
    steps = [
        torch.optim.SGD(half.parameters(), lr=0.125, momentum=0.5),
        torch.optim.SGD([{"params": rest}, {"params": scaled, "lr": 0.125 / 4}], lr=0.125, momentum=0.5),
    ]
    start = cnn.features[1].conv.weight.detach().clone()
    for _ in range(20):
        x, y = torch.rand(10, 1, 8, 8), torch.randint(10, (10,))
        for net, step in zip((half, cnn), steps):
            step.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            step.step()
    assert not torch.equal(cnn.features[1].conv.weight, start)
    x = torch.rand(20, 1, 8, 8)
    for output in OUTPUTS:
        assert torch.equal(jacobian_norm(half, x, output), jacobian_norm(cnn, x, output))
    assert output_sensitivities(half, x, draws=2) == output_sensitivities(cnn, x, draws=2)


@pytest.mark.parametrize("output", ["centred", "probabilities", "margin"])
def test_what_all_logits_have_in_common_hides_no_difference(output):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), torch.randn(4, 1, 8, 8)
    net[1].weight.data += 1e4 * torch.randn(64)
    net[1].bias.data -= net(x).mean(0)
    expected = jacobian_norm(copy.deepcopy(net).double(), x.double(), output)
    torch.testing.assert_close(jacobian_norm(net, x, output).double(), expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_jacobian_is_counted_as_it_is_held(dtype):
    net, image = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).to(dtype), torch.randn(1, 1, 8, 8, dtype=dtype)
    # twice, in float64, and the input
    assert sensitivity.kept_bytes(net, image) == 2 * 5 * 64 * 8 + 64 * dtype.itemsize


def test_batches_shrink_until_they_fit(case, monkeypatch):
    net, x = case
    kept = sensitivity.kept_bytes(net.eval(), x[:1])
    assert kept > 2 * 4 * x[0].numel() * 8 + 2 * 4 * 64 * 8  # two Jacobians, and at least two maps of the first layer
    expected = jacobian_gram(net, x)[0]
    for memory, most in ((kept - 1, 1), (2 * kept, 2)):
        monkeypatch.setattr(sensitivity, "MEMORY", memory)
        probe = Probe(net)
        torch.testing.assert_close(jacobian_gram(probe, x)[0], expected)
        assert max(probe.sizes) == most


def test_a_net_that_diverged_gives_nan_and_no_error(case):
    net, x = case
    x[2] = torch.nan
    for values in jacobian_norms(net, x).values():
        assert values[2].isnan() and values[[0, 1, 3, 4, 5]].isfinite().all()
    assert all(np.isnan(value) for value in output_sensitivities(net, x, (0.1,), draws=1)[0.1].values())


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda net, x: jacobian_norm(net, x[0]), "got torch.float64 [2, 8, 8]"),
        (lambda net, x: jacobian_norm(net, x[:0]), "got torch.float64 [0, 2, 8, 8]"),
        (lambda net, x: jacobian_norm(net, x.mul(255).byte()), "scale bytes with"),
        (lambda net, x: jacobian_norm(net, x.numpy()), "got ndarray"),
        (lambda net, x: jacobian_norm(net.features, x), "must give logits [N, K]"),
        (lambda net, x: jacobian_norm(net, x, "probability"), "did you mean 'probabilities'?"),
        (lambda net, x: jacobian_norm(net, x, batch_size=0), "batch_size must be a whole number of at least 1"),
        (lambda net, x: jacobian_norm(net, x, unit=torch.ones(3)), "one number a channel, [2], got [3]"),
        (
            lambda net, x: jacobian_norm(nn.Sequential(nn.Flatten(), nn.Linear(128, 1)).double(), x, "margin"),
            "this net has 1",
        ),
        (lambda net, x: jacobian_norm(nn.Sequential(UNTRACKED, net), x), "give it running statistics"),
        (lambda net, x: output_sensitivity(nn.Sequential(UNTRACKED, net), x), "give it running statistics"),
        (lambda net, x: output_sensitivity(net, x[:1]), "at least 2 images, got 1"),
        (lambda net, x: output_sensitivity(net, x, sigma=0), "σ above 0"),
        (lambda net, x: output_sensitivity(net, x, sigma=float("nan")), "σ above 0"),
        (lambda net, x: output_sensitivity(net, x, draws=0), "draws must be a whole number of at least 1"),
        (lambda net, x: output_sensitivity(net, x, seed=-1), "seed must be a whole number of at least 0"),
        (lambda net, x: output_sensitivity(net, x, definition="offical"), "did you mean 'official'?"),
    ],
)
def test_mistakes_are_named(case, call, text):
    with pytest.raises(InputError) as error:
        call(*case)
    assert text in str(error.value)


def test_a_net_through_which_no_gradient_reaches_the_image_is_told():
    class Apart(nn.Linear):
        def forward(self, x):
            return super().forward(x.detach().flatten(1))

    with pytest.raises(InputError, match="what Apart gives does not follow from the image"):
        jacobian_norm(Apart(4, 3), torch.rand(2, 1, 2, 2))
