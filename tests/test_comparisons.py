"""The language of comparisons, and samples out of rows: each piece held against what it says, by hand."""

from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest

from fmm_nb.comparisons import (
    AT_PARAMETERS,
    BY_SIZE,
    NET_OPTIONS,
    across_arms,
    arm_rows,
    as_difference,
    as_mean,
    as_ratio,
    at_parameters,
    contrasts,
    expanded,
    is_arm,
    measured,
    read_off,
    sample_of,
    side,
    two_arms,
    weights,
    without_options,
)
from fmm_nb.errors import InputError
from fmm_nb.measures import packed
from fmm_nb.statistics import contrast, effect, image_variance, mean_interval

ACCURACY = "test_accuracy_percent"


@pytest.mark.parametrize(
    "text, found",
    [
        (" am ", {"am": 1.0}),
        ("0.5", {None: 0.5}),
        ("-2", {None: -2.0}),
        ("am[path=chord,points=test]", {"am[path=chord,points=test]": 1.0}),
        ("(am - cnn)", {"am": 1.0, "cnn": -1.0}),
        ("-0.5 (am[a=1] - cnn)", {"am[a=1]": -0.5, "cnn": 0.5}),
        ("2 (am - cnn)", {"am": 2.0, "cnn": -2.0}),
    ],
)
def test_a_side_is_an_arm_a_number_or_a_difference(text, found):
    assert side(text) == found


@pytest.mark.parametrize(
    "text", ["", "Am", "0.5.1", "am - cnn", "0.5 am", "(am - cnn) x", "am[path=chord", "(am + cnn)", "1_am"]
)
def test_what_is_no_side_is_told(text):
    with pytest.raises(InputError, match="is no arm; write for example am"):
        side(text)


def test_a_comparison_is_left_minus_right():
    assert weights("am vs 0.5 (am - cnn)") == {"am": 0.5, "cnn": 0.5}
    assert weights("0.5 vs am") == {None: 0.5, "am": -1.0} and weights("am vs am") == {}
    assert weights("(a - b) vs (c - b)") == {"a": 1.0, "c": -1.0}
    for text in ("am", "a vs b vs c"):
        with pytest.raises(InputError, match="is no comparison"):
            weights(text)


def test_a_side_alone_goes_against_the_left_before_it():
    assert contrasts("a vs b; c; d vs e; f") == [weights(text) for text in ("a vs b", "a vs c", "d vs e", "d vs f")]
    assert contrasts("a{1,2} vs b; c") == [weights(text) for text in ("a1 vs b", "a2 vs b", "a1 vs c", "a2 vs c")]


def test_braces_advance_together():
    assert expanded("a[x={1,2,3}] vs b_{r,s,t}") == ["a[x=1] vs b_r", "a[x=2] vs b_s", "a[x=3] vs b_t"] and expanded(
        "a"
    ) == ["a"]
    assert expanded("a{1}") == ["a1"]
    with pytest.raises(InputError, match="unequally many"):
        expanded("a{1,2} vs b{1}")


ROWS = pd.DataFrame(
    {
        "model": ["am", "am", "cnn", "am"],
        "seed": [1, 0, 0, 2],
        "kind": ["Chord", "2.0", True, None],
        "size": [1.0, 2.0, 1.0, np.nan],
    }
).astype({"kind": object})


@pytest.mark.parametrize(
    "arm, places",
    [
        ("am", [0, 1, 3]),
        ("cnn", [2]),
        ("other", []),
        ("am[kind=chord]", [0]),
        ("am[kind=CHORD]", [0]),
        ("am[kind=2]", [1]),
        ("cnn[kind=1]", [2]),
        ("am[size=1]", [0]),
    ]
    + [
        ("am[size=2.0,kind=2]", [1]),
        ("am[size=1,kind=2]", []),
        ("am[colour=red]", []),
        ("am[kind=none]", [3]),
        ("am[kind=x]", []),
    ],
)
def test_an_arm_is_the_rows_that_have_its_values(arm, places):
    assert np.flatnonzero(is_arm(ROWS, arm)).tolist() == places == arm_rows(ROWS, arm).index.tolist()


