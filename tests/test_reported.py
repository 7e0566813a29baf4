"""What the sources report and claim: complete, well formed, and in agreement with itself."""

import csv
import math
import re
from itertools import product
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "data" / "reported"
IDS = [f"M{i}" for i in range(1, 71)] + [f"A{i}" for i in range(1, 18)]
COLUMNS = "id,statement,place,kind,family,data,protocol,primary,comparators,direction,margin,reported,experiment".split(
    ","
)
BASE = "source,place,data,model,quantity,value,unit,error".split(",")
CONTRASTS = {"difference", "equivalence", "proportion", "causal", "mediation"}
KINDS = CONTRASTS | {"conjunction", "exact", "weak", "some", "untestable"}
DATA = {"mnist", "fashion_mnist", "cifar10", "cifar100", "cifar100_coarse", "stl10", "tiny_imagenet", "imagenet"}
M_PAGES = "01_random_curves 02_importance 03_multiplication 04_landscapes 05_sensitivity 06_mixup".split()
M_PAGES += ["07_fmmnet", "08_depth", "16_bridge"]
A_PAGES = "11_locality 12_microstructure 13_full_attention 14_units 15_imagenet_cost".split()
OWN = {
    "README.md",
    "CHANGES.md",
    "claims.csv",
    "MEASURES.csv",
    "contradictions.csv",
    "sentences.csv",
    "second_looks.csv",
}
NET = re.compile(
    r"(cnn|am)(_mixup)?|am_norl|am_nomtp|resnet|fmmnet|(se_|aa_|fa_|ge_|atac_)?resnet50|(senet|genet_theta)_b\d|resnet_b(\d|<b>)_([a-z_]+|<unit>)"
)
NUMBER = r"-?\d+(?:\.\d+)?"


