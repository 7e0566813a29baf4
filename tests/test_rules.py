"""The engine of verdicts as an instrument: simulated studies with a known truth.

The quick version runs with the tests. `python tests/test_rules.py` runs all conditions at length and writes
tests/engine.csv, which is committed.
"""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fmm_nb import rules
from fmm_nb.statistics import effect, rank_test

FILE = Path(__file__).with_name("engine.csv")


def studies(truth, spread, n, count, step=0.0, seed=0):
    "Pairs of arms: `truth` apart, the first `spread` times as scattered, rounded to multiples of `step`."
    chance = np.random.default_rng(seed)
    pairs = zip(chance.normal(truth, spread, (count, n)), chance.normal(0, 1, (count, n)))
    return ((np.round(a / step) * step, np.round(b / step) * step) if step else (a, b) for a, b in pairs)


def verdicts(rule, pairs, direction, margin):
    "One verdict a study."
    return [rules.decide({"claim": rule(effect(a, b), direction, margin)})["claim"] for a, b in pairs]


def rate(word, *arguments):
    words = verdicts(*arguments)
    return words.count(word) / len(words)


@pytest.mark.parametrize("spread, n", [(1, 5), (3, 5)])
def test_a_null_difference_is_falsely_supported_as_often_as_promised(spread, n):
    assert 0.018 <= rate("supported", rules.difference, studies(0, spread, n, 10_000), 1, 0.0) <= 0.029


@pytest.mark.parametrize("step, margin", [(0.5, 0.0), (0.0, 1.0)])
def test_ties_and_margins_make_false_support_no_more_frequent(step, margin):
    assert rate("supported", rules.difference, studies(0, 1, 5, 5000, step), 1, margin) <= 0.029


def test_a_difference_as_large_as_the_margin_is_seldom_contradicted():
    assert rate("contradicted", rules.difference, studies(1, 1, 10, 4000), 1, 1.0) <= 0.05


def test_an_effect_at_the_margin_is_seldom_called_equivalent_or_not():
    words = verdicts(rules.equivalence, studies(1, 1, 10, 4000), 0, 1.0)
    assert words.count("supported") / 4000 <= 0.05 and words.count("contradicted") / 4000 <= 0.05


@pytest.mark.parametrize("truth", [0.0, 0.05])
def test_arms_that_scatter_more_than_the_margin_are_seldom_called_different(truth):
    assert rate("contradicted", rules.equivalence, studies(truth, 1, 10, 10_000), 0, 0.05) <= 0.055


def families(size, count, rule, seed=0):
    "Verdicts of families of claims that are all false or at their bound."
    pairs = studies(0, 1, 5, size * count, seed=seed)
    return [rules.decide({i: rule(effect(*next(pairs))) for i in range(size)}) for _ in range(count)]


def test_a_family_of_nulls_has_a_false_verdict_seldom_enough():
    found = families(6, 1500, lambda e: rules.difference(e, 1, 0.0))
    assert np.mean(["supported" in f.values() for f in found]) <= 0.05
    assert np.mean(["contradicted" in f.values() for f in found]) <= 0.05


@pytest.mark.parametrize(
    "rule, truth, direction, margin, word",
    [
        (rules.difference, 3, 1, 1.0, "supported"),
        (rules.difference, -3, 1, 1.0, "contradicted"),
        (rules.difference, 0, 1, 2.0, "contradicted"),
        (rules.equivalence, 0, 0, 2.0, "supported"),
        (rules.equivalence, 4, 0, 2.0, "contradicted"),
    ],
)
def test_data_made_for_and_against_give_each_verdict(rule, truth, direction, margin, word):
    assert rate(word, rule, studies(truth, 1, 20, 200), direction, margin) > 0.95


def test_data_that_cannot_decide_are_undecided():
    assert rate("undecided", rules.difference, studies(0.3, 1, 3, 500), 1, 0.5) > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_no_family_gives_two_verdicts_and_every_claim_gets_one(seed):
    chance = np.random.default_rng(seed)
    for _ in range(300):
        p = chance.choice([0, 1e-9, 0.01, 0.04, 0.05, 0.5, 1], (5, 2))
        family = {i: rules.Evidence(*map(float, pair)) for i, pair in enumerate(p)} | {"not run": None}
        words = rules.decide(family)
        assert list(words) == list(family) and words["not run"] == "not tested"
        assert set(words.values()) <= {"supported", "contradicted", "undecided", "not tested"}


