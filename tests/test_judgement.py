"""From rows to evidence, held against the rules and the statistics that each kind of claim must ask."""

import json
from dataclasses import astuple, replace

import numpy as np
import pandas as pd
import pytest

from fmm_nb import judgement, rules
from fmm_nb.comparisons import measured
from fmm_nb.effects import at_equal_loss, at_loss, equal_loss, log_ratio, variants
from fmm_nb.judgement import CLAIMS, Claim, cells, decided, evidence, judge, read_claims, units
from fmm_nb.readings import OPEN, REVERSED, depends_on
from fmm_nb.rules import Evidence
from fmm_nb.statistics import effect

ACCURACY = "test_accuracy_percent"
UP, DOWN = (3.0, 3.3, 3.1), (2.0, 2.4, 2.3)


def same(found, expected):
    "Whether two pieces of evidence are equal; nan is equal to nan."
    return astuple(found) == astuple(expected)


def rows_of(data="mnist", column=ACCURACY, **arms):
    "A row a seed, of arms with their values."
    return pd.DataFrame(
        [
            {"model": arm, "data": data, "seed": seed, column: value}
            for arm, values in arms.items()
            for seed, value in enumerate(values)
        ]
    )


def claim(kind, comparators, direction=1, margins=(), primary=ACCURACY, data=()):
    return replace(
        CLAIMS["M14"],
        kind=kind,
        comparators=comparators,
        direction=direction,
        margins=margins,
        primary=primary,
        data=data,
    )


def ps(found):
    return (found.support, found.contradict)


def test_a_row_of_the_file_is_a_claim(tmp_path):
    columns = (
        "id statement place kind family data protocol primary comparators direction margin reported experiment".split()
    )
    texts = [
        ["X1", "S", "P", "difference", "f", " mnist ; cifar10", "", "m", "a vs b", " + ", "0.2;0.4", "1", "01"],
        ["X2", "S", "P", "exact", "f", "", "", "m", "c", "-", "", "", "01"],
    ]
    pd.DataFrame([*texts, ["X3", *texts[1][1:9], "", *texts[1][10:]]], columns=columns).to_csv(
        tmp_path / "claims.csv", index=False
    )
    one, two, three = read_claims(tmp_path / "claims.csv").values()
    assert one == Claim(
        "X1", "S", "P", "difference", "f", ("mnist", "cifar10"), "", "m", "a vs b", 1, (0.2, 0.4), "1", "01"
    )
    assert hash(one) != hash(two)  # a key, as long as nobody can change it
    assert (two.data, two.direction, two.margins, three.direction) == ((), -1, (), 0)


def test_a_measure_has_the_column_of_the_definition_that_decides_and_those_of_its_variants():
    assert variants("m", {"a": 1.0, "b": 2.0, "c": 3.0}, "b") == {"m": 2.0, "m__a": 1.0, "m__c": 3.0}


WAY = [[2.0, 50.0], [1.0, 70.0], [0.75, 75.0], [0.5, 80.0]]


@pytest.mark.parametrize("loss, value", [(2.0, 50.0), (1.75, 55.0), (1.0, 70.0), (0.8, 74.0), (0.6, 78.0), (0.5, 80.0)])
def test_a_value_is_read_off_between_the_snapshots_round_a_loss(loss, value):
    assert at_loss(WAY, loss) == pytest.approx(value)


@pytest.mark.parametrize("way, loss", [(WAY, 2.1), (WAY, 0.4), ([[2.0, 50.0]], 1.0)])
def test_a_way_that_does_not_pass_a_loss_has_no_value_there(way, loss):
    assert np.isnan(at_loss(way, loss))


def test_a_way_that_rises_again_is_read_off_where_it_first_passes():
    assert at_loss([[2.0, 0.0], [1.0, 10.0], [3.0, 20.0], [0.5, 30.0]], 1.5) == 5.0


def ways(ends, column="way", seeds=2):
    "Rows of arms whose value is 10 / loss, down to an end each."
    text = lambda end: json.dumps([[2.0, 5.0], [1.0, 10.0], [end, 10 / end]])
    return pd.DataFrame(
        [
            {"model": arm, "seed": seed, column: text(end + 0.1 * seed)}
            for arm, end in ends.items()
            for seed in range(seeds)
        ]
    )


