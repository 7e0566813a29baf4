"Trajectories leave a net as it was, stream their points, and say what is wrong."

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from fmm_nb.errors import InputError
from fmm_nb.gates import Gated, ReLUGate, SEGate
from fmm_nb.models import create_model
from fmm_nb.trajectories import (
    SAMPLING,
    Paths,
    chord,
    chord_weights,
    curves,
    ellipse,
    ellipse_weights,
    first_layer_transitions,
    linear_residual,
    piece,
    roughness,
    transitions,
    triples,
)


class Probe(nn.Module):
    "A net that keeps the sizes of its batches, and raises at the one asked for."

    def __init__(self, net, fail_at=None):
        super().__init__()
        self.net, self.fail_at, self.sizes = net, fail_at, []

    def forward(self, x):
        self.sizes.append(len(x))
        y = self.net(x)
        if len(self.sizes) == self.fail_at:
            raise RuntimeError("in the middle")
        return y


@pytest.fixture
def case():
    torch.manual_seed(0)
    net = create_model("am", image_size=8, num_classes=4, widths=(4, 4, 4), batch_norm=True).double()
    net(torch.randn(9, 1, 8, 8, dtype=torch.double))  # the running means leave their start
    return net, torch.rand(5, 3, 1, 8, 8, dtype=torch.double)


MEASURES = {
    "curves": (lambda net, x: curves(net, Paths(ellipse_weights(20), x), batch_size=7), 2),
    "many nets": (lambda net, x: curves([net, net], Paths(ellipse_weights(20), x), batch_size=7), 3),
    "transitions": (lambda net, x: transitions(net, Paths(ellipse_weights(20), x), batch_size=7), 2),
    "first layer": (lambda net, x: first_layer_transitions(net, x[0]), 1),
    "residual": (lambda net, x: linear_residual(net, x[0, :1], x[0, 1:2]), 2),
    "triples": (lambda net, x: triples(torch.arange(60) % 5, 9), None),
}


def state(net, x):
    "All that a measure could leave behind."
    flags = [(p.requires_grad, p.grad is None, p._version) for p in net.parameters()]
    modes = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in net.modules()
    ]
    chance = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()
    values = {name: value.clone().tolist() for name, value in net.state_dict().items()}
    return flags, modes, chance, values, x.tolist(), torch.is_grad_enabled()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", MEASURES)
def test_leaves_everything_as_it_was(case, name, fails):
    measure, fail_at = MEASURES[name]
    net, x = Probe(case[0], fail_at if fails else None), case[1]
    net.train()
    net.net.features[1].eval()
    before = state(net, x)
    if fails and fail_at:
        with pytest.raises(RuntimeError, match="in the middle"):
            measure(net, x)
    else:
        measure(net, x)
    assert state(net, x) == before


def test_points_of_paths_are_those_of_each_ellipse(case):
    net, x = case
    paths = Paths(ellipse_weights(20), x)
    alone = torch.stack([curves(net, ellipse(*images, points=20)) for images in x])
    for size in (1, 7, 20, 33, 1000):
        assert_close(curves(net, paths, batch_size=size), alone)
    own = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0], [0, 0]])
    assert_close(curves(net, paths, own, batch_size=33), alone.gather(2, own[:, None].expand(-1, 20, -1)))
    other = create_model("cnn", image_size=8, num_classes=4).double()
    assert_close(curves([net, other], paths, [2]), torch.stack([curves(one, paths)[..., [2]] for one in (net, other)]))
    assert_close(curves(net, paths, [1], "probabilities"), alone.softmax(-1)[..., [1]])
    assert_close(curves(net, paths, [1], "centred"), alone[..., [1]] - alone.mean(-1, keepdim=True))


class Shifted(nn.Module):
    "A net that writes over its input, and has a ReLU before."

    def __init__(self, net):
        super().__init__()
        self.net, self.relu = net, nn.ReLU(inplace=True)

    def forward(self, x):
        return self.net(self.relu(x.sub_(0.5)))