def test_an_arm_takes_the_columns_that_are_asked_for_and_leaves_the_table_as_it_was():
    assert list(arm_rows(ROWS, "am", "seed", "size")) == ["seed", "size"] and list(arm_rows(ROWS, "am")) == list(ROWS)
    before = ROWS.copy()
    assert not is_arm(ROWS.drop(columns="model"), "am").any() and len(is_arm(ROWS.drop(columns="model"), "am")) == 4
    is_arm(ROWS, "am[kind=chord]")
    pd.testing.assert_frame_equal(ROWS, before)


@pytest.mark.parametrize("option", NET_OPTIONS)
def test_a_net_with_an_option_is_of_the_arm_that_names_it(option):
    rows = pd.DataFrame({"model": "atac", "seed": [0, 1], option: [None, "2"]})
    assert is_arm(rows, "atac").tolist() == [True, False] and is_arm(rows, f"atac[{option}=2]").tolist() == [
        False,
        True,
    ]
    assert without_options(rows).seed.tolist() == [0]
    two = rows.assign(**{next(name for name in NET_OPTIONS if name != option): [None, 3]})
    assert not is_arm(two, f"atac[{option}=2]").any()
    assert without_options(two.iloc[1:]).empty


def test_a_sample_is_a_mean_a_seed_in_their_order():
    rows = pd.DataFrame({"model": ["am"] * 4 + ["cnn"], "seed": [2, 0, 2, 1, 0], "height": [1.0, 4.0, 3.0, 0.5, 9.0]})
    assert sample_of(rows, "am", "height").to_dict() == {0: 4.0, 1: 0.5, 2: 2.0} and list(
        sample_of(rows, "am", "height").index
    ) == [0, 1, 2]
    assert sample_of(rows, "am", "log height").to_dict() == pytest.approx(
        {0: np.log(4), 1: np.log(0.5), 2: np.log(3) / 2}
    )
    assert sample_of(rows.rename(columns={"height": "width"}), "am", "log width").equals(
        sample_of(rows, "am", "log height")
    )
    unique = rows.drop(index=2)
    assert list(sample_of(unique, "am", "height").index) == [0, 1, 2] and sample_of(
        unique, "am", "height"
    ).tolist() == [4.0, 0.5, 1.0]
    for nothing in (sample_of(rows, "am", "width"), sample_of(rows, "other", "height")):
        assert nothing.empty and nothing.dtype == float


@pytest.mark.parametrize("hole", [np.nan, np.inf, "x"])
def test_a_hole_empties_a_sample(hole):
    rows = pd.DataFrame({"model": "am", "seed": [0, 1], "height": [1.0, hole]})
    assert sample_of(rows, "am", "height").empty and sample_of(rows, "am", "log height").empty


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_what_has_no_logarithm_is_a_hole(value):
    rows = pd.DataFrame({"model": "am", "seed": [0, 1], "height": [1.0, value]})
    assert sample_of(rows, "am", "log height").empty and len(sample_of(rows, "am", "height")) == 2


def test_all_arms_of_a_seed_have_a_rank_correlation():
    rows = pd.DataFrame(
        [
            {
                "model": f"a{n}",
                "data": data,
                "seed": seed,
                "points": points,
                "jacobian_logits": n,
                "output_sensitivity": -n,
                ACCURACY: 25 - n * (1 - 2 * seed),
            }
            for n in range(4)
            for data in ("mnist", "cifar10")
            for seed in (0, 1)
            for points in ("test", "noise")
        ]
    )
    rows.loc[rows.points == "noise", "jacobian_logits"] = 0
    found = across_arms(rows)
    assert (
        list(found) == ["key", "model", "data", "seed", "sensitivity", "correlation_with_error"]
        and (found.model == "all").all()
        and (found.key == "of all arms").all()
    )
    assert [
        (row.data, row.seed, row.sensitivity, round(row.correlation_with_error, 9)) for row in found.itertuples()
    ] == [
        (data, seed, name, sign * (1 - 2 * seed))
        for data in ("cifar10", "mnist")
        for seed in (0, 1)
        for name, sign in (("jacobian_logits", 1), ("output_sensitivity", -1))
    ]
    assert across_arms(rows.drop(columns="points")).empty