def read(name):
    with open(FOLDER / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


TABLES = {path.stem: read(path.stem) for path in sorted(FOLDER.glob("*.csv")) if path.name not in OWN}
ROWS = read("claims")
CLAIMS = {row["id"]: row for row in ROWS}
MEASURES = {row["name"]: row for row in read("MEASURES")}
CONTRADICTIONS = read("contradictions")


# ---- the grammar of comparators (data/reported/README.md)
ARM = re.compile(r"([a-z][a-z0-9_]*)(?:\[([a-z_]+=[a-z0-9_.]+(?:,[a-z_]+=[a-z0-9_.]+)*)\])?")
PAIR = re.compile(rf"(?:({NUMBER}) )?\((.+) - (.+)\)")


def arm(text):
    match = ARM.fullmatch(text)
    assert match, f"no arm: {text!r}"
    return match[1], tuple(sorted(option.split("=")[0] for option in (match[2] or "").split(",") if option)), text


def side(text):
    "A side as {arm text or None: factor}; None is the constant."
    if re.fullmatch(NUMBER, text):
        return {None: float(text)}
    if pair := PAIR.fullmatch(text):
        factor = float(pair[1] or 1)
        return {arm(pair[2])[2]: factor, arm(pair[3])[2]: -factor}
    return {arm(text)[2]: 1.0}


def expand(text):
    groups = [group.split(",") for group in re.findall(r"\{([^{}]*)\}", text)]
    assert len({len(group) for group in groups}) <= 1, f"braces of unequal length in {text!r}"
    steps = list(zip(*groups)) if groups else [()]
    return [re.sub(r"\{[^{}]*\}", lambda match, values=iter(step): next(values), text) for step in steps]


def contrasts(text):
    "Every contrast as a list of its cells, each {arm text or None: factor}, left minus right."
    found, left = [], None
    for item in text.split("; "):
        if " vs " not in item:
            assert left, f"{item!r} has nothing to go against"
            item = f"{left} vs {item}"
        assert item.count(" vs ") == 1, item
        left = item.split(" vs ")[0]
        cells = []
        for one in expand(item):
            a, b = (side(part) for part in one.split(" vs "))
            total = {name: a.get(name, 0) - b.get(name, 0) for name in a | b}
            cells.append({name: factor for name, factor in total.items() if factor or name is None})
        found.append(cells)
    return found


def split(text):
    return text.split(";") if text else []


def cells(claim):
    "The (image set, contrast) cells of a claim, in the order of `reported`."
    found = contrasts(claim["comparators"])
    if claim["kind"] == "causal":
        found = found[:1]
    return list(product(split(claim["data"]) or [""], [cell for contrast in found for cell in contrast]))


@pytest.mark.parametrize(
    "bad",
    [
        "am cnn",
        "am vs",
        "cnn; am vs cnn",
        "am vs cnn vs am",
        "am[path] vs cnn",
        "(am - cnn vs am",
        "am{1,2} vs cnn{1,2,3}",
        "Am vs cnn",
        "am vs 0,5",
    ],
)
def test_the_grammar_refuses(bad):
    with pytest.raises(AssertionError):
        contrasts(bad)


def test_the_grammar_reads():
    assert contrasts("am vs cnn; am_half") == [[{"am": 1, "cnn": -1}], [{"am": 1, "am_half": -1}]]
    assert contrasts("a_b{1,2} vs b_b{2,3}") == [[{"a_b1": 1, "b_b2": -1}, {"a_b2": 1, "b_b3": -1}]]
    assert contrasts("x[k={u,v},n=1] vs 0.5") == [[{"x[k=u,n=1]": 1, None: -0.5}, {"x[k=v,n=1]": 1, None: -0.5}]]
    assert contrasts("(cnn_mixup - cnn) vs (am - cnn)") == [[{"cnn_mixup": 1, "am": -1}]]
    assert contrasts("(p - cnn) vs 0.5 (am - cnn)") == [[{"p": 1, "cnn": -0.5, "am": -0.5}]]


# ---- claims
def test_every_claim_once_in_order():
    assert [row["id"] for row in ROWS] == IDS and len(IDS) == 87
    assert all(list(row) == COLUMNS and None not in row.values() for row in ROWS)
    assert len({row["statement"] for row in ROWS}) == 87


@pytest.mark.parametrize("name", IDS)
def test_a_claim_is_well_formed(name):
    claim = CLAIMS[name]
    kind, data, margins = claim["kind"], split(claim["data"]), [float(margin) for margin in split(claim["margin"])]
    assert (
        claim["statement"][-1] == "."
        and claim["place"]
        and kind in KINDS
        and set(data) <= DATA
        and len(set(data)) == len(data)
    )
    assert claim["statement"].isascii() or re.fullmatch(r"[\x20-\x7e×θτ]+", claim["statement"])
    assert not re.search(r"\b[MA]\d+\b", claim["statement"]), "a statement is read without the numbering"
    assert claim["experiment"] in (M_PAGES if name[0] == "M" else A_PAGES)
    assert bool(claim["family"]) == (kind != "untestable") and (
        not claim["family"] or claim["family"].startswith({"M": "fmmnet_", "A": "atac_"}[name[0]])
    )
    assert claim["direction"] in (("+", "-") if kind in {"difference", "causal", "mediation", "proportion"} else ("",))
    assert all(math.isfinite(margin) and margin >= 0 for margin in margins)
    if kind in {"difference", "equivalence", "causal", "mediation"}:
        assert len(margins) in (1, len(data)) and (kind == "mediation" or min(margins) > 0)
    elif kind != "exact":
        assert not margins
    if claim["primary"].startswith("log ") and kind != "exact":
        assert claim["margin"] == "0.0953" and abs(math.exp(0.0953) - 1.1) < 1e-4
    if kind in {"conjunction", "untestable"}:
        assert not claim["primary"]
    else:
        measure = MEASURES[claim["primary"].removeprefix("log ")]
        assert claim["experiment"] in split(measure["experiment"])


@pytest.mark.parametrize("name", IDS)
def test_comparators_fit_the_kind(name):
    claim, kind, text = CLAIMS[name], CLAIMS[name]["kind"], CLAIMS[name]["comparators"]
    if kind == "untestable":
        assert not text and len(claim["protocol"]) > 40
    elif kind == "conjunction":
        parts = text.split("; ")
        assert set(parts) <= set(IDS) - {name} and len(set(parts)) == len(parts) > 1
        assert {CLAIMS[part]["kind"] for part in parts} <= KINDS - {"conjunction", "untestable"}
        assert set(split(claim["data"])) == {data for part in parts for data in split(CLAIMS[part]["data"])}
    elif kind == "exact":
        assert MEASURES[text]["unit"] == "0 or 1" and claim["experiment"] in split(MEASURES[text]["experiment"])
    elif kind in {"weak", "some"}:
        assert claim["primary"] == "tau_excess" and all(arm(one)[0] == "am" for one in expand(text))
    else:
        every = [cell for contrast in contrasts(text) for cell in contrast]
        assert all(any(arm for arm in cell) for cell in every) and len({str(cell) for cell in every}) == len(every)
        constants = [abs(cell[None]) for cell in every if None in cell]
        assert (
            (len(constants) == len(every) and all(0 < share < 1 for share in constants))
            if kind == "proportion"
            else name == "M41" or not constants
        )
        if kind == "causal":
            assert len(every) > 2 and len({tuple(n for n, factor in cell.items() if factor > 0) for cell in every}) == 1
        if kind == "mediation":
            assert all(sorted(cell.values()) == [-0.5, -0.5, 1] for cell in every)


def test_families():
    alone = {
        kind: [CLAIMS[name]["family"] for name in IDS if CLAIMS[name]["kind"] == kind]
        for kind in ("conjunction", "causal", "mediation")
    }
    families = [claim["family"] for claim in ROWS]
    assert all(families.count(family) == 1 for own in alone.values() for family in own)
    assert [name for name in IDS if CLAIMS[name]["family"] == "fmmnet_table1"] == [
        "M14",
        "M15",
        "M16",
        "M17",
        "M18",
        "M19",
        "M21",
        "M22",
        "M23",
        "M24",
    ]


def test_special_rows():
    assert {
        name: claim["kind"]
        for name, claim in CLAIMS.items()
        if claim["kind"] in {"weak", "some", "mediation", "untestable"}
    } == {"M1": "weak", "M2": "weak", "M4": "some", "M10": "mediation", "M43": "mediation", "M67": "untestable"}
    assert {"cnn", "am_nomtp", "am_half", "am_static", "am_shuffled", "cnn_matched"} == {
        arm for contrast in contrasts(CLAIMS["M25"]["comparators"]) for cell in contrast for arm in cell
    } - {"am"}


def test_only_claims_of_less_have_the_sign_minus():
    less = {"M21", "M22", *(f"M{i}" for i in (29, 30, 32, 33, 34, *range(35, 41), 42, 50, 51, 53, 62, 68, 70)), "A10"}
    assert {name for name, claim in CLAIMS.items() if claim["direction"] == "-"} == less


def test_measures():
    used = {claim["primary"].removeprefix("log ") for claim in ROWS} | {
        claim["comparators"] for claim in ROWS if claim["kind"] == "exact"
    }
    assert set(MEASURES) == used - {""} | {"tau_yardstick"}
    assert len(read("MEASURES")) == len(MEASURES) and all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in MEASURES)
    for name, measure in MEASURES.items():
        users = {
            claim["experiment"]
            for claim in ROWS
            if name in (claim["primary"].removeprefix("log "), claim["comparators"])
        }
        assert (
            measure["unit"]
            and measure["meaning"]
            and users <= set(split(measure["experiment"])) <= set(M_PAGES + A_PAGES)
        )