def test_arms_are_read_off_at_the_lowest_loss_that_all_their_runs_reach():
    a, b = at_equal_loss(ways({"am": 0.4, "cnn": 0.7}), "am", "cnn")  # the highest end is 0.8
    between = lambda end: np.interp(-0.8, [-1.0, -end], [10.0, 10 / end])
    assert a.tolist() == pytest.approx([between(0.4), between(0.5)]) and b.tolist() == pytest.approx(
        [between(0.7), 12.5]
    )
    found = equal_loss(ways({"am": 0.4, "cnn": 0.7}), "am", "cnn")
    assert found == effect(a, b)
    logs = at_equal_loss(ways({"am": 0.4, "cnn": 0.7}, "height__way"), "am", "cnn", "log height")
    assert [*logs[0], *logs[1]] == pytest.approx([np.log(12.5)] * 4)
    for name in ("height", "width"):
        assert at_equal_loss(ways({"am": 0.4, "cnn": 0.7}, f"{name}__way"), "am", "cnn", name)[0].tolist() == a.tolist()


def test_what_is_no_two_runs_with_a_way_is_not_comparable():
    rows = ways({"am": 0.4, "cnn": 0.7})
    assert at_equal_loss(rows, "am", "cnn", "height") is None and equal_loss(rows, "am", "other") is None
    assert at_equal_loss(rows.iloc[1:], "am", "cnn") is None and equal_loss(rows.assign(way=None), "am", "cnn") is None
    # the first of a seed counts
    doubled = pd.concat([rows, rows.iloc[:1].assign(way=json.dumps([[2.0, 0.0], [0.1, 0.0]]))])
    assert at_equal_loss(doubled, "am", "cnn")[0].tolist() == at_equal_loss(rows, "am", "cnn")[0].tolist()
    assert at_equal_loss(doubled.iloc[1:], "am", "cnn") is not None
    assert (
        at_equal_loss(
            rows.assign(
                way=[
                    json.dumps([[0.5, 1.0], [0.1, 2.0]]) if arm == "am" else way
                    for arm, way in zip(rows.model, rows.way)
                ]
            ),
            "am",
            "cnn",
        )
        is None
    )


def test_a_ratio_is_asked_for_by_column():
    rows = rows_of(column="height", am=UP, cnn=DOWN)
    assert log_ratio(rows, "am", "cnn", "height") == effect(np.log(UP), np.log(DOWN))
    assert log_ratio(rows, "am", "cnn", "height__way") is None


def test_variants_that_turn_an_effect_or_open_it_are_named():
    rows = rows_of(am=UP, cnn=DOWN).assign(
        **{
            f"{ACCURACY}__as_it_is": [*UP, *DOWN],
            f"{ACCURACY}__other_sign": [*DOWN, *UP],
            f"{ACCURACY}__with_noise": [9.0, -9.0, 2.0, 1.0, 1.0, 0.0],
            f"{ACCURACY}__not_run": np.nan,
            "other__variant": [*DOWN, *UP],
        }
    )
    wanted, found = {"am": 1.0, "cnn": -1.0}, effect(UP, DOWN)
    assert depends_on(claim("difference", ""), rows, wanted, found) == f"other sign{REVERSED}, with noise{OPEN}"
    assert depends_on(claim("equivalence", ""), rows, wanted, found) == f"other sign{REVERSED}"
    open_already = replace(found, low=0.0)
    assert (
        depends_on(claim("difference", ""), rows, wanted, open_already)
        == depends_on(claim("difference", ""), rows, wanted, replace(found, low=-1.0))
        == "other sign"
    )
    assert depends_on(claim("difference", ""), rows, wanted, replace(found, difference=0.0)) == "with noise" + OPEN
    assert (
        depends_on(
            claim("difference", ""), rows, {"am": 1.0, "cnn": -1.0}, replace(found, difference=-1.0, low=-2.0, high=0.0)
        )
        == "as it is"
    )
    opposite = rows.assign(**{f"{ACCURACY}__with_noise": [9.0, -9.0, 0.0, 2.0, 1.0, 1.0]})
    # another sign, and zero within
    assert "with noise" + OPEN in depends_on(claim("difference", ""), opposite, wanted, found)
    assert depends_on(claim("mediation", ""), rows, wanted, found) == f"other sign{REVERSED}, with noise{OPEN}"
    turned = rows.assign(
        way=[
            json.dumps([[1.0, 0.0], [0.5, value + 0.01 * seed]])
            for value, seed in zip([1.0] * 3 + [5.0] * 3, rows.seed)
        ]
    )
    assert depends_on(claim("difference", ""), turned, wanted, found).endswith("equal training loss" + REVERSED)
    assert "equal" not in depends_on(claim("difference", ""), turned, {"am": 1.0, None: -2.0}, found)
    logs = rows.rename(columns=lambda name: name.replace(ACCURACY, "height"))
    assert depends_on(claim("difference", "", primary="log height"), logs, wanted, found).startswith("other sign")