A, B = [3.0, 3.2, 2.7, 3.4], [1.9, 2.6, 2.2, 2.4, 2.0]


@pytest.mark.parametrize("direction", [1, -1])
def test_a_difference_has_the_p_of_its_side_and_twice_the_smaller_of_two_against_it(direction):
    up, down = effect(A, B), effect(B, A)
    for found in (up, down):
        judged, agrees = rules.difference(found, direction, 0.4), found.difference * direction > 0
        assert judged.support == (found.p if agrees else 1.0) and judged.effect is found
        assert judged.contradict == min(1.0, 2 * min(found.p_within(0.4), 1.0 if agrees else found.p))
    none = effect([1.0, 2.0, 3.0], [3.0, 1.0, 2.0])  # has scatter and no sign
    assert (rules.difference(none, direction, 0.5).support, rules.difference(none, direction, 0.5).note) == (1.0, "")
    assert rules.difference(none, direction, 5.0).contradict == 2 * none.p_within(5.0) < 0.05
    sure = effect([2.0, 2.0], [1.0, 1.0])  # has a sign and no scatter
    assert (rules.difference(sure, direction, 0.5).support, rules.difference(sure, direction, 0.5).note) == (
        0.0 if direction > 0 else 1.0,
        "",
    )


def test_an_equivalence_has_the_p_of_within_and_of_beyond():
    found = effect(A, B)
    judged = rules.equivalence(found, 0, 0.5)
    assert (judged.support, judged.contradict, judged.note) == (found.p_within(0.5), found.p_beyond(0.5), "")
    # no scatter, no difference: one alone says something
    for decided in (
        effect([2.0, 2.0], [1.0, 1.0]),
        effect([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]),
    ):
        assert rules.equivalence(decided, 0, 0.5).note == ""
    flat = effect([1.0, 1.0], [1.0, 1.0])
    for nothing in (rules.equivalence(flat, 0, 0.5), rules.difference(flat, 1, 0.5)):
        assert nothing == rules.Evidence(1.0, 1.0, flat, "no spread in either arm and equal means")


def test_all_parts_count_and_what_was_not_run_is_said():
    one, two = rules.Evidence(0.01, 0.5, depends_on="epoch"), rules.Evidence(0.03, 0.012, depends_on="epoch")
    assert rules.all_of([one]) is one and rules.all_of([]) is rules.all_of([None]) is rules.all_of([None, None]) is None
    both = rules.all_of([one, two, rules.Evidence(0.02, 0.9, depends_on="loss")])
    assert (both.support, both.contradict) == (0.03, pytest.approx(0.036))
    assert (both.note, both.depends_on, both.whole, both.effect) == ("3 of 3 parts were run", "epoch; loss", True, None)
    part = rules.all_of([one, None, two, None])
    assert (part.support, part.contradict, part.note, part.whole) == (
        1.0,
        pytest.approx(4 * 0.012),
        "2 of 4 parts were run",
        False,
    )
    assert not rules.all_of([one, rules.Evidence(0.1, 0.1, whole=False)]).whole
    assert (
        rules.all_of([rules.Evidence(0.0, 1.0, seen="size 1"), one, rules.Evidence(0.0, 1.0, seen="size 2")]).seen
        == "size 1; size 2"
    )


def test_a_cause_has_the_weakest_support_and_the_strongest_control():
    found = rules.causal([0.01, 0.2, 0.03], [0.5, 0.004, 0.9])
    assert (found.support, found.contradict, found.note, found.effect) == (
        0.2,
        pytest.approx(0.012),
        "3 comparisons",
        None,
    )


def test_a_share_has_both_sides_of_a_t_test_or_of_a_binomial_one():
    shares = np.array([0.61, 0.7, 0.58, 0.74])
    sides = [stats.ttest_1samp(shares, 0.6, alternative=side).pvalue for side in ("greater", "less")]
    for direction, (support, contradict) in ((1, sides), (0, sides), (-1, sides[::-1])):
        found = rules.proportion(shares, direction, 0.6)
        assert (found.support, found.contradict) == pytest.approx((min(1, 2 * support), min(1, 2 * contradict)))
        assert found.effect.difference == pytest.approx(shares.mean() - 0.6)
    yes = np.array([1, 1, 1, 0, 1, 1, 1])
    sides = [2 * stats.binomtest(6, 7, 0.4, alternative=side).pvalue for side in ("greater", "less")]
    assert (
        rules.proportion(yes, -1, 0.4, True).contradict,
        rules.proportion(yes, -1, 0.4, True).support,
    ) == pytest.approx((sides[0], 1.0))


