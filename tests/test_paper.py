"""No number of the paper is typed: what it says of results is inserted from them. And it has a sentence for every
verdict."""

import ast
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from fmm_nb.article import ADVICE, QUESTIONS, TOLD, sentence
from fmm_nb.claims import CLAIMS
from fmm_nb.findings import Findings, findings, partly, word_of
from fmm_nb.pages import measured
from fmm_nb.plan import EXPERIMENTS
from fmm_nb.planned_rows import tables_of
from fmm_nb.reproduction import estimates
from fmm_nb.results import kept

ROOT = Path(__file__).resolve().parent.parent
PAPER = json.loads((ROOT / "nbs" / "paper.ipynb").read_text(encoding="utf-8"))["cells"]
NUMBERED = r"\b(?:Figures?|Tables?|Sections?|Equations?|Eqs?\.) \d+(?:(?: to | and |, )\d+)*"  # places in a source
ALLOWED = [
    r"```.*?```",
    r"`[^`]*`",
    r"\$\$.*?\$\$",
    r"\$[^$]*\$",
    r"\]\([^)]*\)",
    r"<[^>]*>",
    NUMBERED,
    r"\b95% intervals?\b",
]
NUMERAL = re.compile(r"(?<![\w.−-])[+−-]?\d[\d.,]*(?![\w])")
REFERENCES = "## References"


def numerals(text):
    "The bare numerals of a text: not those of code, formulas, links, tags, or places in a source."
    for pattern in ALLOWED:
        text = re.sub(pattern, " ", text, flags=re.S)
    return NUMERAL.findall(text)


def literals(source):
    "The texts of code that people may read: its strings, and what is literal in those that are filled in."
    tree = ast.parse("\n".join("" if line.startswith("#|") else line for line in source.splitlines()))
    formats = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.FormattedValue) and node.format_spec
        for part in ast.walk(node.format_spec)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in formats
    ]


def texts():
    "Every text of the paper that is written by hand, with the number of its cell."
    for number, cell in enumerate(PAPER):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and REFERENCES not in source:
            yield number, source
        elif cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []):
            yield from ((number, text) for text in literals(source))


def test_no_number_is_typed():
    typed = [
        f"cell {number}: {', '.join(found)} in {text[:80]!r}" for number, text in texts() if (found := numerals(text))
    ]
    typed += [f"{id}: {text}" for id, words in TOLD.items() for text in words if numerals(text)] + [
        text for _, _, text in ADVICE if numerals(text)
    ]
    assert not typed, "numbers that do not come from results:\n" + "\n".join(typed)


@pytest.mark.parametrize(
    "text",
    [
        "accuracy rose by 0.4 points",
        "−1.5 on MNIST",
        "in 64% of pairs",
        "of 10 runs",
        "(12)",
        "a factor of 2.",
        "[0.1, 0.3]",
        "95% of runs",
    ],
)
def test_a_typed_number_is_found(text):
    assert numerals(text)
    assert any(numerals(one) for one in literals(f"x = 1\nMarkdown(f'{{x:.2f}} and {text}')"))


@pytest.mark.parametrize(
    "text",
    [
        "Figure 2 of the source",
        "Tables 1 to 3",
        "Equations 1, 2 and 3",
        "on CIFAR-10 with ResNet-50",
        "claim M14",
        "`-p seeds 3`",
        "$x^{10}$",
        "[page](03.ipynb)",
        "03_multiplication",
        "95% intervals",
    ],
)
def test_what_is_no_result_may_have_a_number(text):
    assert not numerals(text)


def test_formats_and_numbers_of_code_are_no_text():
    assert not any(map(numerals, literals("figure(figsize=(6.5, 2))\nf'{x:.2f}'")))


@pytest.mark.parametrize("word", ["supported", "contradicted", "undecided", "not tested"])
def test_every_verdict_has_its_own_sentence(word):
    claims = pd.DataFrame([{"id": id, "verdict": word} for id in CLAIMS]).set_index("id", drop=False)
    found = Findings(claims, estimates({}), {})
    said = {id: sentence(found, id) for id in TOLD}
    assert {word_of(found, id) for id in TOLD} == {word} and len(set(said.values())) == len(TOLD)
    others = [
        sentence(Findings(claims.assign(verdict=other), estimates({}), {}), "M14")
        for other in ("supported", "contradicted", "undecided", "not tested")
        if other != word
    ]
    assert said["M14"] not in others


def test_a_part_at_a_higher_scale_is_told_beside_what_decides(monkeypatch):
    scales = {"M14": "paper", "M15": "cpu", "M56": ""}
    cells = lambda ids: pd.DataFrame(
        [(id, "mnist", "+ am − cnn", 1.0, 0.5, 1.5, 0.0, 0.2) for id in ids], columns=estimates({}).columns
    )
    monkeypatch.setattr(
        "fmm_nb.findings.table", lambda *given: pd.DataFrame({"id": list(scales), "scale": list(scales.values())})
    )
    monkeypatch.setattr("fmm_nb.findings.tables_of", lambda name, build: name)
    monkeypatch.setattr(
        "fmm_nb.findings.estimates", lambda name: cells({"cpu": ["M14", "M15"], "paper": ["M14", "M15"]}[name])
    )
    found = findings()
    assert found.estimates.claim.tolist() == ["M15", "M14"]
    assert found.partial[["claim", "scale"]].to_numpy().tolist() == [["M15", "paper"]]
    assert partly(found, "M15").startswith("in part at paper: MNIST") and not partly(found, "M14")


def test_the_paper_speaks_of_claims_that_there_are():
    named = set(re.findall(r'"([MA]\d+)"', "".join("".join(cell["source"]) for cell in PAPER)))
    assert named | {id for ids in QUESTIONS.values() for id in ids} <= set(TOLD) <= set(CLAIMS)


def test_the_paper_leads_to_every_experiment():
    source = "".join("".join(cell["source"]) for cell in PAPER)
    shown = {name for name in EXPERIMENTS if f'"{name}"' in source or f"experiments/{name}.ipynb" in source}
    assert set(EXPERIMENTS) <= shown, "add a figure or a link: " + ", ".join(sorted(set(EXPERIMENTS) - shown))


def test_a_run_may_take_nothing_that_was_published(monkeypatch, tmp_path):
    monkeypatch.setenv("FMM_ANEW", "1")
    assert tables_of("cpu", tmp_path) == {} and not measured("03_multiplication", "cpu", tmp_path)
    rows = kept(
        "03_multiplication",
        {"0123": "a net"},
        1,
        lambda missing: [
            (
                0,
                [
                    {
                        "key": "0123",
                        "measure_version": 1,
                        "model": "cnn",
                        "data": "mnist",
                        "seed": 0,
                        "precision": "float32",
                    }
                ],
            )
        ],
        "cpu",
        tmp_path,
    )
    assert rows.key.tolist() == ["0123"]
    monkeypatch.delenv("FMM_ANEW")
    assert measured("03_multiplication", "cpu", tmp_path)