DIVERGED = [1.0, np.nan, np.nan, np.nan, np.nan, np.nan]


def test_a_difference_is_its_rule_and_where_a_run_diverged_its_ranks():
    rows, wanted = rows_of(am=UP, cnn=DOWN), claim("difference", "am vs cnn", margins=(0.1,))
    assert evidence(wanted, rows) == rules.difference(effect(UP, DOWN), 1, 0.1)
    assert evidence(replace(wanted, direction=-1), rows) == rules.difference(effect(UP, DOWN), -1, 0.1)
    gone = rows.assign(diverged_at=DIVERGED)
    assert evidence(wanted, gone) == rules.ranked(UP, DOWN, 1) and evidence(
        replace(wanted, direction=-1), gone
    ) == rules.ranked(UP, DOWN, -1)
    assert evidence(wanted, rows.assign(diverged_at=np.nan)) == evidence(wanted, rows)
    of_one = Evidence(1.0, 1.0, measured(gone, ACCURACY, {"am": 1.0, None: -1.0}), "a run diverged")
    assert same(evidence(replace(wanted, comparators="am vs 1"), gone), of_one)
    assert evidence(replace(wanted, comparators="cnn vs 1"), gone).note == ""  # of the other arm
    drawn = gone.rename(columns={ACCURACY: "gradient_growth"})
    assert (
        evidence(replace(wanted, primary="log gradient_growth"), drawn).note
        == ""
        != evidence(replace(wanted, primary="gradient_growth"), drawn).note
    )
    assert evidence(replace(wanted, comparators="am vs other"), rows) is None


def test_an_equivalence_is_its_rule_and_nothing_where_a_run_diverged():
    rows, wanted = rows_of(am=UP, cnn=DOWN), claim("equivalence", "am vs cnn", 0, (0.5,))
    assert evidence(wanted, rows) == rules.equivalence(effect(UP, DOWN), 0, 0.5)
    assert evidence(wanted, rows.assign(diverged_at=DIVERGED)) == Evidence(1.0, 1.0, effect(UP, DOWN), "a run diverged")
    assert evidence(replace(wanted, comparators="am vs other"), rows) is None
    assert evidence(wanted, rows.assign(**{f"{ACCURACY}__best": [*DOWN, *UP]})).depends_on == "best" + REVERSED


@pytest.mark.parametrize(
    "ratio, reached", [(1.0, True), (1.09, True), (1 / 1.09, True), (1.11, False), (1 / 1.11, False)]
)
def test_what_explains_a_gain_must_have_done_what_it_was_made_for(ratio, reached):
    rows = rows_of(am=UP, cnn=DOWN, cnn_jacobian=(2.9, 3.2, 3.2))
    heights = rows.assign(jacobian_logits=[2.0] * 3 + [5.0] * 3 + [2.0 * ratio] * 3)
    wanted = claim("mediation", "(cnn_jacobian - cnn) vs 0.5 (am - cnn)")
    plain = rules.difference(measured(rows, ACCURACY, {"cnn_jacobian": 1.0, "cnn": -0.5, "am": -0.5}), 1, 0.0)
    vain = replace(plain, support=1.0, contradict=1.0, note="the penalty did not give attention's Jacobian")
    assert same(evidence(wanted, heights), plain if reached else vain) and plain.support < 0.05
    assert same(evidence(wanted, rows), vain)  # whose Jacobians were not measured
    assert evidence(wanted, heights[heights.model != "cnn_jacobian"]) is None