def test_columns_of_arms_are_explained():
    used = {option for claim in ROWS for option in re.findall(r"([a-z_]+)=", claim["comparators"])}
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert used == set(re.findall(r"`([a-z_]+)`", re.search(r"Columns that arms name: (.+)", text)[1]))


# ---- claims against the tables
def looked_up(table, quantity=None):
    "Values of one table by (image set, net), fractions as percent."
    rows = [row for row in TABLES[table] if quantity in (None, row["quantity"])]
    values = {
        (row["data"], row["model"]): float(row["value"]) * (100 if row["unit"] == "fraction" else 1) for row in rows
    }
    assert len(values) == len(rows), f"{table} holds several values for one net"
    return values


SOURCES = {
    "table1": [f"M{i}" for i in (14, 15, 16, 17, 18, 19, 21, 22, 23, 24, 25)],
    "table2 J": ["M35", "M36", "M37", "M42"],
    "table2 S": ["M38", "M39", "M40"],
    "table3": ["M44", "M45", "M46", "M47", "M48", "M49", "M50"],
    "table4": ["M55", "M56", "M57", "M58"],
    "atac_table2": ["A1", "A2"],
    "atac_table3": ["A3", "A4", "A5"],
    "atac_fig7 test_accuracy": ["A8"],
    "atac_fig8": ["A9"],
    "atac_table4 top1_error": ["A10"],
}


