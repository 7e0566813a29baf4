"The second source's claims are decided by the rows that its pages write."

import numpy as np
import pandas as pd
import pytest

from fmm_nb.claims import CLAIMS
from fmm_nb.comparisons import AT_PARAMETERS, at_parameters, measured, weights
from fmm_nb.judgement import evidence
from fmm_nb.plan import by_arm
from fmm_nb.planned_rows import planned
from fmm_nb.unification import checks

SETS = ("cifar10", "cifar100_coarse")


def rows_of(means, data=SETS, seeds=5, spread=0.05, column="test_accuracy_percent", **columns):
    "Rows of some arms, (model, options) by their mean, on each image set."
    chance = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"model": model, "data": name, "seed": seed, "diverged_at": np.nan, column: mean + chance.normal(0, spread)}
            | dict(options)
            | columns
            for name in data
            for (model, options), mean in means.items()
            for seed in range(seeds)
        ]
    )


def nets(unit, means):
    "Means of the nets of a unit with one, two, … blocks a stage."
    return {(f"resnet_b{b}_{unit}", ()): mean for b, mean in enumerate(means, 1)}


def test_locality_needs_every_depth():
    every = nets("atac", (90, 92, 93, 94)) | nets("se_activation", (50, 55, 60, 61))
    found = evidence(CLAIMS["A1"], rows_of(every))
    assert found.whole and found.support < 0.001
    first = evidence(CLAIMS["A1"], rows_of({arm: mean for arm, mean in every.items() if "_b1_" in arm[0]}))
    assert not first.whole and first.support == 1.0
    none = evidence(CLAIMS["A1"], rows_of(nets("atac", (90,)) | nets("se_activation", (90,))))
    assert none.contradict < 0.001


def test_a_net_with_options_is_another_arm():
    arms = {
        ("resnet_b1_atac", ()): 90,
        ("resnet_b1_atac", (("inner_relu", False),)): 70,
        ("resnet_b1_identity", ()): 40,
        ("resnet_b1_nin", ()): 89,
    }
    rows = rows_of(arms)
    assert evidence(CLAIMS["A16"], rows).support < 0.001
    gate = evidence(CLAIMS["A3"], rows_of({**arms, ("resnet_b1_atac", (("inner_relu", False),)): 10}))
    assert gate.contradict == 1.0, "the units without a ReLU were mixed into ATAC"


@pytest.mark.parametrize("accuracies, low", [((80, 81, 82, 83, 84), "support"), ((80, 81, 80, 83, 84), "contradict")])
def test_more_attention_is_better_step_by_step(accuracies, low):
    steps = {
        ("resnet_b1_atac", (("act_order", "bac"), ("act_layers", count))): mean for count, mean in enumerate(accuracies)
    }
    assert getattr(evidence(CLAIMS["A6"], rows_of(steps)), low) < 0.001


def test_units_are_compared_at_equal_parameters():
    rows = rows_of(nets("relu", (90, 92)) | nets("atac", (90.5,)) | nets("selu", (88, 90)), spread=0.01)
    rows = rows.assign(
        parameters=rows.model.map(
            {
                "resnet_b1_relu": 80,
                "resnet_b2_relu": 180,
                "resnet_b1_selu": 80,
                "resnet_b2_selu": 180,
                "resnet_b1_atac": 90,
            }
        )
    )
    read = at_parameters(rows)
    assert read[read.model == "resnet_b1_relu"][AT_PARAMETERS].to_numpy() == pytest.approx(90.2, abs=0.05)
    found = evidence(CLAIMS["A7"], read)
    assert found is not None and not found.whole and found.contradict > 0.5


def test_objects_of_three_sizes():
    gains = {("resnet_b1_atac", (("context", 1),)): 5.0, ("resnet_b1_atac", (("context", "global"),)): 9.0}
    assert (
        evidence(CLAIMS["A14"], rows_of(gains, ("mnist",), column="accuracy_large_minus_small_percent")).support < 0.001
    )


@pytest.mark.parametrize("name", ["A12", "A13", "A17"])
def test_identities_hold_on_every_row_or_fail(name):
    rows = rows_of(nets("relu", (90,)), **checks())
    assert evidence(CLAIMS[name], rows).support == 0.0
    column = CLAIMS[name].comparators
    assert evidence(CLAIMS[name], rows.assign(**{column: [0, *rows[column][1:]]})).contradict == 0.0


def test_one_mechanism_needs_all_four():
    arms = {("am", ()): 99.0, ("cnn", ()): 98.0, ("kervolution", ()): 99.0, ("volterra", ()): 99.0, ("glu", ()): 99.0}
    assert evidence(CLAIMS["M66"], rows_of(arms, ("mnist", "cifar10"))).support < 0.001
    assert evidence(CLAIMS["M66"], rows_of({**arms, ("volterra", ()): 98.0}, ("mnist", "cifar10"))).contradict < 0.001


def test_an_arm_of_a_page_decides_by_itself():
    "Where a context was not run, ATAC itself still counts."
    arms = by_arm("11_locality", "smoke", "mnist_mini")
    rows = pd.DataFrame(
        [
            {
                "key": s.key,
                "measure_version": 1,
                "model": s.model,
                "data": s.data,
                "seed": s.seed,
                "precision": "float32",
                "test_accuracy_percent": 50.0,
            }
            | s.options
            for name, of in arms.items()
            for s in of
            if "context=3" not in name
        ]
    )
    kept = planned(rows, "smoke", "11_locality")
    assert len(kept) == len(rows)
    left = set(planned(rows.iloc[1:], "smoke", "11_locality").key)
    whole = {s.key for s in arms["resnet_b1_atac"]}
    assert whole <= left and not left & {s.key for s in arms["resnet_b1_relu"]}


def test_nets_with_other_options_are_not_paired_as_the_same():
    gains = {("resnet_b1_atac", (("context", 1),)): 5.0, ("resnet_b1_atac", (("context", "global"),)): 9.0}
    rows = rows_of(gains, ("mnist",), seeds=5)
    assert (
        measured(
            rows, "test_accuracy_percent", weights("resnet_b1_atac[context=1] vs resnet_b1_atac[context=global]")
        ).df
        > 4
    )
