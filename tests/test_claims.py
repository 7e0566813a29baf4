"""From rows to verdicts: what decides, what does not, and what must never be mixed."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fmm_nb import claims
from fmm_nb.claim_tables import full, in_full
from fmm_nb.claims import CLAIMS
from fmm_nb.comparisons import contrasts, expanded, measured
from fmm_nb.effects import equal_loss
from fmm_nb.errors import InputError
from fmm_nb.findings import findings
from fmm_nb.judgement import cells, evidence, judge
from fmm_nb.measures import packed
from fmm_nb.plan import SCALES, nets
from fmm_nb.planned_rows import planned
from fmm_nb.statistics import detectable, effect
from fmm_nb.tables import append_rows

PAGE = "03_multiplication"
GOOD = {
    "cnn": 95.0,
    "am": 97.0,
    "am_norl": 97.0,
    "am_nomtp": 95.0,
    "am_tanh": 96,
    "am_half": 95.5,
    "am_static": 95.5,
    "am_random": 95.0,
    "am_shuffled": 95.5,
    "cnn_matched": 95.0,
}


def rows_of(scale="smoke", data="mnist_mini", means=GOOD, **columns):
    "Rows of planned nets, an arm's accuracy round its mean."
    chance = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {
                "key": s.key,
                "measure_version": 1,
                "model": s.model,
                "data": data,
                "seed": s.seed,
                "precision": "float32",
                "diverged_at": np.nan,
            }
            | {"test_accuracy_percent": means[s.model] + chance.normal(0, 0.02)}
            | columns
            for s in nets(PAGE, scale, [data], SCALES[scale].seeds)
        ]
    )


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setattr("fmm_nb.planned_rows.published_folder", lambda scale: tmp_path / "nothing published")

    def write(rows, scale="smoke"):
        append_rows(tmp_path / scale / "rows" / f"{PAGE}.csv", rows)
        return tmp_path

    return write


@pytest.mark.parametrize("id", CLAIMS)
def test_a_claim_has_a_cell_for_every_image_set_and_comparison(id):
    claim = CLAIMS[id]
    per_set = {"causal": 1, "exact": 1, "weak": None, "some": None, "conjunction": 0, "untestable": 0}.get(
        claim.kind, "all"
    )
    count = (
        len(expanded(claim.comparators))
        if per_set is None
        else len(contrasts(claim.comparators))
        if per_set == "all"
        else per_set
    )
    nothing = pd.DataFrame({"data": [], "model": [], "seed": []})
    assert len(cells(claim, nothing)) == count * max(1, len(claim.data)) and not any(cells(claim, nothing))


def test_rows_of_the_plan_decide(build):
    folder = build(rows_of())
    assert claims.verdict("M14", "smoke", folder) == "supported"
    assert claims.verdict("M14", build=folder) == "not tested"  # smoke is no evidence
    shown = claims.table("smoke", folder).set_index("id")
    assert (
        not shown.evidence.any()
        and shown.verdict["M15"] == "not tested"
        and shown.note["M20"] == "2 of 4 parts were run"
    )


def test_an_arm_without_all_its_seeds_was_not_run():
    rows = rows_of()
    assert set(planned(rows[(rows.seed < 2) | (rows.model != "am")], "smoke", PAGE).model) == set(GOOD) - {"am"}


def test_nets_of_another_plan_decide_nothing():
    assert planned(rows_of().assign(key="0" * 16), "smoke", PAGE).empty


def test_a_part_of_a_set_is_no_evidence():
    assert planned(rows_of(scale="cpu"), "cpu", PAGE).empty


def test_versions_and_precisions_are_not_mixed():
    old, new = rows_of(means=GOOD | {"am": 90.0}), rows_of().assign(measure_version=2)
    assert (planned(pd.concat([old, new]), "smoke", PAGE).measure_version == 2).all()
    mixed = rows_of().assign(precision=lambda r: np.where(r.model == "am", "bfloat16", "float32"))
    with pytest.raises(InputError, match="different precisions"):
        planned(mixed, "smoke", PAGE)


def test_a_hole_in_the_rows_is_no_value():
    rows = rows_of()
    rows.loc[rows.index[rows.model == "am"][0], "test_accuracy_percent"] = np.nan
    assert evidence(CLAIMS["M14"], rows) is None


def test_runs_that_diverged_are_equal_to_nothing():
    rows = rows_of(means=dict.fromkeys(GOOD, 10.0), diverged_at=1.0)
    words = {id: word for id, (word, _) in judge({PAGE: rows}).items()}
    assert {words[id] for id in ("M14", "M16", "M18", "M21", "M23")} == {"undecided"} and words["M25"] == "undecided"


def test_the_share_of_a_gain_waits_for_the_gain():
    none = rows_of(means=dict.fromkeys(GOOD, 95.0))
    claim = replace(CLAIMS["M10"], experiment=PAGE)
    found = evidence(claim, none)
    assert found is not None
    word, judged = judge({"02_importance": none, PAGE: none})["M10"]
    assert word == "undecided" and "no gain to explain" in judged.note


@pytest.mark.parametrize("way", ["[]", "[[NaN, 10.0]]", None])
def test_ways_that_cannot_be_compared_are_passed_over(way):
    assert equal_loss(rows_of(way=way), "am", "cnn") is None


def sensitive(heights, loss=0.5, **columns):
    """Rows of page 05: J of each arm round a height at the end, and half of it at the first snapshot; errors fall as J
    does."""
    rows, chance = rows_of(means={arm: 95 - np.log(heights.get(arm, 4.0)) for arm in GOOD}), np.random.default_rng(1)
    ends = rows.model.map(lambda arm: heights.get(arm, 4.0)) * np.exp(chance.normal(0, 0.005, len(rows)))
    ways = [json.dumps([[2.0, end / 2], [loss, end]]) for end in ends]
    return rows.assign(
        points="test", jacobian_logits=ends, output_sensitivity=1 / ends, jacobian_logits__way=ways, **columns
    )


def test_correlations_over_the_arms_follow_from_the_rows_of_all_arms():
    known = sensitive({arm: 1.0 + place for place, arm in enumerate(GOOD)})
    rows = planned(pd.concat([known, known.head(1).assign(key="0" * 16)]), "smoke", "05_sensitivity")
    over = rows[rows.model == "all"].pivot(index="seed", columns="sensitivity", values="correlation_with_error")
    assert (
        len(over) == SCALES["smoke"].seeds
        and (over.jacobian_logits > 0.9).all()
        and (over.output_sensitivity < -0.9).all()
    )
    assert "all" not in set(planned(rows[rows.model != "am_tanh"], "smoke", "05_sensitivity").model)
    assert "all" not in set(planned(rows_of(), "smoke", PAGE).model)


def test_multiplication_is_the_cause_only_where_nothing_else_does_as_well():
    claim = replace(CLAIMS["M42"], data=("mnist",))
    alone, half = evidence(claim, sensitive({"am": 1.0})), evidence(claim, sensitive({"am": 1.0, "am_half": 1.0}))
    assert alone.support < 0.01 and half.support > 0.05
    assert half.contradict < 0.01 < 0.05 < alone.contradict


def test_a_difference_that_is_gone_at_equal_loss_depends_on_it_and_supports_no_cause():
    slow = sensitive({"am": 3.0})
    slow["jacobian_logits__way"] = [
        json.dumps([[2.0, 1.0], [1.0, 3.2]]) if model == "am" else json.dumps([[2.0, 1.0], [0.9, 3.0], [0.1, 4.0]])
        for model in slow.model
    ]
    found = evidence(replace(CLAIMS["M35"], data=("mnist",)), slow)
    assert found.support < 0.01 and found.depends_on == "equal training loss (reversed)"
    assert evidence(replace(CLAIMS["M42"], data=("mnist",)), slow).support > 0.05
    never = evidence(
        replace(CLAIMS["M42"], data=("mnist",)), sensitive({"am": 1.0}).drop(columns="jacobian_logits__way")
    )
    assert never.support == 1.0 and never.note == "not comparable at equal training loss"


def test_a_lost_bit_of_an_image_costs_its_part_of_the_interval_only():
    with_bits = rows_of(test_correct=packed(np.random.default_rng(0).random(500) < 0.95))
    holes = with_bits.assign(test_correct=[None, *with_bits.test_correct[1:]])
    assert evidence(CLAIMS["M14"], holes).effect.error <= evidence(CLAIMS["M14"], with_bits).effect.error


def test_a_control_that_does_as_well_contradicts_the_cause():
    same = rows_of(means=GOOD | {"am_half": 97.0, "am_static": 97.0})
    found = evidence(CLAIMS["M25"], same)
    assert found.contradict < 0.05 and found.support == 1.0


def test_what_a_verdict_depends_on_is_said():
    rows = rows_of().assign(test_accuracy_percent__best_epoch=lambda r: r.test_accuracy_percent - 5 * (r.model == "am"))
    assert evidence(CLAIMS["M14"], rows).depends_on == "best epoch (reversed)"


def test_a_claim_is_traced_to_its_nets(build):
    lines = claims.trace("M20", "smoke", build(rows_of()))
    assert (
        lines[0] == "M20: undecided, no evidence (scale smoke)"
        and sum(line.startswith("net ") for line in lines) == 2 * 6
    )


ROW = {
    "id": "M14",
    "verdict": "supported",
    "scale": "smoke",
    "statement": "S.",
    "place": "P",
    "experiment": PAGE,
    "unit": "points",
    "reported": "",
    "in_part": "",
    "depends_on": "",
    "note": "",
    "seen": "",
}
ROW |= dict.fromkeys(
    ["measured", "low", "high", "detectable", "support", "contradict", "support_adjusted", "contradict_adjusted"],
    np.nan,
)


def test_a_claim_is_two_lines_on_the_site():
    bare = ROW | {"id": "M9", "numbers": ""}
    points = ROW | {"numbers": "MNIST −1.23 [−2, −0.5] points"}
    ratio = ROW | {
        "id": "M42",
        "verdict": "undecided",
        "unit": "log ratio",
        "numbers": "×2.00 [1.00, 3.00]",
        "detectable": np.log(1.5),
        "in_part": "a part",
        "depends_on": "best epoch",
        "note": "why",
    }
    assert claims.markdown(pd.DataFrame([bare, points, ratio])).splitlines()[2:] == [
        "| M9 | **supported** | S. *(P)* |",
        "| M14 | **supported** | S. *(P)*<br>measured MNIST −1.23 [−2, −0.5] points; reported +0.42 points |",
        "| M42 | undecided | S. *(P)*<br>measured ×2.00 [1.00, 3.00]; reported ×0.53 to ×0.72; detectable ×1.50;"
        " trained on a part; depends on: best epoch; why |",
    ]


def test_a_claim_in_full_has_its_rule_its_numbers_and_what_would_turn_it():
    claim = CLAIMS["M14"]
    head = ["M14: supported (scale smoke: not evidence)", claim.statement, f"place: {claim.place}"]
    rule = "rule: difference of test_accuracy_percent: am vs cnn, margin 0.2"
    assert full(ROW | {"note": claim.protocol}).splitlines() == [
        *head,
        rule,
        "reported 0.42 points",
        f"note: {claim.protocol}",
    ]
    measured = ROW | {
        "measured": 1.5,
        "low": 1.0,
        "high": 2.0,
        "support": 0.01,
        "contradict": 1.0,
        "support_adjusted": 0.04,
        "contradict_adjusted": 1.0,
        "detectable": 0.25,
        "depends_on": "best epoch",
    }
    assert full(measured, ("each comparison",)).splitlines() == [
        *head,
        f"protocol: {claim.protocol}",
        rule,
        "measured +1.5 [+1, +2] points; reported 0.42 points",
        "each comparison",
        "p for it 0.01, against it 1; adjusted in family fmmnet_table1 at scale smoke 0.04 and 1",
        "the verdict turns where an adjusted p passes 0.05",
        "this number of seeds finds 0.25 points in four of five studies",
        "depends on: best epoch",
    ]
    assert full(ROW | {"id": "M67", "scale": "", "verdict": "not tested"}).splitlines()[0] == "M67: not tested"
    assert "margin" not in full(ROW | {"id": "M67", "scale": ""})
    assert "checked: error 1e-14" in full(ROW | {"id": "A12", "seen": "error 1e-14"}).splitlines()
    # a check has no p
    assert not any(
        line.startswith(("p for it", "the verdict turns"))
        for line in full(ROW | {"id": "A12", "support": 0.0, "contradict": 1.0}).splitlines()
    )
    assert "reported -0.6399, -0.4230, -0.3351 log ratio" in full(ROW | {"id": "M42", "unit": "log ratio"}).splitlines()


def test_a_claim_says_of_which_image_sets_a_part_was_trained_on():
    rows = rows_of(data="cifar10[1-2]")
    part = {id: claims._in_part(CLAIMS[id], "paper", {PAGE: rows}) for id in ("M14", "M15", "M20", "M26")}
    assert part == {"M14": ""} | dict.fromkeys(["M15", "M20", "M26"], "CIFAR-10 (training files 1-2)")
    assert not claims._in_part(CLAIMS["M20"], "cpu", {PAGE: rows})  # which takes some images of each set anyway
    assert not claims._in_part(CLAIMS["M5"], "paper", {"02_importance": rows})  # a check that names no image set
    assert not claims._in_part(CLAIMS["M67"], "paper", {"07_fmmnet": rows})  # a claim that compares nothing


def test_a_claim_in_full_has_its_comparisons_and_its_rows(build):
    found = findings("smoke", build(rows_of()))
    causal, joined, untested = (in_full(found, id).splitlines() for id in ("M25", "M20", "M67"))
    compared = [line.partition(":")[0] for line in causal if " − " in line.partition(":")[0]]
    assert compared == [
        f"MNIST, am − {arm}" for arm in ("cnn", "am_nomtp", "am_half", "am_static", "am_shuffled", "cnn_matched")
    ]
    rows = found.tables["smoke"]["03_multiplication"]
    used = rows.model.isin(CLAIMS["M25"].comparators.replace(" vs ", "; ").split("; ")).sum()
    assert (
        causal[-1]
        == f"from {used} rows of {used} nets or draws in rows/03_multiplication.csv, column test_accuracy_percent;"
        " fmm why M25 --scale smoke names each"
    )
    assert any(line.startswith("parts: M16 ") for line in joined) and not any(
        "rows of" in line for line in joined + untested
    )


def test_adjusted_p_say_what_the_verdict_says(build):
    shown = claims.table("smoke", build(rows_of()))
    tested = shown[shown.verdict != "not tested"]
    word = np.where(
        tested.contradict_adjusted <= 0.05,
        "contradicted",
        np.where(tested.support_adjusted <= 0.05, "supported", "undecided"),
    )
    assert tested.verdict.tolist() == word.tolist() and len(set(word)) > 1
    assert (tested.support_adjusted >= tested.support).all() and (tested.support_adjusted > tested.support).any()
    assert shown[shown.verdict == "not tested"].support_adjusted.isna().all()


def test_a_row_of_the_table_is_the_effect_with_what_could_have_been_seen(build):
    chance, spread = np.random.default_rng(0), rows_of()
    spread.loc[spread.model == "am_tanh", "test_accuracy_percent"] = chance.normal(95, 2, 3)  # cannot decide
    shown = claims.table("smoke", build(spread)).set_index("id")
    of = {model: spread[spread.model == model].test_accuracy_percent for model in GOOD}
    gain = effect(of["am"], of["cnn"])
    assert shown.loc["M14", ["verdict", "unit", "measured", "low", "high", "scale"]].tolist() == [
        "supported",
        "points",
        gain.difference,
        gain.low,
        gain.high,
        "smoke",
    ]
    assert np.isnan(shown.detectable["M14"]) and shown.support["M14"] == gain.p and shown.contradict["M14"] == 1.0
    assert shown["reported size compatible"][["M14", "M16", "M25", "M15"]].tolist() == ["no", "yes", "", ""]
    assert (
        shown.scale["M15"] == ""
        and shown.note["M15"]
        == "CIFAR-10: no complete run of 03_multiplication, or a run without a value;"
        " it takes fmm data get cifar10, fmm run 03 --scale cpu"
    )
    assert shown.note["M57"].endswith("it takes fmm data get stl10, fmm run 07 --scale paper") and shown.note[
        "M28"
    ].endswith("it takes fmm data get mnist, fmm data get cifar10, fmm run 04 --scale cpu")
    undecided = [id for id in shown.index if shown.verdict[id] == "undecided" and not np.isnan(shown.measured[id])]
    for id in undecided:
        (wanted,) = contrasts(CLAIMS[id].comparators)
        found = measured(planned(spread, "smoke", PAGE), CLAIMS[id].primary, wanted)
        assert shown.detectable[id] == pytest.approx(detectable(found.error, found.df))


@pytest.mark.parametrize(
    "reported, word",
    [("1", "yes"), ("2.0", "yes"), ("1.5", "yes"), ("0.99", "no"), ("2.01", "no"), ("", ""), ("0.5;1.5", "")],
)
def test_a_reported_size_is_compatible_within_the_interval(reported, word):
    found = replace(effect([1.0, 2.0], [0.0, 0.1]), low=1.0, high=2.0)
    assert claims._compatible(reported, found) == word and claims._compatible(reported, None) == ""


def test_the_highest_scale_with_all_of_a_claim_is_shown(build):
    folder = build(rows_of("cpu", "mnist"), "cpu")
    assert claims.verdict("m14", build=folder) == "supported"
    part = rows_of("paper", "mnist").query("model in ('am', 'cnn', 'am_norl')")  # there attention makes nets worse
    build(part.assign(test_accuracy_percent=part.test_accuracy_percent - 3 * (part.model == "am")), "paper")
    shown = claims.table(build=folder).set_index("id")
    # whole; not run there; nowhere whole
    assert shown.scale[["M14", "M21", "M25"]].tolist() == [
        "paper",
        "cpu",
        "paper",
    ]
    assert shown.verdict[["M14", "M21"]].tolist() == ["contradicted", "supported"] and shown.evidence["M14"]


def test_a_whole_set_wins_over_its_part():
    both = pd.concat([rows_of(), rows_of(data="mnist")])
    assert set(planned(both, "smoke", PAGE).data) == set(planned(both[::-1], "smoke", PAGE).data) == {"mnist"}


def test_a_page_shows_the_claims_that_it_decides(build):
    shown = claims.of_page(PAGE, rows_of(), "smoke", build(rows_of()))
    assert shown.id.tolist() == [id for id, claim in CLAIMS.items() if claim.experiment == PAGE] and shown.verdict[
        shown.id == "M14"
    ].tolist() == ["supported"]


def test_image_sets_that_are_not_known_decide_nothing():
    assert planned(rows_of().assign(data="no_such_set"), "smoke", PAGE).empty


def test_claims_are_traced_by_their_kind(build):
    folder = build(rows_of())
    lines = claims.trace("m14", "smoke", folder)
    assert lines[:3] == [
        "M14: supported, no evidence (scale smoke)",
        f"decided by the page {PAGE}",
        f"from 6 rows of 6 nets or draws in rows/{PAGE}.csv, column test_accuracy_percent",
    ]
    assert lines[3].startswith("net ") and lines[3].endswith(": am on mnist_mini, seed 0") and len(lines) == 9
    assert claims.trace("M15", "smoke", folder)[2:] == [
        f"from 0 rows of 0 nets or draws in rows/{PAGE}.csv, column test_accuracy_percent"
    ]
    assert claims.trace("M25", "smoke", folder)[2].startswith("from ")
    rows = rows_of(scores_order_agreement=1.0)
    append_rows(
        folder / "smoke" / "rows" / "02_importance.csv",
        pd.concat([rows.assign(gate=gate) for gate in ("first", "second")]),
    )
    gain = claims.trace("M10", "smoke", folder)
    assert "rests on M14, attention's gain on mnist" in gain and "rests on M15, attention's gain on cifar10" in gain
    assert [line for line in gain if line.startswith("from ")] == [
        "from 18 rows of 9 nets or draws in rows/02_importance.csv, column test_accuracy_percent"
    ]
    assert sum(line.startswith("net ") for line in gain) == 9  # each once
    # which the rows have not
    assert claims.trace("M7", "smoke", folder)[2:] == [
        "from 0 rows of 0 nets or draws in rows/02_importance.csv, column tau"
    ]
    assert {line.split()[2] for line in gain if line.startswith("net ")} <= {"am", "cnn", "am_static"}
    assert "column scores_order_agreement" in claims.trace("M5", "smoke", folder)[2]
    assert claims.trace("M67", "smoke", folder) == [
        "M67: not tested, no evidence (scale smoke)",
        CLAIMS["M67"].protocol,
    ]