@pytest.mark.parametrize("table, name", [(table, name) for table, names in SOURCES.items() for name in names])
def test_reported_effects_are_those_of_the_tables(table, name):
    claim, values = CLAIMS[name], looked_up(*table.split())
    scale = math.log if claim["primary"].startswith("log ") else float
    expected = [
        sum(factor * scale(values[data, arm.split("[")[0]]) for arm, factor in cell.items())
        for data, cell in cells(claim)
    ]
    assert [float(value) for value in split(claim["reported"])] == pytest.approx(expected, abs=6e-5)
    if claim["kind"] in {"difference", "causal"} and name != "A4":
        assert all(value * {"+": 1, "-": -1}[claim["direction"]] > 0 for value in expected), (
            "the source's number has the claim's sign"
        )


def test_every_reported_effect_is_checked():
    checked = {name for names in SOURCES.values() for name in names} | {"M1", "M2", "M7", "A7", "A11"}
    assert {name for name, claim in CLAIMS.items() if claim["reported"]} == checked


def test_reported_agreement():
    taus = {row["saliency"]: row["value"] for row in TABLES["fig2"] if row["quantity"] == "kendall_tau"}
    assert (CLAIMS["M1"]["reported"], CLAIMS["M2"]["reported"]) == (taus["fullgrad"], taus["smooth_fullgrad"])
    assert {float(value) for value in split(CLAIMS["M7"]["reported"])} == {
        float(taus["fullgrad"]) - float(taus["smooth_fullgrad"])
    }
    assert float(CLAIMS["M7"]["margin"]) == float(taus["fullgrad"]) / 2
    assert {row["value"] for row in TABLES["fig2"] if row["quantity"] == "cosine"} == {"0.7"}


def test_accuracy_at_equal_parameters():
    accuracy, count = looked_up("atac_fig7", "test_accuracy"), {}
    for row in TABLES["atac_counted"]:
        if row["b"] and (row["data"], row["classes"]) in {("cifar10", "10"), ("cifar100_coarse", "100")}:
            count[row["data"], row["model"]] = int(row["value"])

    def interpolated(data, model, wanted):
        points = [(count[data, f"resnet_b{b}_{model}"], accuracy[data, f"resnet_b{b}_{model}"]) for b in range(1, 6)]
        return next(
            y0 + (y1 - y0) * (wanted - x0) / (x1 - x0)
            for (x0, y0), (x1, y1) in zip(points, points[1:])
            if x0 <= wanted <= x1
        )

    expected = []
    for data, cell in cells(CLAIMS["A7"]):
        (ours,), (other,) = (
            [n for n, factor in cell.items() if factor > 0],
            [n for n, factor in cell.items() if factor < 0],
        )
        expected.append(accuracy[data, ours] - interpolated(data, other.split("_")[-1], count[data, ours]))
    assert [float(value) for value in split(CLAIMS["A7"]["reported"])] == pytest.approx(expected, abs=0.0051)


def test_overhead():
    millions = looked_up("atac_table4", "parameters")
    assert float(CLAIMS["A11"]["reported"]) == round(
        100 * (millions["imagenet", "atac_resnet50"] / millions["imagenet", "resnet50"] - 1), 1
    )
    count = {
        (row["model"], row["classes"]): int(row["value"])
        for row in TABLES["atac_counted"]
        if row["quantity"] == "parameters"
    }
    overhead = [
        round(100 * (count[f"resnet_b{b}_atac", "10"] / count[f"resnet_b{b}_relu", "10"] - 1), 1) for b in range(1, 5)
    ]
    assert "counted 15.1, 13.2, 12.7, 12.4" in CLAIMS["A11"]["protocol"] and overhead == [15.1, 13.2, 12.7, 12.4]


@pytest.mark.parametrize("name", ["M55", "M56", "M57", "M58", "A1", "A2", "A3", "A4", "A5", "A7", "A8", "A9", "A10"])
def test_margins_are_half_of_the_smallest_gain(name):
    claim = CLAIMS[name]
    gains, sets = [abs(float(value)) for value in split(claim["reported"])], split(claim["data"])
    width, margins = len(gains) // len(sets), [float(margin) for margin in split(claim["margin"])]
    smallest = [min(gain for gain in gains[i * width : (i + 1) * width] if gain) for i in range(len(sets))]
    assert margins == pytest.approx([gain / 2 for gain in smallest], abs=0.003 if name == "A7" else 1e-9)


