"""Pages: judged by what they do, put in place whole, explained when out of date; and the command's answers to slips."""

import gc
import json
import re
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import nbformat
import pytest

from fmm_nb import batch, cli, origins, pages
from fmm_nb.cli import main
from fmm_nb.errors import InputError
from fmm_nb.files import build_folder, repository

NAME = "03_multiplication"
HEAVY = ("torch", "pandas", "scipy", "numpy", "papermill", "nbformat")
GOOD = "from fmm_nb.results import study\nstudy('paper', globals())\nstudy('paper', globals()).answer('found', {})"


def page_of(folder, code):
    "A page whose notebook is one cell of code."
    source = folder / "source.ipynb"
    parameters = nbformat.v4.new_code_cell("scale = 'smoke'\nstore = ''\nout = ''", metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(
        nbformat.v4.new_notebook(metadata=kernel, cells=[parameters, nbformat.v4.new_code_cell(code)]), source
    )

    class Page(pages.Page):
        "A page of another folder."

        source = property(lambda self: source)

    return Page("paper", "smoke", folder)


@pytest.fixture
def root(monkeypatch, tmp_path):
    "Relative names of inputs need the page to lie in the repository; here it lies in a folder of its own."
    for module in (batch, pages):
        monkeypatch.setattr(module, "inputs", lambda page: {"page": page.source.read_text()[-200:]})
    return tmp_path


def test_a_good_page_is_put_in_place_with_its_stamp(root):
    page = page_of(root, GOOD)
    assert pages.state(page) == "missing"
    assert batch.execute(page) is None
    assert pages.state(page) == "done" and not list((page.out / "failed").glob("*.ipynb"))
    assert json.loads(page.answer.read_text())["scale"] == "smoke"
    page_of(root, GOOD + "\n# another")
    assert pages.state(page) == "stale" and [name for name, *_ in pages.changes(page)] == ["page"]


@pytest.mark.parametrize(
    "code, message",
    [
        ("raise ValueError('no such luck')", "ValueError: no such luck"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "DeadKernelError"),
        ("1 + 1", "ended without its answer"),
    ],
)
def test_a_bad_page_is_told_and_changes_nothing(root, code, message):
    page = page_of(root, code)
    page.target.parent.mkdir(parents=True)
    page.target.write_text("as it was")
    page.answer.parent.mkdir(parents=True)
    page.answer.write_text("the last good one")
    failure = batch.execute(page)
    assert message in failure and str(page.out / "failed") in failure
    assert page.target.read_text() == "as it was" and not page.stamp.exists()
    assert page.answer.read_text() == "the last good one"


def test_a_page_that_rows_came_too_late_for_is_executed_once_more(monkeypatch, tmp_path):
    "Whether it was executed in this run or lay there; once, whatever its state is after that, and none that failed."
    there, ever, bad = (pages.Page(name, "smoke", tmp_path) for name in ("01_random_curves", NAME, "04_landscapes"))
    executed = []
    monkeypatch.setattr(batch, "missing_nets", lambda *given: [])
    monkeypatch.setattr(batch, "ProcessPoolExecutor", lambda workers, **given: ThreadPoolExecutor(workers))
    monkeypatch.setattr(batch, "ending", nullcontext)
    monkeypatch.setattr(
        batch, "execute", lambda page: executed.append(page) or ("04_landscapes: no" if page == bad else None)
    )
    monkeypatch.setattr(batch, "state", lambda page: "done" if page == there and not executed else "stale")
    assert batch.run(["01", "03", "04"], "smoke", 2, build=tmp_path) == ["04_landscapes: no"]
    assert sorted(executed, key=lambda page: page.name) == [there, ever, ever, bad]


def test_published_pages_have_no_folder_of_this_machine(root):
    page = page_of(root, GOOD + f"\nprint({str(Path.home())!r})")
    assert batch.execute(page) is None
    text = batch.cleaned(page.target.read_text())
    assert str(Path.home()) + "'" not in text and "papermill" not in text.replace("injected", "")


def test_publishing_a_page_adds_its_rows_and_leaves_other_pages_alone(root, tmp_path):
    page, results = pages.Page(NAME, "smoke", root), tmp_path / "kept"
    for path, text in {
        page.target: json.dumps({"metadata": {}, "cells": []}),
        page.answer: "{}",
        page.stamp: json.dumps(pages.inputs(page)),
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    row = "key,measure_version,model,data,seed,precision,value\n"
    built, other = page.out / "rows" / f"{NAME}.csv", page.out / "rows" / "99_other.csv"
    built.parent.mkdir(parents=True)
    built.write_text(row + "b,1,cnn,mnist,0,float32,2.0\n")
    other.write_text(row)
    kept = results / page.scale / "rows" / f"{NAME}.csv"
    kept.parent.mkdir(parents=True)
    kept.write_text(row + "a,1,cnn,mnist,0,float32,1.0\n")
    batch.publish(page.scale, ["3"], page.build, results)
    assert kept.read_text() == row + "a,1,cnn,mnist,0,float32,1.0\nb,1,cnn,mnist,0,float32,2.0\n"
    assert sorted(p.name for p in kept.parent.glob("*.csv")) == [kept.name]
    assert (results / page.scale / "notebooks" / "experiments" / f"{NAME}.ipynb").exists()


def test_the_page_of_table_1_runs_straight_with_papermill(tmp_path):
    "On the nets of build/store, which `make paper` takes too; trained here where they are not there yet."
    page = repository() / "nbs" / "experiments" / f"{NAME}.ipynb"
    # the study's own nets: trained once
    given = {
        "scale": "smoke",
        "seeds": 2,
        "datasets": "mnist_mini",
        "store": build_folder() / "store",
        "out": tmp_path / "out",
    }
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(page),
        str(tmp_path / "out.ipynb"),
        "--no-progress-bar",
        "-k",
        "python3",
    ]
    for name, value in given.items():
        command += ["-p", name, str(value)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads((tmp_path / "out" / "answers" / f"{NAME}.json").read_text())
    assert "Smoke: not evidence" in answer["text"] and len(answer["tables"]["mnist_mini"]) == 9
    rows = (tmp_path / "out" / "rows" / f"{NAME}.csv").read_text().splitlines()
    assert len(rows) == 1 + 10 * 2
    assert {p.suffix for p in (tmp_path / "out" / "figures").iterdir()} == {".svg", ".pdf", ".csv"}


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"sclae": "cpu"}, "unknown parameter 'sclae'; did you mean 'scale'?"),
        ({"seeds": "two"}, "parameter seeds must be int, got 'two'"),
        ({"seeds": 1}, "seeds must be a whole number of at least 2, got 1"),
    ],
)
def test_a_mistyped_parameter_is_refused_before_any_work(tmp_path, parameters, message):
    import papermill

    page = repository() / "nbs" / "experiments" / f"{NAME}.ipynb"
    with pytest.raises(papermill.PapermillExecutionError, match=message.replace("?", r"\?")):
        papermill.execute_notebook(page, tmp_path / "out.ipynb", parameters, kernel_name="python3", progress_bar=False)