def test_weak_agreement_is_three_t_tests():
    d, y = np.array([0.11, 0.15, 0.08, 0.12, 0.05]), np.array([0.5, 0.6, 0.4, 0.45, 0.5])
    p = lambda values, side: stats.ttest_1samp(values, 0, alternative=side).pvalue
    none, much = max(p(d + y / 10, "greater"), p(d - y / 10, "less")), p(d - y / 2, "greater")
    for some, against in ((False, min(1, 2 * min(none, much))), (True, none)):
        found = rules.weak(list(d), list(y), some)
        assert (found.support, found.contradict) == pytest.approx((max(p(d, "greater"), p(d - y / 2, "less")), against))
        assert found.effect.difference == pytest.approx(d.mean())
    assert rules.weak(d - d.mean(), y).contradict == pytest.approx(
        2 * max(p(d - d.mean() + y / 10, "greater"), p(d - d.mean() - y / 10, "less"))
    )
    assert rules.weak(2 * d + 0.3, y).contradict == pytest.approx(2 * p(2 * d + 0.3 - y / 2, "greater"))


@pytest.mark.parametrize("direction", [1, -1])
def test_ranks_have_the_p_of_their_side(direction):
    p = rank_test(A, B)
    for first, second, sign in ((A, B, 1), (B, A, -1)):
        found = rules.ranked(first, second, direction)
        assert (found.support, found.contradict) == ((p, 1.0) if sign == direction else (1.0, min(1.0, 2 * p)))
        assert found.note == "ranks: a run diverged" and found.effect == effect(first, second)
    even = rules.ranked([1.0, 4.0], [2.0, 3.0], direction)
    assert (even.support, even.contradict) == (1.0, 1.0)


def test_a_check_holds_on_every_row_or_not():
    assert [(found.support, found.contradict) for found in map(rules.exact, ([1, 1], [1, 0]))] == [
        (0.0, 1.0),
        (1.0, 0.0),
    ]


def test_a_family_is_adjusted_on_each_side_and_contradiction_comes_first():
    family = {
        "both": rules.Evidence(0.001, 0.001),
        "at": rules.Evidence(0.025, 1.0),
        "over": rules.Evidence(0.0501, 1.0),
    }
    # 0.001, 2 · 0.025, then the rest
    assert rules.decide(family) == {
        "both": "contradicted",
        "at": "supported",
        "over": "undecided",
    }
    assert rules.decide({"at": rules.Evidence(1.0, 0.05)})["at"] == "contradicted" and rules.ALPHA == 0.05
    assert rules.decide({"at": rules.Evidence(0.02, 1.0)}, alpha=0.01)["at"] == "undecided"


def causal(effects, direction, margin):
    return rules.causal(
        [rules.difference(e, direction, margin).support for e in effects], [e.p_within(margin) for e in effects]
    )


def joint(rule, truths, count, n, seed=0):
    "The share of each verdict, for claims of several comparisons with one arm."
    chance, words = np.random.default_rng(seed), []
    for _ in range(count):
        first = chance.normal(0, 1, n)
        words.append(
            rules.decide({"claim": rule([effect(first, chance.normal(-truth, 1, n)) for truth in truths])})["claim"]
        )
    return {word: words.count(word) / count for word in ("supported", "contradicted", "undecided")}


def test_a_cause_is_seldom_seen_where_one_control_does_as_well():
    found = joint(lambda effects: causal(effects, 1, 1.0), (2.5, 2.5, 2.5, 0.0), 2000, 5)
    assert found["supported"] <= 0.03


def test_a_cause_is_seldom_denied_where_every_control_is_at_the_margin():
    assert joint(lambda effects: causal(effects, 1, 1.0), (1.0, 1.0, 1.0), 2000, 10)["contradicted"] <= 0.05


def test_a_conjunction_with_one_null_part_is_seldom_supported():
    found = joint(
        lambda effects: rules.all_of([rules.difference(e, 1, 0.0) for e in effects]), (4.0, 4.0, 0.0), 2000, 5
    )
    assert found["supported"] <= 0.029


