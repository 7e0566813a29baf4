"""Whatever is given: the right answer, or our error in one line. Never another exception."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fmm_nb import statistics
from fmm_nb.activations import replace_activations
from fmm_nb.agreement import cosine, kendall_tau, permutation_null
from fmm_nb.canvas import on_canvas
from fmm_nb.claims import table, told_reported, trace, verdict
from fmm_nb.cli import main
from fmm_nb.data import load
from fmm_nb.diagnostics import signals
from fmm_nb.errors import InputError
from fmm_nb.gates import replace_gate, unit
from fmm_nb.imagenet import Recipe, rate_at
from fmm_nb.landscapes import WEIGHTS, landscape, places, slope_variation
from fmm_nb.measures import packed, unpacked
from fmm_nb.models import create_model
from fmm_nb.pictures import write_pictures
from fmm_nb.results import reported
from fmm_nb.saliency import FullGrad, attention_weights, channel_importance, channels_removed, fullgrad_terms
from fmm_nb.sensitivity import jacobian_norm, output_sensitivities, output_sensitivity
from fmm_nb.specs import Protocol, Spec, from_dict, to_dict
from fmm_nb.tables import append_rows, read_rows
from fmm_nb.trajectories import chord, curves, ellipse, roughness

LETTERS = "am03_-[]:é中\n\0 '/."
few = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 400),
    st.integers(),
    st.floats(),
    st.text(LETTERS, max_size=5),
    st.just([]),
    st.just(()),
    st.lists(st.floats(), max_size=2),
)
numbers = st.lists(
    st.floats(width=32) | st.sampled_from([0.0, 1.0, float("nan"), float("inf"), 1e308, -1e308]), max_size=6
)


def answer(call):
    "What a call gives, or None where it refuses in one line."
    try:
        return call()
    except InputError as error:
        assert str(error) and "\n" not in str(error)


@few
@given(st.dictionaries(st.sampled_from([*Protocol.__dataclass_fields__]), anything, max_size=3))
def test_protocols(fields):
    protocol = answer(lambda: Protocol(**fields))
    if protocol is not None:
        assert from_dict(json.loads(json.dumps(to_dict(Spec("cnn", "mnist_mini", protocol))))) == Spec(
            "cnn", "mnist_mini", protocol
        )


@few
@given(
    st.sampled_from(["cnn", "am", "wrn16_4", "", "cn", "wrn16_", "resnet_b0_atac"]) | st.text(LETTERS, max_size=8),
    st.sampled_from(["mnist_mini", "mnits", "cifar10[9]"]) | anything,
    anything,
    anything,
)
def test_specs(model, data, seed, n_train):
    spec = answer(lambda: Spec(model, data, Protocol(), seed, n_train))
    assert spec is None or (spec.seed >= 0 and (spec.n_train is None or spec.n_train > 0))


@few
@given(numbers, numbers, st.booleans())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_effects(a, b, paired):
    found = answer(lambda: statistics.effect(a, b, paired=paired))
    if found is not None and math.isfinite(found.low + found.high):
        assert found.low <= found.difference <= found.high and 0 <= found.p <= 1


@few
@given(st.lists(st.floats(0, 1) | st.floats(), max_size=6))
def test_holm(ps):
    found = answer(lambda: statistics.holm(ps))
    assert found is None or all(
        math.isnan(p) or not p > q and (math.isnan(q) or 0 <= q <= 1) for p, q in zip(ps, found)
    )


@few
@given(st.lists(numbers | st.sampled_from([["a", "b"], [[1.0], [2.0]], None, 3.0]), max_size=3), numbers)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_contrasts(arms, weights):
    assert answer(lambda: statistics.contrast(arms, weights)) is None or len(arms) == len(weights)


@few
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=2), st.integers(0, 2))
def test_the_variance_of_images(shapes, weights):
    arms = [np.arange(math.prod(shape)).reshape(shape) % 2 for shape in shapes]
    found = answer(lambda: statistics.image_variance(arms, [1.0] * weights))
    assert found is None or (len(arms) == weights and found[0] >= 0 and found[1] == arms[0].shape[1] - 1 > 0)


@few
@given(anything, anything, st.just(0.95) | anything)
def test_shares(successes, trials, confidence):
    found = answer(lambda: statistics.share_interval(successes, trials, confidence))
    assert found is None or 0 <= found[1] <= found[0] <= found[2] <= 1


@few
@given(
    st.floats() | st.floats(0, 10),
    st.floats() | st.floats(1, 50),
    st.floats() | st.floats(0, 1),
    st.floats() | st.floats(0, 1),
)
def test_detectable_differences(error, df, wanted, alpha):
    found = answer(lambda: statistics.detectable(error, df, wanted, alpha))
    assert found is None or found == 0 or statistics.power(found, error, df, alpha) == pytest.approx(wanted, abs=1e-6)


@few
@given(numbers, numbers, st.lists(st.sampled_from("ab"), max_size=6))
def test_correlations_of_runs(a, b, arms):
    found = answer(lambda: statistics.correlations(a, b, arms))
    assert found is None or all(math.isnan(value) or abs(value) <= 1 + 1e-9 for value in found.values())


@few
@given(st.lists(st.booleans(), max_size=40))
def test_bits(bits):
    assert unpacked(packed(np.array(bits, bool))).tolist() == bits


@few
@given(st.lists(st.floats(), min_size=1, max_size=4), st.text(LETTERS, min_size=1, max_size=5))
def test_rows_come_back_bit_for_bit(tmp_path_factory, values, name):
    path = tmp_path_factory.mktemp("rows") / "table.csv"
    new = pd.DataFrame({"key": [f"{i:016x}" for i in range(len(values))], "seed": range(len(values)), "value": values})
    new = new.assign(measure_version=1, model="am", data="mnist", precision="float32")
    append_rows(path, new)
    assert np.array_equal(read_rows(path).value.to_numpy(float), np.array(values), equal_nan=True)


@few
@given(numbers, numbers, numbers, numbers)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_asked_of_samples(a, b, c, d):
    answer(lambda: statistics.interaction(a, b, c, d))
    answer(lambda: statistics.mediation(a, b, c, d))
    mean = answer(lambda: statistics.mean_interval(a))
    assert mean is None or not math.isfinite(sum(mean)) or mean[1] <= mean[0] <= mean[2]
    assert 0 < (answer(lambda: statistics.rank_test(a, b)) or 1.0) <= 1 + 1e-9
    together = answer(lambda: statistics.rank_correlation(a[: len(b)], b[: len(a)]))
    assert together is None or math.isnan(together) or abs(together) <= 1 + 1e-9


@few
@given(
    st.sampled_from(["cnn", "am", "am_half", "wrn16_4", "resnet_b1_atac", "cn", "wrn16_"]) | anything,
    anything,
    anything,
    anything,
)
def test_nets(name, channels, size, classes):
    with torch.device("meta"):  # shapes without memory
        net = answer(lambda: create_model(name, channels, size, classes))
        assert net is None or net.eval()(torch.zeros(1, channels, size, size)).shape == (1, classes)


@few
@given(st.sampled_from(["relu", "atac", "se", "swsh"]) | anything, anything)
def test_units(name, channels):
    with torch.device("meta"):
        made = answer(lambda: unit(name, channels))
        assert made is None or made(torch.zeros(2, channels, 4, 4)).shape == (2, channels, 4, 4)


@few
@given(numbers, numbers)
def test_two_scorings(a, b):
    a, b = (torch.tensor([scores[: min(len(a), len(b))]], dtype=torch.float64) for scores in (a, b))
    for compare in (kendall_tau, cosine):
        found, turned = compare(a, b), compare(b, a)
        assert found.shape == (1,) and (found.isnan().all() or (found.abs() <= 1 + 1e-9).all())
        torch.testing.assert_close(found, turned, equal_nan=True)


@few
@given(
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 20),
    st.booleans(),
    st.sampled_from([0.0, 1.0, float("nan"), float("inf"), 1e300]),
)
def test_curves_of_any_shape(before, points, closed, value):
    curve = torch.rand(*before, points, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    curve[..., :1, :] = value
    found = answer(lambda: roughness(curve, closed))
    assert found is None or {tuple(measure.shape) for measure in found.values()} == {(*before, 2)}


NET = create_model("am").eval()
ASKED = {
    "terms": lambda x: fullgrad_terms(NET, x).output,
    "maps": lambda x: FullGrad(NET).attribute(x),
    "weights": lambda x: next(iter(attention_weights(NET, x).values())),
    "importance": lambda x: next(iter(channel_importance(NET, x).values())),
    "jacobian": lambda x: jacobian_norm(NET, x),
    "curves": lambda x: curves(NET, x),
}


@settings(few, max_examples=40)
@given(
    st.sampled_from(list(ASKED)),
    st.integers(0, 2),
    st.sampled_from([0.0, 1.0, -1.0, float("nan"), float("inf"), 1e30, 1e-30]),
    st.booleans(),
)
def test_images_of_any_content(asked, count, value, strided):
    "An answer for each image, and nothing altered: not the images, not the net."
    x = torch.rand(count, 28, 28, 1, generator=torch.Generator().manual_seed(0))
    x[:, 7:] = value
    x = x.movedim(3, 1) if strided else x.movedim(3, 1).contiguous()
    before = x.clone()
    found = answer(lambda: ASKED[asked](x))
    assert found is None or len(found) == count
    assert (
        torch.equal(x.nan_to_num(), before.nan_to_num())
        and not NET.training
        and all(p.requires_grad and p.grad is None for p in NET.parameters())
    )


CLASSES = [None, 0, 9, [1, 2], torch.tensor([1, 2])]
NO_CLASSES = [10, -1, "1", [1, 2, 3], [], torch.tensor([1, 99])]


@pytest.mark.parametrize("target", CLASSES + NO_CLASSES, ids=str)
def test_classes_that_are_asked_for(target):
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for asked in (
        lambda: fullgrad_terms(NET, x, target).output,
        lambda: channel_importance(NET, x, target=target)["features.0.gate"],
        lambda: signals(NET, x, target).log_f,
    ):
        assert (answer(asked) is None) == any(target is one for one in NO_CLASSES)


@few
@given(
    st.lists(st.integers(0, 3), max_size=12),
    anything,
    st.sampled_from([*WEIGHTS, "chrd"]),
    st.sampled_from([torch.tensor, np.array, list, lambda labels: torch.tensor([labels])]),
)
def test_paths_through_labelled_images(labels, count, kind, given_as):
    count = min(count, 50) if isinstance(count, int) else count
    asked = lambda: places(given_as(labels), count, kind) if kind != "chord" else places(labels + [0, 1], count, kind)
    found = answer(asked)
    assert found is None or found.shape == (count, len(WEIGHTS[kind](2)[0]))


@pytest.mark.parametrize("images, labels", [(9, 8), (8, 9)])
def test_each_image_needs_its_label(images, labels):
    for shape in (landscape, slope_variation):
        with pytest.raises(InputError, match=f"each image needs a label, got {labels} for {images}"):
            shape(NET, torch.zeros(images, 1, 28, 28), torch.arange(labels) % 3, "cross_class", 1, 32)


@pytest.mark.parametrize(
    "change",
    [
        lambda: replace_gate(NET, "features.0.gate", 3),
        lambda: replace_gate(NET, "no gate", nn.ReLU()),
        lambda: channels_removed(NET, {"no gate": torch.ones(1, 32)}).__enter__(),
        lambda: chord(np.zeros((1, 2, 2)), np.zeros((1, 2, 2))),
        lambda: output_sensitivities(NET, torch.zeros(2, 1, 28, 28), 0.1),
        lambda: jacobian_norm(NET, torch.zeros(2, 1, 28, 28), unit=3.0),
        lambda: on_canvas(load("mnist_mini").subset(3, 3), 40.5),
        lambda: reported("no table", "mnist"),
        lambda: permutation_null(np.eye(3), np.eye(3), seed=-1),
        lambda: write_pictures(load("mnist_mini").subset(3, 3), "/proc/none"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(change):
    with pytest.raises(InputError, match="^[^\n]+$"):
        change()


@few
@given(st.dictionaries(st.sampled_from([*Recipe.__dataclass_fields__]), anything, max_size=2))
def test_recipes_for_imagenet(fields):
    recipe = answer(lambda: Recipe(**fields))
    assert recipe is None or all(math.isfinite(rate_at(recipe, step, 10)) for step in range(10))


@pytest.mark.parametrize("id", ["M0", "", None, 14, "M14 ", b"M14"])
def test_what_is_no_claim_is_told(tmp_path, id):
    for asked in (told_reported, lambda id: verdict(id, "smoke", tmp_path)):
        with pytest.raises(InputError, match="unknown claim"):
            asked(id)


@pytest.mark.parametrize("scale", ["x", "CPU", 3])
def test_what_is_no_scale_is_told(tmp_path, scale):
    for asked in (
        lambda: table(scale, tmp_path),
        lambda: verdict("m14", scale, tmp_path),
        lambda: trace("M14", scale, tmp_path),
    ):
        with pytest.raises(InputError, match="unknown scale"):
            asked()


SMALL = st.sampled_from([0, 1, 2, -1, True, 0.5, 1e-3, float("nan"), float("inf"), "1", None, [], 1e300])


@settings(few, max_examples=40)
@given(SMALL, SMALL, SMALL, st.sampled_from(["official", "centred", "offical", "", None, 3]))
def test_the_spread_under_noise(sigma, draws, seed, definition):
    found = answer(lambda: output_sensitivity(NET, torch.zeros(2, 1, 28, 28), sigma, draws, seed, definition))
    assert found is None or found >= 0


@few
@given(
    st.lists(st.sampled_from([(1, 4, 4), (3, 4, 4), (1, 5, 4), (4, 4), (0, 4, 4), ()]), min_size=3, max_size=3), SMALL
)
def test_paths_through_three_images(shapes, points):
    path = answer(lambda: ellipse(*map(torch.ones, shapes), points))
    assert path is None or path.shape == (points, *shapes[0])


@few
@given(
    st.sampled_from([nn.ReLU, nn.Tanh, nn.Module, int, "ReLU", None]),
    st.sampled_from([lambda channels: unit("atac", channels), lambda channels: None, 3, None]),
)
def test_what_takes_the_place_of_activations(kind, make):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26**2, 2))
    found = answer(lambda: replace_activations(net, kind, make))
    assert isinstance(net[1], nn.ReLU) and (found is None or found(torch.zeros(1, 1, 28, 28)).shape == (1, 2))


COMMANDS = [
    "list",
    "why",
    "claims",
    "claims --scale",
    "data check",
    "run --dry-run",
    "run --scale",
    "run 01 --dry-run --workers",
    "why --scale",
]
COMMANDS += [
    "publish --scale",
    "paper --scale",
    "bundle --scale",
    "slice --scale",
    "slice 01 --minutes x",
    "imagenet --data /nowhere",
]


@few
@given(st.sampled_from(COMMANDS), st.text(LETTERS, max_size=6))
def test_the_command_line(capsys, command, word):
    try:
        code = main([*command.split(), word])
    except SystemExit as stop:  # the parser's own, which shows the usage
        code = stop.code
    said = capsys.readouterr().err
    assert code in (0, 2) and "Traceback" not in said