@pytest.mark.parametrize(
    "line, message",
    [
        ("run 88", "unknown experiment '88'; possible: 01_random_curves, 02_importance"),
        ("run --scale huge", "unknown scale 'huge'; possible: cpu, paper, smoke"),
        ("run --workers 0", "workers must be a whole number of at least 1, got 0"),
        ("list model", "unknown list 'model'; did you mean 'models'"),
        ("why 03_multiplicaton", "did you mean '03_multiplication'"),
        ("publish --scale paper", "not published: "),
        ("data get mnst", "unknown data set 'mnst'; did you mean 'mnist'"),
        ("data check cifar100", "cifar100"),
        ("why 04_nonsense.svg", "number or net '04_nonsense.svg'; did you mean"),
        ("why 98.7654", "no answer and no row at scale smoke reads 98.7654"),
        ("claims M99", "unknown claim 'M99'"),
        ("run 03 --scale paper", "mnist is not on this machine"),
    ],
)
@pytest.mark.filterwarnings("ignore:.* is not on this machine. its fingerprint")
def test_a_mistake_is_one_line_and_exit_code_2(line, message, capsys, monkeypatch):
    monkeypatch.delenv("FMM_DATA", raising=False)
    assert main(line.split()) == 2
    said = capsys.readouterr().err
    assert message in said and said.startswith("fmm: ") and said.count("\n") == 1


def test_an_altered_file_is_found_by_the_check(tmp_path, monkeypatch, capsys):
    import shutil

    from fmm_nb import sources

    copy = tmp_path / "mini"
    shutil.copytree(repository() / "data" / "mini", copy)
    monkeypatch.setattr(sources, "data_folder", lambda: tmp_path)
    assert main(["data", "check", "mnist_mini"]) == 0
    with open(copy / "mnist_mini.npz", "ab") as file:
        file.write(b"x")
    assert main(["data", "check", "mnist_mini"]) == 2
    assert "mnist_mini.npz" in capsys.readouterr().err