def test_a_gate_is_no_penalty_and_needs_no_jacobian():
    rows, wanted = rows_of(am=UP, cnn=DOWN, am_static=(2.9, 3.2, 3.2)), claim("mediation", CLAIMS["M10"].comparators)
    beyond_half = measured(rows, ACCURACY, {"am_static": 1.0, "cnn": -0.5, "am": -0.5})
    assert same(evidence(wanted, rows), rules.difference(beyond_half, 1, 0.0))
    assert evidence(wanted, rows[rows.model != "am_static"]) is None


@pytest.mark.parametrize(
    "comparators, direction, bound, towards",
    [("am vs 0.5", 1, 0.5, 1), ("0.5 vs am", 1, 0.5, -1), ("am vs 0.5", -1, 0.5, -1)],
)
@pytest.mark.parametrize(
    "column, yes_no, values", [("share_correct", False, (0.9, 0.7, 0.8)), ("not_converged", True, (1.0, 1.0, 0.0))]
)
def test_a_share_is_its_rule(comparators, direction, bound, towards, column, yes_no, values):
    rows = rows_of(column=column, am=values)
    assert (units()[column] == "0 or 1") == yes_no
    found = evidence(claim("proportion", comparators, direction, primary=column), rows)
    assert ps(found) == pytest.approx(ps(rules.proportion(np.array(values), towards, bound, yes_no)))
    assert evidence(claim("proportion", comparators, direction, primary=column), rows.iloc[:1]) is None
    turned = rows.assign(**{f"{column}__strict": [0.1, 0.2, 0.3]})
    assert evidence(claim("proportion", comparators, direction, primary=column), turned).depends_on == "strict" + (
        "" if yes_no else REVERSED
    )


def test_a_cause_is_every_comparison_at_equal_epochs_and_at_equal_loss():
    wanted = claim("causal", "am vs cnn; am_half", margins=(0.3,))
    rows = rows_of(am=UP, cnn=DOWN, am_half=(2.5, 2.6, 2.9))
    level = rows.assign(**{f"{ACCURACY}__equal_loss": [4.0, 4.2, 4.1, 3.0, 3.1, 3.4, 3.0, 3.6, 3.5]})
    pairs = [(UP, DOWN), (UP, (2.5, 2.6, 2.9)), ((4.0, 4.2, 4.1), (3.0, 3.1, 3.4)), ((4.0, 4.2, 4.1), (3.0, 3.6, 3.5))]
    effects = [effect(a, b) for a, b in pairs]
    found = evidence(wanted, level)
    plain = rules.causal([rules.difference(e, 1, 0.3).support for e in effects], [e.p_within(0.3) for e in effects])
    assert found == replace(plain, effects=tuple(effects)) and found.whole
    # ways come before the variant
    assert evidence(wanted, level.assign(way=ways({"am": 0.4, "cnn": 0.7, "am_half": 0.5}, seeds=3).way)) != found
    apart = evidence(wanted, rows)
    assert (apart.support, apart.note, apart.whole) == (1.0, "not comparable at equal training loss", True)
    assert (
        apart.contradict == rules.causal([0, 0, 1, 1], [e.p_within(0.3) for e in effects[:2]] + [1.0, 1.0]).contradict
    )
    partly = evidence(wanted, level[level.model != "am_half"])
    assert (partly.support, partly.note, partly.whole) == (1.0, "an arm was not run", False)
    assert (
        evidence(wanted, rows[rows.model == "am_half"]) is None and evidence(wanted, level[level.model != "am"]) is None
    )