def test_a_net_that_writes_over_its_input_is_shown_the_path(case):
    net, x = case
    path, shifted = ellipse(*x[0], points=40), Shifted(net)
    given = path.clone()
    own = curves(net, F.relu(path - 0.5))
    assert_close(curves([shifted, shifted], path), torch.stack([own, own]))
    counts = transitions(shifted, path)
    assert counts == transitions(shifted, path) and sum(counts.values()) > 0
    with piece(shifted, path[:1]):
        pass
    assert torch.equal(path, given)


def test_points_are_in_evaluation_mode_and_independent(case):
    net, x = case
    path = ellipse(*x[0], points=20)
    assert_close(curves(net.train(), path)[3:4], curves(net, path[3:4]))


def test_a_million_points_are_made_and_forgotten():
    net = Probe(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    long = Paths(ellipse_weights(1_000_000), torch.rand(1, 3, 1, 2, 2))
    assert curves(net, long, [1], batch_size=50_000).shape == (1, 1_000_000, 1)
    assert set(net.sizes) == {50_000}
    assert len(Paths(ellipse_weights(1_000_000), torch.rand(1, 3, 1, 1, 1).expand(10**6, 3, 3, 224, 224))) == 10**12


def test_paths_keep_type_and_pass_their_images(case):
    for dtype in (torch.float32, torch.float64):
        images = case[1][0].to(dtype)
        path = ellipse(*images, points=9)
        assert path.dtype == dtype
        assert_close(path[[0, 3, 6]], images)
        assert_close(ellipse(*images[:, None], points=9), path)
        assert_close(chord(*images[:2], points=9)[[0, -1]], images[:2])
    assert ellipse(*case[1][0]).shape == (256, 1, 8, 8)


@pytest.mark.parametrize("points", [18, 19, 120, 255, 256])
def test_roughness_of_known_curves(points):
    angle = 2 * math.pi * torch.arange(points, dtype=torch.double)[:, None] / points
    found = roughness(
        torch.cat([torch.cos(angle), torch.cos(angle) + 0.5 * torch.cos(3 * angle + 1), torch.sin(9 * angle + 0.3)], 1)
    )
    assert_close(found["beyond_linear"], torch.tensor([0, 0.2, 1], dtype=torch.double))
    assert_close(found["high_harmonics"], torch.tensor([0, 0, 1], dtype=torch.double))
    assert_close(found["spectral_centroid"], torch.tensor([1, 1.4, 9], dtype=torch.double))
    if points >= 255:
        near = (
            (1 - math.cos(math.pi / 18)) / (math.pi / 18),
            math.sin(math.radians(120)) * math.sin(math.pi / 18) / (math.pi / 18),
        )
        assert_close(found["slope_at_points"][0].item(), (near[0] + 2 * near[1]) / 3 / 2, rtol=0.02, atol=0)
        assert_close(found["arc"][0].item(), 4.0, rtol=1e-3, atol=0)
        assert_close(found["slope_variation"][0].item(), 4.0, rtol=1e-3, atol=0)
    assert set(found) == set(SAMPLING)


def test_the_last_harmonic_of_an_even_number_of_points_counts_once():
    angle = 2 * math.pi * torch.arange(64, dtype=torch.double)[:, None] / 64
    curve = torch.cos(angle) + torch.cos(32 * angle)
    assert_close(roughness(curve)["beyond_linear"], 1 - torch.cos(angle).square().sum(0) / curve.square().sum(0))


def test_roughness_of_chords():
    way = torch.linspace(0, 1, 101, dtype=torch.double)[:, None]
    found = roughness(torch.cat([3 * way + 1, (way - 0.5).abs()], 1), closed=False)
    assert_close(found["arc"], torch.tensor([3, 1], dtype=torch.double))
    assert_close(found["slope_variation"], torch.tensor([0, 2], dtype=torch.double))
    assert_close(found["beyond_linear"], torch.tensor([0, 1], dtype=torch.double))


@pytest.mark.parametrize("closed", [True, False])
def test_what_has_no_shape_is_nan_in_its_own_column_only(closed):
    curve = torch.rand(64, 4, dtype=torch.double)
    expected = roughness(curve[:, :1], closed)
    curve[:, 1], curve[5, 2], curve[7, 3] = 0.1, torch.nan, torch.inf
    for name, values in roughness(curve, closed).items():
        assert_close(values[:1], expected[name])
        assert not values[2:].isfinite().any()
        assert values[1] == 0 if name in ("range", "arc", "slope_variation") else values[1].isnan()
    together = roughness(curve[None].expand(3, 2, 64, 4), closed)
    assert all(values.shape == (3, 2, 4) for values in together.values())


class Twice(nn.Module):
    "A net that calls one in-place ReLU twice, as torchvision's do, and has a gate with a ReLU inside."

    def __init__(self, width=12):
        super().__init__()
        self.first, self.second, self.relu = nn.Linear(16, width), nn.Linear(width, 12), nn.ReLU(inplace=True)
        self.gate = Gated(SEGate(12, reduction=1))

    def forward(self, x):
        return self.gate(self.relu(self.second(self.relu(self.first(x.flatten(1))))))


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("exponent", [-1000, -600, 600, 1000])
def test_shape_is_free_of_scale_where_squares_have_no_room(closed, exponent):
    curve = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = (roughness(values, closed) for values in (curve, curve * 2.0**exponent))
    for name in set(ours) - {"range", "arc", "slope_variation"}:
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-12, atol=0)


