"""The engine of verdicts as an instrument: simulated studies with a known truth.

The quick version runs with the tests. `python tests/test_rules.py` runs all conditions at length and writes
tests/engine.csv, which is committed.
"""
import csv
import itertools
from pathlib import Path

import numpy as np
import pytest

from fmm_nb import rules
from fmm_nb.statistics import effect

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


def causal(effects, direction, margin):
    return rules.causal([rules.difference(e, direction, margin).support for e in effects], [e.p_within(margin) for e in effects])


def joint(rule, truths, count, n, seed=0):
    "The share of each verdict, for claims of several comparisons with one arm."
    chance, words = np.random.default_rng(seed), []
    for _ in range(count):
        first = chance.normal(0, 1, n)
        words.append(rules.decide({"claim": rule([effect(first, chance.normal(-truth, 1, n)) for truth in truths])})["claim"])
    return {word: words.count(word) / count for word in ("supported", "contradicted", "undecided")}


def test_a_cause_is_seldom_seen_where_one_control_does_as_well():
    found = joint(lambda effects: causal(effects, 1, 1.0), (2.5, 2.5, 2.5, 0.0), 2000, 5)
    assert found["supported"] <= 0.03


def test_a_cause_is_seldom_denied_where_every_control_is_at_the_margin():
    assert joint(lambda effects: causal(effects, 1, 1.0), (1.0, 1.0, 1.0), 2000, 10)["contradicted"] <= 0.05


def test_a_conjunction_with_one_null_part_is_seldom_supported():
    found = joint(lambda effects: rules.all_of([rules.difference(e, 1, 0.0) for e in effects]), (4.0, 4.0, 0.0), 2000, 5)
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


def test_what_was_not_run_makes_a_family_no_smaller():
    strong = rules.Evidence(0.02, 1.0)
    assert rules.decide({"one": strong})["one"] == "supported"
    assert rules.decide({"one": strong, "two": None, "three": None})["one"] == "undecided"


@pytest.mark.parametrize("some, factor, word", [(False, 0.25, "supported"), (False, 0.9, "contradicted"), (False, 0.0, "contradicted"), (True, 0.25, "supported"), (True, 0.9, "undecided"), (True, 0.0, "contradicted")])
def test_weak_agreement_lies_between_none_and_half_the_yardstick(some, factor, word):
    chance = np.random.default_rng(1)
    y = chance.normal(0.4, 0.02, 10)
    assert rules.decide({"claim": rules.weak(factor * y + chance.normal(0, 0.01, 10), y, some)})["claim"] == word


def test_a_committed_long_run_keeps_its_promises():
    with open(FILE, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list(conditions()))
    assert all(float(row["low"]) <= float(row["rate"]) <= float(row["high"]) for row in rows)


def conditions():
    "What the long run measures: rule, truth, spread, n, step, margin, word, and the bounds of its rate."
    for n, (spread, step) in itertools.product((5, 10), [(1, 0.0), (3, 0.0), (1, 0.5)]):
        yield "difference", 0.0, spread, n, step, 0.0, "supported", 0.0 if step else 0.018, 0.029
        yield "difference", 0.0, spread, n, step, 1.0, "supported", 0.0, 0.029
        yield "difference", 1.0, spread, n, step, 1.0, "contradicted", 0.0, 0.05
        yield "equivalence", 1.0, spread, n, step, 1.0, "supported", 0.0, 0.05


if __name__ == "__main__":
    with open(FILE, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow("rule truth spread n step margin word studies rate low high".split())
        for rule, truth, spread, n, step, margin, word, low, high in conditions():
            found = rate(word, getattr(rules, rule), studies(truth, spread, n, 10_000, step, seed=1), 0 if rule == "equivalence" else 1, margin)
            writer.writerow([rule, truth, spread, n, step, margin, word, 10_000, found, low, high])
            print(rule, truth, spread, n, step, margin, word, found, flush=True)