def curve():
    "Nets of two image sets and two seeds: relu at 100, 200, 300 parameters, atac at 150 and 250."
    nets = [(f"resnet_b{b}_relu", 100 * b, 10.0 * b**2) for b in (1, 2, 3)] + [
        (f"resnet_b{b}_atac", 50 + 100 * b, 80.0 + b) for b in (1, 2)
    ]
    rows = [
        {"model": name, "data": data, "seed": seed, "parameters": size, ACCURACY: value + seed}
        for name, size, value in nets
        for data in ("mnist", "cifar10")
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0, ignore_index=True)


def test_a_net_is_read_off_at_the_parameters_of_the_atac_net_of_its_depth():
    found = at_parameters(curve())
    assert len(found) == len(curve()) and found.drop(columns=AT_PARAMETERS).equals(curve())
    expected = {"resnet_b1_relu": 25.0, "resnet_b2_relu": 65.0, "resnet_b1_atac": 81.0, "resnet_b2_atac": 82.0}
    for row in found.itertuples():
        value = getattr(row, AT_PARAMETERS)
        assert (
            np.isnan(value) if row.model == "resnet_b3_relu" else value == pytest.approx(expected[row.model] + row.seed)
        )
    beyond = curve()[lambda rows: rows.model != "resnet_b3_relu"]
    assert at_parameters(beyond)[AT_PARAMETERS][beyond.model == "resnet_b2_relu"].isna().all()
    below = curve()[lambda rows: rows.model != "resnet_b1_relu"].assign(
        parameters=lambda rows: rows.parameters - 60 * (rows.model == "resnet_b2_atac")
    )
    assert at_parameters(below)[AT_PARAMETERS][below.model == "resnet_b2_relu"].isna().all()
    bare = curve().drop(columns="parameters")
    assert at_parameters(bare).equals(bare)


def test_nets_with_options_or_without_a_depth_are_not_read_off():
    odd = pd.DataFrame(
        [
            {"model": "wrn10", "data": "mnist", "seed": 0, "parameters": 150, ACCURACY: 1.0},
            {"model": "resnet_b1_relu", "data": "mnist", "seed": 0, "parameters": 150, ACCURACY: 1.0, "context": 3},
        ]
    )
    both = pd.concat([curve(), odd], ignore_index=True)
    found = at_parameters(both)
    assert found[AT_PARAMETERS].iloc[-2:].isna().all() and found[AT_PARAMETERS].iloc[:-2].equals(
        at_parameters(curve())[AT_PARAMETERS]
    )


def test_what_is_read_off_is_a_mean_of_two_depths():
    rows = curve().assign(parameters=lambda rows: rows.parameters - 25 * rows.model.str.endswith("atac"))
    assert read_off(rows, "resnet_b1_relu") == pytest.approx({"resnet_b2_relu": 0.25, "resnet_b1_relu": 0.75})
    assert read_off(rows, "resnet_b2_relu") == pytest.approx({"resnet_b3_relu": 0.25, "resnet_b2_relu": 0.75})
    assert read_off(rows, "resnet_b2_atac") == {"resnet_b2_atac": 1.0}


A, B = [3.0, 3.2, 2.7], [1.9, 2.6, 2.2]


def rows_of(column="height", **arms):
    return pd.DataFrame(
        [
            {"model": arm, "seed": seed, column: value}
            for arm, values in arms.items()
            for seed, value in enumerate(values)
        ]
    )