def test_transitions_are_switches_of_the_trunk():
    torch.manual_seed(0)
    net, x = Twice().double(), torch.randn(2, 3, 1, 4, 4, dtype=torch.double)
    paths = Paths(ellipse_weights(50), x)
    expected = []
    for images in x:
        hidden = net.first(ellipse(*images, points=50).flatten(1))
        signs = {"relu": hidden > 0, "relu_2": net.second(hidden.relu()) > 0}
        expected.append({name: (on != on.roll(1, 0)).sum().item() for name, on in signs.items()})
    for size in (1, 7, 50, 100):
        assert transitions(net, paths, batch_size=size) == expected
    assert transitions(net, ellipse(*x[0], points=50), per_unit=True) == {
        name: n / 12 for name, n in expected[0].items()
    }
    assert all(n % 2 == 0 and n > 0 for found in expected for n in found.values())  # a closed way ends where it began
    half = ellipse(*x[0], points=50)[:25]
    assert sum(transitions(net, half, closed=False).values()) < sum(transitions(net, half).values())


def test_the_exact_count_is_reached_from_below():
    torch.manual_seed(0)
    net, images = Twice(width=300).double(), torch.randn(3, 1, 4, 4, dtype=torch.double)
    exact = first_layer_transitions(net, images)
    counts = [transitions(net, ellipse(*images, points=5 * 4**i))["relu"] for i in range(6)]
    assert counts == sorted(counts) and counts[0] < counts[-1] == exact


class Again(nn.Module):
    "One ReLU that is called twice, in place, and a pool."

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        y = self.pool(self.relu(self.conv(x)))
        return self.head(self.relu(y - 0.1).flatten(1))


def test_a_piece_is_the_net_in_its_region_and_a_line_everywhere():
    torch.manual_seed(0)
    net, x = Again().double(), torch.rand(1, 1, 8, 8, dtype=torch.double)
    near, far = (x + size * torch.randn(5, 1, 8, 8, dtype=torch.double) for size in (1e-9, 10))
    before, inside = net(torch.cat([near, far])), net(near)
    slope = torch.func.vmap(torch.func.jacrev(lambda one: net(one[None])[0]))(x)
    with piece(net, x):
        assert_close(net(near), inside)
        assert_close(net(far), net(x) + torch.einsum("okchw,nchw->nk", slope, far - x))
    assert_close(net(torch.cat([near, far])), before)
    assert linear_residual(net, x, 100 * torch.rand_like(x)).max() < 1e-12