def test_published_rows_are_taken_once(tmp_path, monkeypatch):
    "Rows that are both published and built are one measurement."
    import pandas as pd

    from fmm_nb.tables import append_rows, known_rows

    about = {"measure_version": 1, "model": "am", "data": "mnist", "precision": "float32"}
    rows = pd.DataFrame([{"key": f"{i:016x}", "seed": i, "value": i} | about for i in range(3)])
    for place in ("published", "built"):
        append_rows(tmp_path / f"{place}.csv", rows)
        append_rows(tmp_path / f"{place}.csv", rows.assign(value=9))
    assert known_rows(tmp_path / "published.csv", tmp_path / "built.csv").value.tolist() == [0, 1, 2]


def test_every_command_has_an_example_in_its_help(capsys):
    from fmm_nb.cli import COMMANDS

    for name in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0 and f"example: fmm {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        "list",
        "why 03",
        "why ×1.38 --scale cpu",
        "why 05_definitions --scale cpu",
        "run --dry-run",
        "claims",
        "claims M14 --json",
        "--help",
    ],
)
def test_listing_and_explaining_import_nothing_heavy(line, tmp_path):
    code = (
        f"import sys; from fmm_nb.cli import main\ntry: main({line.split()})\nexcept SystemExit: pass\n"
        f"print(sorted({set(HEAVY)} & set(sys.modules)))"
    )
    if line.startswith("claims"):
        main(["claims"])  # judged once, then remembered
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_a_second_paper_executes_no_page_and_imports_nothing_heavy(tmp_path):
    every = [pages.Page(name, "smoke", tmp_path) for name in (*batch.EXPERIMENTS, "paper")]
    for page in every:
        for path, text in ((page.target, "{}"), (page.answer, "{}")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for page in every:
        page.stamp.parent.mkdir(exist_ok=True)
        page.stamp.write_text(json.dumps(pages.inputs(page)))
    code = f"""import sys; from pathlib import Path; from fmm_nb import batch
batch._site = lambda scale, build: []
batch._papermill = batch.ProcessPoolExecutor = None
print(batch.paper('smoke', 2, Path({str(tmp_path)!r})))
print(sorted({set(HEAVY)} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["scale smoke: nothing is missing", "[]", "[]"], done.stdout + done.stderr


def test_claims_are_judged_again_when_a_row_changed(tmp_path, monkeypatch):
    from fmm_nb import verdicts

    judged = []
    monkeypatch.setenv("FMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(verdicts, "_judged", lambda scale, build: judged.append(scale) or [{"id": "M1"}])
    rows = tmp_path / "smoke" / "rows" / f"{NAME}.csv"
    rows.parent.mkdir(parents=True)
    for text in ("key\n", "key\n", "key\n1\n"):
        rows.write_text(text)
        assert verdicts.verdicts("smoke", tmp_path) == [{"id": "M1"}]
    assert verdicts.verdicts("cpu", tmp_path) and judged == ["smoke", "smoke", "cpu"]


def test_a_data_folder_that_is_none_is_told(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FMM_DATA", str(tmp_path / "none"))
    assert (main(["doctor"]), main(["list", "data"])) == (0, 0)
    assert capsys.readouterr().out.count(f"{tmp_path / 'none'}, which is no folder") == 2


def test_ctrl_c_is_one_line_and_no_search_for_garbage(capsys, monkeypatch):
    def stopped(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "doctor", (stopped, "fmm doctor", []))
    monkeypatch.setattr(sys, "argv", ["fmm", "doctor"])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    before = gc.get_freeze_count()
    try:
        assert main(["doctor"]) == 130 and gc.get_freeze_count() == before
        assert main() == 130 and gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
    assert capsys.readouterr().err == "fmm: stopped; what was finished is kept, the same command goes on\n" * 2


def test_pages_end_where_their_run_is_stopped(monkeypatch):
    monkeypatch.setattr(batch, "execute", time.sleep)
    monkeypatch.setattr(batch, "as_completed", Mock(side_effect=KeyboardInterrupt))
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        batch.execute_all([300, 301], 1)
    assert time.monotonic() - began < 100


@pytest.mark.parametrize(
    "file, page",
    [
        ("04_curves.svg", "04_landscapes"),
        ("16_units.pdf", "16_bridge"),
        ("08_untrained.csv", "08_depth"),
        ("claims.csv", "paper"),
        ("figures/paper_learning.svg", "paper"),
        ("11_locality.ipynb", "11_locality"),
    ],
)
def test_a_published_file_leads_to_the_page_that_makes_it(file, page, tmp_path):
    told, due = origins.explain(file, "cpu", tmp_path), pages.why(page, "cpu", tmp_path)
    assert told[0].startswith(f"{Path(file).stem}: by the page {page}") and told[-len(due) :] == due != []


@pytest.mark.parametrize("claim", ["M14", "M31", "M37", "M55"])  # points, a share, a ratio, points
def test_a_number_as_the_paper_prints_it_leads_to_the_cell_and_the_claim(claim, tmp_path):
    paper = repository() / "data" / "results" / "cpu" / "notebooks" / "paper.ipynb"
    (line,) = [line for _, line in origins.shown(paper) if line.startswith(f"| {claim} |")]
    number = re.search(r"measured .*?(?:MNIST|CIFAR-10) (\S+) (?:\[|to )", line)[1]
    assert any(
        re.match(rf"page paper, cell \d+: {claim}: .*{re.escape(number)}", told)
        for told in origins.origin(number, "cpu", tmp_path)
    )


def test_a_number_that_is_published_and_built_is_told_once(tmp_path):
    published = repository() / "data" / "results" / "cpu" / "notebooks" / "paper.ipynb"
    built, cells = tmp_path / "cpu" / "notebooks" / "paper.ipynb", json.loads(published.read_text())["cells"]
    injected = {"metadata": {"tags": ["injected-parameters"]}, "outputs": []}
    built.parent.mkdir(parents=True)
    line = next(line for _, line in origins.shown(published) if line.startswith("| M14 |"))
    number = re.search(r"measured .*?MNIST (\S+) \[", line)[1]
    built.write_text(json.dumps({"cells": [cells[0], injected, *cells[1:]]}))
    told = [one for one in origins.origin(number, "cpu", tmp_path) if one.startswith("page paper, ")]
    assert told == origins.printed(number, [published.parents[1]])[: len(told)] != []
    built.write_text(json.dumps({"cells": [cells[0], {}, *cells[1:]]}))  # told one cell later
    assert {
        one.rpartition(" (")[2] for one in origins.origin(number, "cpu", tmp_path) if one.startswith("page paper, ")
    } == {"published)", "built)"}


def test_a_number_says_at_which_scale_it_was_sought_and_which_others_have_it(tmp_path):
    cell = json.loads((repository() / "data" / "results" / "cpu" / "notebooks" / "paper.ipynb").read_text())["cells"][0]
    for scale in ("smoke", "cpu"):
        page = tmp_path / scale / "notebooks" / "paper.ipynb"
        page.parent.mkdir(parents=True)
        page.write_text(json.dumps({"cells": [cell | {"outputs": [{"text": "7654.321"}]}]}))
    assert origins.origin("7654.321", "smoke", tmp_path)[0] == "7654.321 at scale smoke; --scale cpu finds more"
    with pytest.raises(InputError, match=r"at scale paper reads 7654\.321; --scale smoke or cpu finds it"):
        origins.origin("7654.321", "paper", tmp_path)


def test_a_number_that_stands_everywhere_is_told_in_part(tmp_path):
    told = origins.origin("0.5", "cpu", tmp_path)
    assert len(told) < 100 and any(re.match(r"… and \d+ more", line) for line in told)


def test_the_key_of_a_draw_leads_to_its_row(tmp_path):
    page = "01_random_curves"
    key = (
        [line for line in origins.explain("M11", "cpu", tmp_path) if line.startswith("net ")][-1].split()[1].rstrip(":")
    )
    assert re.fullmatch(
        rf"row {key}: of {page} at scale cpu, in rows/{page}.csv, measure version \d+; .*",
        origins.explain(key, "cpu", tmp_path)[0],
    )


def test_the_key_of_a_timing_leads_to_its_row(tmp_path):
    (line,) = [line for line in origins.explain("65.887026999917", "cpu", tmp_path) if line.startswith("rows ")]
    key = line.split()[-1]
    assert origins.explain(key, "cpu", tmp_path)[0].startswith(
        f"row {key}: of 15_imagenet_cost at scale cpu, in rows/15_times.csv, measure version 1"
    )


def test_a_claim_leads_to_nets_and_a_net_to_what_made_it(tmp_path):
    key = (
        next(line for line in origins.explain("M37", "paper", tmp_path) if line.startswith("net "))
        .split()[1]
        .rstrip(":")
    )
    told = origins.explain(key, "paper", tmp_path)
    assert told[0].startswith(f"net {key}: of ") and "05_sensitivity" in told[0]
    assert [line.split(":")[0] for line in told[1:5]] == ["parameters, others as by default", "data", "code", "trained"]
    assert told[4].startswith("trained: precision bfloat16, device ")