def test_an_effect_is_of_two_arms_or_of_a_weighted_sum():
    rows = rows_of(am=A, cnn=B, other=[1.0, 2.0])
    assert measured(rows, "height", weights("am vs cnn")) == effect(A, B) and measured(
        rows, "height", weights("cnn vs am")
    ) == effect(B, A)
    found = measured(rows, "height", weights("am vs 0.5 (cnn - other)"))
    assert astuple(found) == astuple(contrast([A, B, [1.0, 2.0]], [1.0, -0.5, 0.5]))  # so nan is equal to nan
    with_number = measured(rows, "height", weights("2 (am - cnn) vs 1.5"))
    assert with_number.difference == pytest.approx(
        2 * (np.mean(A) - np.mean(B)) - 1.5
    ) and with_number.error == pytest.approx(contrast([A, B], [2, -2]).error)
    assert measured(rows, "height", weights("1.5 vs am")).difference == pytest.approx(1.5 - np.mean(A))
    assert (
        measured(rows, "height", weights("am vs none"))
        is measured(rows, "width", weights("am vs cnn"))
        is measured(rows, "height", {None: 1.0})
        is None
    )
    assert measured(rows.iloc[:4], "height", weights("am vs cnn")) is None and measured(
        rows, "height", weights("am vs other")
    ) == effect(A, [1.0, 2.0])


def test_the_same_nets_are_compared_seed_by_seed():
    table = pd.concat([rows_of(am=A).assign(path="chord"), rows_of(am=B).assign(path="arc")], ignore_index=True)
    assert measured(table, "height", weights("am[path=chord] vs am[path=arc]")) == effect(A, B, paired=True)
    assert measured(table.iloc[:-1], "height", weights("am[path=chord] vs am[path=arc]")) == effect(A, B[:2])
    shifted = table.assign(seed=[0, 1, 2, 1, 2, 3])
    assert measured(shifted, "height", weights("am[path=chord] vs am[path=arc]")) == effect(A, B)
    options = pd.concat([rows_of(am=A).assign(context="3"), rows_of(am=B).assign(context="5")])
    assert measured(options, "height", weights("am[context=3] vs am[context=5]")) == effect(A, B)  # other nets
    one = pd.concat([options.assign(path="chord"), options.assign(path="arc", height=lambda rows: rows.height**2)])
    assert measured(one, "height", weights("am[context=3,path=chord] vs am[path=arc,context=3]")) == effect(
        A, np.square(A), paired=True
    )


@pytest.mark.parametrize(
    "wanted, found",
    [
        ({"a": 1.0, "b": -1.0}, ("a", "b")),
        ({"a": -1.0, "b": 1.0}, ("b", "a")),
        ({"a": 1.0, None: -1.0}, None),
        ({None: 1.0, "a": -1.0}, None),
        ({"a": 1.0, "b": 1.0}, None),
        ({"a": -1.0, "b": -1.0}, None),
        ({"a": 1.0}, None),
        ({"a": 1.0, "b": -1.0, "c": -1.0}, None),
        ({"a": 1.0, "b": -0.5}, None),
        ({"a": 1.0, "b": -2.0}, None),
        ({"a": 2.0, "b": -1.0}, None),
    ],
)
def test_two_arms_are_a_plain_difference(wanted, found):
    assert two_arms(wanted) == found


def with_bits(seed=0, **shares):
    "Rows of arms with the bits of 90 images for each of two seeds."
    chance = np.random.default_rng(seed)
    bits = {arm: chance.random((2, 90)) < share for arm, share in shares.items()}
    table = pd.DataFrame(
        [
            {
                "model": arm,
                "seed": s,
                ACCURACY: 100 * one.mean(),
                BY_SIZE: 100 * (one[2::3].mean() - one[::3].mean()),
                "test_correct": packed(one),
            }
            for arm, both in bits.items()
            for s, one in enumerate(both)
        ]
    )
    return table, bits