def test_a_cause_gives_no_p_to_what_diverged_or_has_no_scatter_and_names_choices():
    wanted = claim("causal", "am vs cnn; am_half", margins=(9.0,))
    # no scatter: no p of within
    level = rows_of(am=UP, cnn=DOWN, am_half=(1.0, 1.1, 1.2)).assign(**{f"{ACCURACY}__equal_loss": [1.0] * 9})
    ends = [effect(UP, DOWN).p_within(9.0), effect(UP, (1.0, 1.1, 1.2)).p_within(9.0)]
    assert evidence(wanted, level).contradict == pytest.approx(rules.causal([0.0], [*ends, 1.0, 1.0]).contradict)
    gone = level.assign(diverged_at=[np.nan] * 8 + [1.0])
    assert evidence(wanted, gone).contradict == pytest.approx(rules.causal([0.0], [ends[0], 1.0, 1.0, 1.0]).contradict)
    named = rows_of(am=UP, cnn=DOWN, am_half=(2.5, 2.6, 2.9)).assign(**{f"{ACCURACY}__best": [*DOWN, *UP, *UP]})
    assert evidence(wanted, named).depends_on == "best" + REVERSED


@pytest.mark.parametrize("kind, some", [("weak", False), ("some", True)])
def test_a_weak_agreement_is_its_rule(kind, some):
    d, y = (0.30, 0.35, 0.32), (0.5, 0.6, 0.55)
    rows = rows_of(column="tau_excess", am=d).assign(tau_yardstick=y)
    found = evidence(claim(kind, "am", primary="tau_excess"), rows)
    assert same(found, rules.weak(d, y, some)) and not same(found, rules.weak(d, y, not some))
    assert len(cells(claim(kind, "{am,cnn}", primary="tau_excess"), rows)) == 2
    shuffled = rows.assign(seed=[2, 0, 1])
    in_order = rules.weak([0.35, 0.32, 0.30], [0.6, 0.55, 0.5], some)
    assert same(evidence(claim(kind, "am", primary="tau_excess"), shuffled), in_order)
    two = rows.iloc[:2]
    assert same(evidence(claim(kind, "am", primary="tau_excess"), two), rules.weak(d[:2], y[:2], some))
    assert evidence(claim(kind, "am", primary="tau_excess"), rows.iloc[:1]) is None
    assert evidence(claim(kind, "am", primary="tau_excess"), rows.drop(columns="tau_yardstick")) is None


def test_a_check_holds_where_it_was_made():
    wanted = claim("exact", " held ", primary="error")
    rows = rows_of(am=UP)
    assert evidence(wanted, rows.assign(held=1.0)) == Evidence(0.0, 1.0) and evidence(
        wanted, rows.assign(held=[1.0, 0.0, 1.0])
    ) == Evidence(1.0, 0.0)
    assert evidence(wanted, rows.assign(held=[1.0, np.nan, 1.0])) == Evidence(1.0, 0.0)  # a hole is no check that held
    assert evidence(wanted, rows) is evidence(wanted, rows.assign(held=np.nan)) is None


def test_a_check_says_what_it_was_made_on():
    rows = rows_of(am=UP, cnn=DOWN).assign(held=1.0)
    seen = lambda **columns: evidence(claim("exact", "held", primary="error"), rows.assign(**columns)).seen
    assert (seen(), seen(error=np.nan), seen(error=1.23456e-14)) == ("", "", "error 1.23e-14")
    assert seen(error=[1.0, 3.0, 2.0, 77850.0, np.nan, 0.5]) == "error 3 (am), 77,850 (cnn)"


def test_image_sets_have_their_own_rows_and_margins_and_say_what_they_depend_on():
    both = pd.concat([rows_of("mnist", am=UP, cnn=DOWN), rows_of("cifar10[1-2]", am=DOWN, cnn=UP)])
    on_two = claim("difference", "am vs cnn; cnn vs am", margins=(0.1, 0.4), data=("mnist", "cifar10"))
    up, down = effect(UP, DOWN), effect(DOWN, UP)
    expected = [
        rules.difference(found, 1, margin) for found, margin in [(up, 0.1), (down, 0.1), (down, 0.4), (up, 0.4)]
    ]
    assert cells(on_two, both) == expected
    assert cells(replace(on_two, margins=(0.4,)), both)[:2] == [rules.difference(found, 1, 0.4) for found in (up, down)]
    with pytest.raises(ValueError):
        cells(replace(on_two, margins=(0.1, 0.2, 0.3)), both)
    assert evidence(replace(on_two, data=("stl10",), margins=(0.1,)), both) is None
    named = both.assign(
        **{f"{ACCURACY}__b": [*DOWN, *UP, *DOWN, *UP], f"{ACCURACY}__n": [9.0, -9.0, 3.0, 1.0, 1.0, 0.0] * 2}
    )
    assert [part.depends_on for part in cells(on_two, named)] == [f"MNIST: b{REVERSED}, n{OPEN}"] * 2 + [
        f"CIFAR-10: n{OPEN}"
    ] * 2
    assert cells(replace(on_two, data=("mnist",), margins=(0.1,)), named)[0].depends_on == f"b{REVERSED}, n{OPEN}"


