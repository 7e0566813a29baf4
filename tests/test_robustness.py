"""What is varied at each scale: every net once, every choice a comparison; and that one test of a curve has no
favourites."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fmm_nb.choices import CHOICES, COMPARED, DEFAULT, TOGETHER, by_choice, choice_arms, parts_of
from fmm_nb.data import load
from fmm_nb.models import create_model
from fmm_nb.plan import EXPERIMENTS, SCALES, by_arm, sizes_of
from fmm_nb.specification import Question, curve, draw, sign_flip_p
from fmm_nb.specs import Protocol, Spec
from fmm_nb.training import _abreast, train

PAGE = "20_robustness"


@pytest.mark.parametrize("scale", SCALES)
def test_every_net_has_one_name_and_stands_under_a_choice(scale):
    first, *further = sizes_of(PAGE, scale).datasets
    arms = by_arm(PAGE, scale, first)
    specs = [repr(spec) for nets in arms.values() for spec in nets]
    assert len(specs) == len(set(specs))
    compared = {repr(spec) for nets in by_choice(arms).values() for net in nets.values() for spec in net}
    assert compared == set(specs)
    assert all(list(by_choice(by_arm(PAGE, scale, data))) == [DEFAULT] for data in further)


@pytest.mark.parametrize("scale", SCALES)
def test_arms_of_a_choice_differ_in_their_gate_and_their_own_rate_alone(scale):
    sizes = sizes_of(PAGE, scale)
    for name, nets in by_choice(by_arm(PAGE, scale, sizes.datasets[0])).items():
        assert [len(net) for net in nets.values()] == [sizes.seeds] * len(COMPARED)
        touched = {net for part in parts_of(name) for net in CHOICES[part].nets}
        if touched in (set(), set(COMPARED)) and not any(
            len(CHOICES[part].nets) < len(COMPARED) for part in parts_of(name)
        ):
            recipes = {
                repr((spec.options, spec.n_train, {**vars(spec.protocol), "learning_rate": 0}))
                for net in nets.values()
                for spec in net
            }
            assert len(recipes) == 1, name


def test_steps_stay_where_images_change():
    arms = choice_arms(Protocol(epochs=8, batch_size=50, snapshots=(2, 4)), 2000, {}, ())
    steps = {
        name: arms[f"am, {name}"].n_train * arms[f"am, {name}"].protocol["epochs"]
        for name in ("a quarter of the images", "four times the images", "BatchNorm")
    }
    assert set(steps.values()) == {16000}


def test_a_choice_that_a_scale_has_anyway_makes_no_arm():
    "At a rate of 0.03 for all already, nothing is to be trained for that choice; at one of 0.1 another."
    arms = choice_arms(Protocol(epochs=2, learning_rate=0.03), 100, {"am": 0.1}, ())
    assert "cnn, rate 0.03 for all" not in arms and "am, rate 0.1 for all" not in arms
    assert arms["am, rate 0.03 for all"].protocol["learning_rate"] == 0.03
    assert all(name.split(", ", 1)[1] in (*CHOICES, *TOGETHER) for name in EXPERIMENTS[PAGE].own["cpu"])


@pytest.mark.parametrize("changed", [{"options": {"pooling": "average"}}, {"protocol": {"input_scale": "unit"}}])
def test_the_new_options_train_the_same_nets_in_both_ways(changed):
    protocol = Protocol(epochs=1, batch_size=20, precision="float64", shrink=2, **changed.get("protocol", {}))
    spec = Spec("am", "mnist_mini", protocol, n_train=40, options=changed.get("options", {}))
    images = load("mnist_mini").subset(None, 10)
    alone, together = train(spec, images, "cpu"), _abreast([spec], images, "cpu")[0]
    assert_close(alone.weights, together.weights, rtol=1e-9, atol=1e-12)


def test_average_pooling_is_another_function_with_the_same_weights():
    nets = []
    for pooling in ("max", "average"):
        torch.manual_seed(0)
        nets.append(create_model("am", pooling=pooling).eval())
    assert_close(*[dict(net.named_parameters()) for net in nets], rtol=0, atol=0)
    assert not torch.allclose(*[net(torch.rand(2, 1, 28, 28, generator=torch.manual_seed(1))) for net in nets])


def test_the_joint_test_has_no_favourites():
    by_seed = np.random.default_rng(3).normal(0.4, 1, (7, 6))
    p = sign_flip_p(by_seed)
    assert 2**-5 <= p < 1
    for same in (-by_seed, by_seed[::-1], by_seed[:, ::-1], 10 * by_seed):
        assert sign_flip_p(same) == p
    assert sign_flip_p(np.zeros((3, 4))) == 1


def test_seeds_are_paired_by_number_and_not_by_place():
    import pandas as pd

    rows = pd.DataFrame({"model": ["am", "am", "cnn", "cnn"], "seed": [0, 1, 1, 0], "height": [1.0, 2.0, 2.0, 1.0]})
    assert curve({DEFAULT: rows}, Question("height", "am", "cnn")).by_seed[0].tolist() == [0, 0]
    ways = rows.assign(height__way=[f"[[1.0, {height}]]" for height in rows.height])
    assert curve({DEFAULT: ways}, Question("log height", "am", "cnn", equal_loss=True)).by_seed[0].tolist() == [0, 0]


def test_a_curve_without_any_answer_is_empty_and_one_with_a_single_choice_is_drawn():
    import pandas as pd

    rows = pd.DataFrame({"model": ["am", "am", "cnn", "cnn"], "seed": [0, 1, 0, 1], "height": [1.0, 2.0, 2.0, 3.5]})
    assert not len(curve({DEFAULT: rows}, Question("depth", "am", "cnn")))
    figure = draw(curve({DEFAULT: rows}, Question("height", "am", "cnn")), {DEFAULT: ()}, "height")
    assert [tick.get_text() for tick in figure.axes[1].get_yticklabels()] == []