def test_runs_that_diverge_alike_give_few_false_verdicts():
    chance, words = np.random.default_rng(0), []
    for _ in range(600):
        arms = np.where(chance.random((2, 6)) < 0.2, 10.0, chance.normal(95, 1, (2, 6)))
        words.append(rules.decide({"claim": rules.ranked(*arms, 1)})["claim"])
    assert words.count("supported") / 600 <= 0.04 and words.count("contradicted") / 600 <= 0.05


@pytest.mark.parametrize("yes_no", [True, False])
def test_a_share_at_the_stated_one_is_seldom_called_larger(yes_no):
    chance, words = np.random.default_rng(0), []
    for _ in range(1500):
        shares = chance.random(8) < 0.5 if yes_no else chance.normal(0.5, 0.1, 8)
        words.append(rules.decide({"claim": rules.proportion(shares, 1, 0.5, yes_no)})["claim"])
    assert words.count("supported") / 1500 <= 0.035


def test_a_causal_claim_needs_every_control():
    chance = np.random.default_rng(0)
    cause, vanilla, control = chance.normal(3, 1, 20), chance.normal(0, 1, 20), chance.normal(3, 1, 20)
    word = lambda *others: rules.decide({"claim": causal([effect(cause, other) for other in others], 1, 1.5)})["claim"]
    assert word(vanilla) == "supported" and word(vanilla, control) == "contradicted"


def test_several_numbers_are_kept_also_where_a_part_has_several():
    one, two, three = (effect([1.0, 2.0, other], [0.0, 0.1, 0.2]) for other in (3.0, 4.0, 5.0))
    parts = [rules.Evidence(0.5, 0.5, effects=(one, two)), rules.Evidence(0.5, 0.5, three), None]
    assert rules.all_of(parts).effects == (one, two, three)


def test_what_was_not_run_makes_a_family_no_smaller():
    strong = rules.Evidence(0.02, 1.0)
    assert rules.decide({"one": strong})["one"] == "supported"
    assert rules.decide({"one": strong, "two": None, "three": None})["one"] == "undecided"


@pytest.mark.parametrize(
    "some, factor, word",
    [
        (False, 0.25, "supported"),
        (False, 0.9, "contradicted"),
        (False, 0.0, "contradicted"),
        (True, 0.25, "supported"),
        (True, 0.9, "undecided"),
        (True, 0.0, "contradicted"),
    ],
)
def test_weak_agreement_lies_between_none_and_half_the_yardstick(some, factor, word):
    chance = np.random.default_rng(1)
    y = chance.normal(0.4, 0.02, 10)
    assert rules.decide({"claim": rules.weak(factor * y + chance.normal(0, 0.01, 10), y, some)})["claim"] == word


def test_a_committed_long_run_keeps_its_promises():
    with open(FILE, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, (rule, truth, *sizes, word, low, high) in zip(rows, conditions(), strict=True):
        assert [row["rule"], float(row["truth"]), row["word"]] == [rule, truth, word] and [
            float(row[name]) for name in ("spread", "n", "step", "margin")
        ] == sizes
        assert low <= float(row["rate"]) <= high


def conditions():
    "What the long run measures: rule, truth, spread, n, step, margin, word, and the bounds of its rate."
    for n, (spread, step) in itertools.product((5, 10), [(1, 0.0), (3, 0.0), (1, 0.5)]):
        yield "difference", 0.0, spread, n, step, 0.0, "supported", 0.0 if step else 0.018, 0.029
        yield "difference", 0.0, spread, n, step, 1.0, "supported", 0.0, 0.029
        yield "difference", 1.0, spread, n, step, 1.0, "contradicted", 0.0, 0.05
        yield "equivalence", 1.0, spread, n, step, 1.0, "supported", 0.0, 0.05
        yield "equivalence", 0.1, spread, n, step, 0.1, "contradicted", 0.0, 0.055


if __name__ == "__main__":
    with open(FILE, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow("rule truth spread n step margin word studies rate low high".split())
        for rule, truth, spread, n, step, margin, word, low, high in conditions():
            found = rate(
                word,
                getattr(rules, rule),
                studies(truth, spread, n, 10_000, step, seed=1),
                0 if rule == "equivalence" else 1,
                margin,
            )
            writer.writerow([rule, truth, spread, n, step, margin, word, 10_000, found, low, high])
            print(rule, truth, spread, n, step, margin, word, found, flush=True)