def test_what_opens_one_comparison_and_turns_another_turns_the_claim():
    rows = rows_of(am=UP, cnn=DOWN, other=(1.0, 1.1, 1.3)).assign(
        **{f"{ACCURACY}__n": [2.0, 2.1, 2.2, 9.0, -9.0, 2.0, 5.0, 5.1, 5.2]}
    )
    parts = cells(claim("difference", "am vs cnn; other"), rows)
    assert [part.depends_on for part in parts] == ["n" + REVERSED] * 2


def test_a_conjunction_joins_what_is_known_and_what_cannot_be_tested_has_no_evidence():
    part, rows = Evidence(0.01, 0.9), rows_of(am=UP)
    joined = claim("conjunction", "M16; M17")
    assert (
        evidence(joined, rows, {"M16": part, "M17": part})
        == evidence(joined, pd.DataFrame(), {"M16": part, "M17": part})
        == rules.all_of([part, part])
    )
    assert (
        evidence(joined, rows, {"M16": part, "M18": part}) == rules.all_of([part, None])
        and evidence(joined, rows) is None
    )
    assert evidence(claim("untestable", ""), rows) is None and cells(claim("untestable", ""), rows) == []


def claims_of(monkeypatch, *named):
    monkeypatch.setattr(judgement, "CLAIMS", {one.id: one for one in named})


def test_families_are_decided_apart_and_checks_alone(monkeypatch):
    wanted = claim("difference", "am vs cnn")
    kinds = [
        ("a", "difference", "one"),
        ("b", "weak", "one"),
        ("c", "causal", "two"),
        ("d", "exact", "one"),
        ("e", "exact", "one"),
        ("f", "untestable", "three"),
    ]
    claims_of(monkeypatch, *[replace(wanted, id=id, kind=kind, family=family) for id, kind, family in kinds])
    found = dict.fromkeys("abcde", Evidence(0.03, 1.0)) | {"f": None}  # two of a family: 0.06
    assert decided(found) == {
        "a": "undecided",
        "b": "undecided",
        "c": "supported",
        "d": "supported",
        "e": "supported",
        "f": "not tested",
    }


def test_a_study_judges_parts_before_the_whole_and_a_share_of_a_gain_after_it(monkeypatch):
    gain = claim("difference", "am vs cnn", data=("mnist",))
    share = replace(claim("mediation", "(am_half - cnn) vs 0.5 (am - cnn)", data=("mnist",)), id="S")
    whole = replace(claim("conjunction", "A; M14"), id="W")
    cause = replace(claim("causal", "am vs cnn"), id="A")
    plain = replace(claim("proportion", "am_half vs 2", data=("mnist",)), id="D")
    claims_of(
        monkeypatch, *[replace(one, family=one.id, experiment="page") for one in (whole, share, plain, cause, gain)]
    )
    rows = rows_of(am=UP, cnn=DOWN, am_half=(3.0, 3.2, 3.3))
    judged = judge({"page": rows})
    assert {id: word for id, (word, _) in judged.items()} == {
        "W": "undecided",
        "S": "supported",
        "D": "supported",
        "A": "undecided",
        "M14": "supported",
    }
    assert list(judged) == ["W", "S", "D", "A", "M14"] and judged["W"][1].note == "2 of 2 parts were run"
    none = rows_of(am=(2.2, 2.1, 2.3), cnn=DOWN, am_half=(3.0, 3.2, 3.3))
    word, found = judge({"page": none})["S"]
    assert (word, *ps(found), found.note) == ("undecided", 1.0, 1.0, "no gain to explain: M14 not supported")
    assert judge({"page": none})["D"][0] == "supported"
    assert all(pair == ("not tested", None) for pair in judge({}).values())