@pytest.mark.parametrize("combine", ["mul", "add", "normalised"])
def test_a_piece_keeps_gates_modes_and_what_stands_around_it(combine):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), Gated(ReLUGate(), combine), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    ).double()
    x, before = torch.rand(1, 1, 8, 8, dtype=torch.double), deepcopy(net.state_dict())
    wanted = deepcopy(net).eval()(x)
    with piece(net, x):
        with piece(net, x + 5):
            pass
        assert_close(net(x), wanted)
        assert not net.training
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_net_that_fails_within_a_piece_is_itself_again():
    net, x = Again().double(), torch.rand(1, 1, 8, 8, dtype=torch.double)
    with pytest.raises(RuntimeError), piece(net, x):
        net(x[..., :4])
    with pytest.raises(RuntimeError), piece(net, x.float()):
        pass
    assert not any("forward" in vars(module) for module in net.modules())


@pytest.mark.parametrize("kind", ["cross_class", "single_class"])
def test_triples_depend_on_the_seed_alone(kind):
    labels = torch.arange(300) % 7
    whole = triples(labels, 40, kind, seed=3)
    assert torch.equal(triples(labels, 5, kind, seed=3), whole[:5])
    assert not torch.equal(triples(labels, 40, kind, seed=4), whole)
    assert (labels[whole].sort(1).values.diff(dim=1) == 0).all().item() == (kind == "single_class")
    assert len(labels[whole].unique()) == 7


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda net, x: ellipse(x[0, 0], x[0, 1], x[0, 2][:, :4]), "one shape [C, H, W]"),
        (lambda net, x: ellipse(*x[0].mul(255).byte()), "must be a float tensor"),
        (lambda net, x: ellipse(*x[0, :, 0]), "[N, C, H, W], got torch.float64 [3, 8, 8]"),
        (lambda net, x: ellipse(*x[0], points=1), "points must be a whole number of at least 2"),
        (lambda net, x: Paths(chord_weights(5), x), "got [5, 2] and torch.float64 [5, 3, 1, 8, 8]"),
        (lambda net, x: Paths(ellipse_weights(5), x[0]), "float images [T, A, C, H, W]"),
        (lambda net, x: curves(net, x[0, 0]), "got torch.float64 [1, 8, 8]"),
        (lambda net, x: curves(net, x[0], [4]), "classes from 0 to 3, got [4]"),
        (lambda net, x: curves(net, x[0], [-1]), "classes from 0 to 3, got [-1]"),
        (lambda net, x: curves(net, x[0], [0.5]), "got [0.5]"),
        (lambda net, x: curves(net, x[0], output="logit"), "did you mean 'logits'?"),
        (lambda net, x: curves(net.features, x[0]), "must give logits [N, K]"),
        (lambda net, x: curves(net, x[0], batch_size=0), "batch_size must be"),
        (lambda net, x: transitions(net, x[0], batch_size=0), "batch_size must be"),
        (lambda net, x: roughness(torch.rand(1, 3)), "at least 18 points, got [1, 3]"),
        (lambda net, x: roughness(torch.rand(64)), "got [64]"),
        (lambda net, x: transitions(nn.Flatten(), x[0]), "Flatten has no ReLU on its trunk"),
        (lambda net, x: linear_residual(net, x[0], x[0]), "must be float64 [1, C, H, W]"),
        (
            lambda net, x: linear_residual(net, x[0, :1], x[0, :1], degree=128),
            "degree must be a whole number of at most 127, got 128",
        ),
        (lambda net, x: piece(net, x[0]).__enter__(), "of one image [1, C, H, W], got [3, 1, 8, 8]"),
        (lambda net, x: triples(torch.arange(9) % 2, 3), "cross_class triples need 3 classes"),
        (lambda net, x: triples(torch.arange(4), 3, "single_class"), "with at least 3 images, got 0"),
        (lambda net, x: triples(torch.arange(9), 0), "count must be a whole number of at least 1"),
        (lambda net, x: triples(torch.arange(9), 3, "cross"), "did you mean 'cross_class'"),
    ],
)
def test_mistakes_are_named(case, call, text):
    with pytest.raises(InputError) as error:
        call(*case)
    assert text in str(error.value)