def test_margins_of_the_toy_nets():
    for name, claim in CLAIMS.items():
        if (
            name[0] == "M"
            and claim["primary"] == "test_accuracy_percent"
            and claim["kind"] != "mediation"
            and claim["experiment"] != "07_fmmnet"
        ):
            assert split(claim["margin"]) == [{"mnist": "0.2", "cifar10": "0.4"}[data] for data in split(claim["data"])]
    gains = {"A6": 8, "A15": 8, "A16": 2}
    relu = looked_up("atac_table2")
    for name, share in gains.items():
        expected = [
            (relu[data, "resnet_b1_atac"] - relu[data, "resnet_b1_relu"]) / share
            for data in split(CLAIMS[name]["data"])
        ]
        assert [float(margin) for margin in split(CLAIMS[name]["margin"])] == pytest.approx(expected)


# ---- the tables themselves
@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_tidy(name):
    rows, identity = TABLES[name], []
    assert list(rows[0])[: len(BASE)] == BASE and rows
    for row in rows:
        assert None not in row and None not in row.values()
        assert (
            row["source"] == ("atac" if name.startswith("atac_") else "fmmnet")
            and row["place"]
            and row["quantity"]
            and row["unit"]
        )
        assert set(split(row["data"])) <= DATA
        assert row["unit"] == "name" or math.isfinite(float(row["value"]))
        assert row["unit"] != "name" or name.endswith("_protocol")
        assert bool(row["error"]) == (name in {"atac_fig7", "atac_fig8"}) and (
            not row["error"] or float(row["error"]) > 0
        )
        assert row["unit"] != "fraction" or 0 < float(row["value"]) < 1
        assert row["unit"] != "percent" or 0 < float(row["value"]) < 100
        assert name == "fmmnet_text" or all(NET.fullmatch(net) for net in row["model"].split(";"))
        assert not row.get("b") or f"_b{row['b']}" in row["model"]
        identity.append(tuple(value for column, value in row.items() if column not in {"value", "unit", "error"}))
    assert len(set(identity)) == len(rows)


def test_every_number_is_there():
    sizes = {
        "table1": 8,
        "table2": 12,
        "table3": 8,
        "table4": 8,
        "atac_table2": 24,
        "atac_table3": 24,
        "atac_table4": 23,
        "atac_fig7": 48 + 14,
        "atac_fig8": 36,
    }
    assert {name: len(TABLES[name]) for name in sizes} == sizes
    assert {path.name for path in FOLDER.iterdir()} == OWN | {f"{name}.csv" for name in TABLES}


def test_the_sources_agree_where_they_repeat_themselves():
    one, three, text = looked_up("table1"), looked_up("table3"), TABLES["fmmnet_text"]
    assert all(one[data, model] == three[data, model] for data in ("mnist", "cifar10") for model in ("cnn", "am"))
    assert all(three["mnist", row["model"]] == float(row["value"]) for row in text if row["data"] == "mnist")
    four, gain = looked_up("table4"), [row for row in text if row["quantity"] == "gain_over_resnet"]
    assert (
        [round(four[row["data"], "fmmnet"] - four[row["data"], "resnet"], 2) for row in gain]
        == [float(row["value"]) for row in gain]
        == [0.57]
    )
    two, three = looked_up("atac_table2"), looked_up("atac_table3")
    assert {key: two[key] for key in two if "_atac" in key[1]} == {
        key: three[key] for key in three if "_atac" in key[1]
    }


def test_figures_against_tables():
    """Where a figure shows a cell of a table, they differ beyond reading and rounding in the two cells that are known
    to."""
    table, differing = looked_up("atac_table2"), set()
    for figure in ("atac_fig7", "atac_fig8"):
        for row in TABLES[figure]:
            key = row["data"], row["model"]
            if (
                row["quantity"] == "test_accuracy"
                and key in table
                and abs(float(row["value"]) - table[key] / 100) > float(row["error"]) + 0.0005 + 1e-9
            ):
                differing.add((figure, *key))
    assert differing == {("atac_fig7", "cifar10", "resnet_b4_atac"), ("atac_fig8", "cifar100_coarse", "resnet_b4_atac")}