def test_an_accuracy_has_the_variance_of_the_images_too():
    rows, bits = with_bits(am=0.9, cnn=0.6, other=0.4)
    shares = {arm: 100 * both.mean(1) for arm, both in bits.items()}
    extra = lambda *arms_and_weights: (1e4 * image_variance(*arms_and_weights)[0], image_variance(*arms_and_weights)[1])
    assert measured(rows, ACCURACY, weights("am vs cnn")) == effect(
        shares["am"], shares["cnn"], extra=extra([bits["am"], bits["cnn"]], [1, -1])
    )
    three = measured(rows, ACCURACY, weights("am vs 0.5 (cnn - other)"))
    signs = [1.0, -0.5, 0.5]
    expected = contrast(list(shares.values()), signs, extra=extra(list(bits.values()), signs))
    assert astuple(three) == astuple(expected)  # so nan is equal to nan
    plain = effect(shares["am"], shares["cnn"])
    assert measured(rows.drop(columns="test_correct"), ACCURACY, weights("am vs cnn")) == plain
    # of another measure
    assert measured(rows.rename(columns={ACCURACY: "other"}), "other", weights("am vs cnn")) == plain
    assert measured(rows.assign(test_correct=[None, *rows.test_correct[1:]]), ACCURACY, weights("am vs cnn")) == plain
    other_count = rows.assign(test_correct=[packed(np.ones(80, bool)), *rows.test_correct[1:]])
    assert measured(other_count, ACCURACY, weights("am vs cnn")) == plain
    doubled = pd.concat([rows, rows.iloc[:1]])
    assert measured(doubled, ACCURACY, weights("am vs cnn")) == measured(rows, ACCURACY, weights("am vs cnn"))
    against = measured(rows, ACCURACY, weights("am vs 50"))
    assert against.error == contrast([shares["am"]], [1], extra=extra([bits["am"]], [1])).error


def test_large_minus_small_has_the_variance_of_either_third_of_the_images():
    rows, bits = with_bits(am=0.9, cnn=0.6)
    thirds = [image_variance([both[:, part::3] for both in bits.values()], [1, -1]) for part in (0, 2)]
    extra = 1e4 * (thirds[0][0] + thirds[1][0]), 29.0
    values = [rows[rows.model == arm][BY_SIZE] for arm in bits]
    assert measured(rows, BY_SIZE, weights("am vs cnn")) == effect(*values, extra=extra)


def test_what_is_read_off_has_the_variance_of_both_depths():
    names = ["resnet_b1_relu", "resnet_b2_relu", "resnet_b1_atac"]
    rows, bits = with_bits(**dict(zip(names, (0.5, 0.7, 0.9))))
    rows = at_parameters(rows.assign(data="mnist", parameters=rows.model.map(dict(zip(names, (100, 200, 125))))))
    found = measured(rows, AT_PARAMETERS, weights("resnet_b1_atac vs resnet_b1_relu"))
    variance, df = image_variance([bits[name] for name in names], [-0.75, -0.25, 1.0])
    values = [rows[rows.model == name][AT_PARAMETERS] for name in ("resnet_b1_atac", "resnet_b1_relu")]
    expected = effect(*values, extra=(1e4 * variance, df))
    assert [found.difference, found.low, found.high] == pytest.approx(
        [expected.difference, expected.low, expected.high]
    )


def test_effects_and_means_in_a_sentence():
    found = effect([1.0, 1.5, 2.0], [3.0, 3.25, 2.0])
    assert as_difference(found) == f"{found.difference:+.2f} [{found.low:+.2f}, {found.high:+.2f}]".replace(
        "-", "−"
    ) and "−1.25 [" in as_difference(found)
    assert as_ratio(found) == f"{np.exp(found.difference):.2f} [{np.exp(found.low):.2f}, {np.exp(found.high):.2f}]"
    assert as_difference(None) == as_ratio(None) == "not comparable"
    mean, low, high = mean_interval([-1.0, -2.0, -4.5])
    assert as_mean(pd.Series([-1.0, -2.0, -4.5])) == f"{mean:.3g} [{low:.3g}, {high:.3g}]".replace("-", "−")
    assert (as_mean(pd.Series([-1.25])), as_mean(pd.Series([1.0, np.nan])), as_mean(pd.Series([], dtype=float))) == (
        "−1.25",
        "",
        "",
    )