def test_counts_against_figure_and_table():
    count = {
        (row["data"], row["model"], row["classes"]): int(row["value"])
        for row in TABLES["atac_counted"]
        if row["quantity"] == "parameters"
    }
    read_off = [row for row in TABLES["atac_fig7"] if row["quantity"] == "parameters"]
    assert len(read_off) == 14
    for row in read_off:  # of 100 classes, although the labels have 20; positions are given in hundreds
        assert abs(int(row["value"]) - count[row["data"], row["model"], "100"]) <= float(row["error"]) + 50
    with_statistics = {
        row["model"]: int(row["value"])
        for row in TABLES["atac_counted"]
        if row["quantity"] == "parameters_and_running_statistics"
    }
    for (_, model), millions in looked_up("atac_table4", "parameters").items():
        assert abs(with_statistics.get(model, count["imagenet", model, "1000"]) / 1e6 - millions) < 0.05
    for b in range(1, 6):  # closed forms
        assert count["cifar10", f"resnet_b{b}_relu", "10"] == 77850 + 97216 * (b - 1)
        assert count["cifar10", f"resnet_b{b}_atac", "10"] - count[
            "cifar10", f"resnet_b{b}_relu", "10"
        ] == 11728 + 11424 * (b - 1)
    assert all(
        count["cifar100_coarse", m, k] - n == 65 * (int(k) - 10)
        for (d, m, c), n in count.items()
        if c == "10"
        for k in ("20", "100")
    )


# ---- contradictions
def test_every_contradiction_is_there():
    numbers = {
        source: [int(row["number"]) for row in CONTRADICTIONS if row["source"] == source]
        for source in ("fmmnet", "atac")
    }
    assert sum(map(len, numbers.values())) == len(CONTRADICTIONS)
    assert list(dict.fromkeys(numbers["fmmnet"])) == list(range(1, 17)) and list(
        dict.fromkeys(numbers["atac"])
    ) == list(range(1, 14))
    assert list(CONTRADICTIONS[0]) == "source,number,what,where_one,value_one,where_other,value_other,note".split(",")


@pytest.mark.parametrize("row", CONTRADICTIONS, ids=lambda row: f"{row['source']}-{row['number']}")
def test_a_contradiction_rests_on_numbers_of_the_sources(row):
    # an item on the other source
    source = "fmmnet" if (row["source"], row["number"]) == ("atac", "12") else row["source"]
    known = {
        float(other["value"])
        for rows in TABLES.values()
        for other in rows
        if other["source"] == source and other["unit"] != "name"
    }
    assert row["what"] and row["where_one"] and row["where_other"] and row["value_one"] != row["value_other"]
    numbers = []
    for value in (row["value_one"], row["value_other"]):
        if re.fullmatch(NUMBER, value):
            assert float(value) in known
            numbers.append(float(value))
        elif match := re.fullmatch(rf"({NUMBER}) - ({NUMBER}) = ({NUMBER})", value):
            a, b, difference = map(float, match.groups())
            assert {a, b} <= known and round(a - b, 6) == difference
            numbers.append(difference)
        else:
            assert re.search("[A-Za-z]{3}", value) and not re.search(r"\d\.\d| = ", value)
    assert len(numbers) < 2 or numbers[0] != numbers[1]


# ---- the record of changes
def test_the_record_names_what_exists():
    text = (FOLDER / "CHANGES.md").read_text(encoding="utf-8")
    assert re.search(r"^## 2026-11-22\nAll 87 rows", text, re.M)
    assert set(re.findall(r"\b[MA]\d+\b", text)) <= set(IDS)
    listed = re.findall(r"`([\w.]+)`", (FOLDER / "README.md").read_text(encoding="utf-8").split("## Numbers")[0])
    mentioned = {name for name in listed if "." in name} | {"table2.csv", "table3.csv", "atac_table3.csv"}
    assert mentioned | {"README.md"} == {path.name for path in FOLDER.iterdir()}


def test_a_second_look_is_in_the_record_of_its_day():
    days = dict(
        re.findall(r"^## (\S+)$(.*?)(?=^## |\Z)", (FOLDER / "CHANGES.md").read_text(encoding="utf-8"), re.M | re.S)
    )
    for row in read("second_looks"):
        assert CLAIMS[row["id"]]["experiment"] in A_PAGES and row["scale"] in ("cpu", "paper") and row["what"]
        assert "second look" in days[row["declared"]]
