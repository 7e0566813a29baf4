"""Notebooks are clean, the package is what they export, README.md is what nbs/index.ipynb says, and pages keep their
shape."""

import ast
import difflib
import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
EXPERIMENTS = [p for p in NOTEBOOKS if p.parent.name == "experiments"]
MAX_CELL, MAX_FUNCTION = 40, 45
# both commands in one process; the commands on the PATH may be another environment's
NBDEV = "from nbdev.doclinks import nbdev_export; from nbdev.clean import nbdev_clean; nbdev_export(); nbdev_clean()"


def name(path):
    "A notebook's path as a test's name."
    return str(path.relative_to(ROOT))


def read(path):
    "A notebook as plain data."
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path):
    "Sources and tags of the code cells of a notebook."
    cells = [c for c in read(path)["cells"] if c["cell_type"] == "code"]
    return [("".join(c["source"]), c["metadata"].get("tags", [])) for c in cells]


def difference(old, new, label, most=60):
    "A unified diff of two texts, cut after `most` lines."
    names = f"{label} (in the working tree)", f"{label} (as it should be)"
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), *names, lineterm="", n=2))
    rest = [f"… and {len(lines) - most} more lines"] if len(lines) > most else []
    return "\n".join(lines[:most] + rest)


def check(holds, message):
    "Fail with nothing but the message: it says what to do, a traceback would not."
    if not holds:
        pytest.fail(message, pytrace=False)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    "A copy of the notebooks, cleaned and exported by nbdev, beside the working tree that stays as it is."
    copy = tmp_path_factory.mktemp("fresh")
    shutil.copy(ROOT / "settings.ini", copy)
    shutil.copytree(ROOT / "nbs", copy / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (copy / "fmm_nb").mkdir()
    (copy / "fmm_nb" / "__init__.py").touch()
    done = subprocess.run([sys.executable, "-c", NBDEV], cwd=copy, capture_output=True, text=True)
    check(done.returncode == 0, f"nbdev_export or nbdev_clean failed:\n{done.stdout}{done.stderr}")
    return copy


def test_there_are_the_pages_that_everything_else_is_made_from():
    for page in ("index.ipynb", "paper.ipynb", "lib", "experiments"):
        check((ROOT / "nbs" / page).exists(), f"nbs/{page} is missing")
    check(EXPERIMENTS, "nbs/experiments has no notebook")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_is_clean(path, fresh):
    old, new = path.read_text(encoding="utf-8"), (fresh / path.relative_to(ROOT)).read_text(encoding="utf-8")
    check(old == new, f"not clean; mend with: nbdev_clean\n{difference(old, new, name(path))}")
    for number, cell in enumerate(read(path)["cells"]):
        ran = cell.get("outputs") or cell.get("execution_count")
        check(
            not ran,
            f"{name(path)}: cell {number} has outputs;"
            f" mend with: jupyter nbconvert --clear-output --inplace {name(path)}",
        )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_has_our_kernel_and_cell_ids(path):
    notebook = read(path)
    spec = notebook["metadata"].get("kernelspec", {}).get("name")
    ids = [cell.get("id") for cell in notebook["cells"]]
    check(spec == "python3", f"{name(path)}: kernelspec is {spec!r}, must be 'python3'")
    check(all(ids) and len(set(ids)) == len(ids), f"{name(path)}: cell ids missing or double; save it once in make lab")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_starts_with_a_title_and_has_no_empty_cell(path):
    cells = ["".join(cell["source"]).strip() for cell in read(path)["cells"]]
    check(cells[0].startswith("# "), f"{name(path)}: the first cell must be the title")
    check(all(cells), f"{name(path)}: an empty cell; take it out in make lab")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_survives_being_edited_as_text(path):
    """CONTRIBUTING.md's way to edit: jupytext takes a line of prose that begins with #! for a command, unless it is
    indented."""
    cells = nbformat.read(path, as_version=4).cells
    back = jupytext.reads(jupytext.writes(nbformat.v4.new_notebook(cells=cells), "py:percent"), "py:percent").cells
    parts = [
        difference(old.source, new.source, name(path))
        for old, new in zip(cells, back, strict=True)
        if old.source != new.source
    ]
    check(not parts, "jupytext would change it:\n" + "\n".join(parts))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_scripts_for_slurm_begin_as_scripts(path):
    prose = "\n".join("".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "markdown")
    scripts = [
        textwrap.dedent(block)
        for block in re.findall(r"^ *```sh\n(.*?)```", prose, flags=re.M | re.S)
        if "#SBATCH" in block
    ]
    check(
        all(script.startswith("#!/") for script in scripts),
        f"{name(path)}: sbatch takes no script without its first line #!/bin/bash",
    )


def test_package_is_what_the_notebooks_export(fresh):
    there = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "fmm_nb").glob("*.py")}
    made = {p.name: p.read_text(encoding="utf-8") for p in (fresh / "fmm_nb").glob("*.py")}
    orphans = sorted(there.keys() - made.keys())
    check(
        not orphans,
        f"no notebook exports {', '.join(orphans)}: write it as a page of nbs/lib, or remove it from fmm_nb",
    )
    parts = [difference(there.get(f, ""), made[f], f"fmm_nb/{f}") for f in sorted(made) if there.get(f) != made[f]]
    mend = "nbdev_export (nbdev_update first, where fmm_nb was edited by hand and the edit should stay)"
    check(not parts, f"fmm_nb differs from its notebooks; mend with: {mend}\n" + "\n".join(parts))


@pytest.mark.parametrize(
    "words, mend", [(["format", "--check"], "ruff format"), (["check"], "ruff check --fix, or by hand")]
)
def test_code_is_laid_out(words, mend):
    done = subprocess.run([sys.executable, "-m", "ruff", *words, "."], cwd=ROOT, capture_output=True, text=True)
    check(done.returncode == 0, f"{done.stdout}{done.stderr}\nmend with: {mend}")


def test_readme_is_what_the_index_says():
    done = subprocess.run([sys.executable, ROOT / "site" / "readme.py", "--check"], capture_output=True, text=True)
    check(done.returncode == 0, done.stdout + done.stderr)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_parameters_are_typed_and_commented(path):
    cells = [source for source, tags in code_cells(path) if "parameters" in tags]
    check(len(cells) == 1, f"{name(path)}: {len(cells)} cells tagged 'parameters', must be one")
    lines = cells[0].splitlines()
    for statement in ast.parse(cells[0]).body:
        line = lines[statement.end_lineno - 1]
        typed = isinstance(statement, ast.AnnAssign) and statement.value is not None
        check(typed, f"{name(path)}: {line!r} must read 'name: type = value  # what it is'")
        check(re.search(r"\s#\s*\S", line), f"{name(path)}: {line!r} has no comment")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_cells_are_short(path):
    for source, _ in code_cells(path):
        count = source.count("\n") + 1
        check(count <= MAX_CELL, f"{name(path)}: a cell has {count} lines (most: {MAX_CELL}):\n{source[:200]}")


@pytest.mark.parametrize("path", sorted((ROOT / "fmm_nb").glob("[!_]*.py")), ids=name)
def test_functions_are_short(path):
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    sizes = {
        n.name: n.end_lineno - n.lineno + 1 for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    long = [f"{function} has {size} lines" for function, size in sizes.items() if size > MAX_FUNCTION]
    check(not long, f"{name(path)}: {'; '.join(long)} (most: {MAX_FUNCTION})")


def test_library_pages_stand_in_the_order_of_dependence():
    order = {path.stem.partition("_")[2]: path.stem for path in (ROOT / "nbs" / "lib").glob("*.ipynb")}
    for module, page in order.items():
        nodes = ast.parse((ROOT / "fmm_nb" / f"{module}.py").read_text(encoding="utf-8")).body
        imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        needed = [node.module.removeprefix("fmm_nb.") for node in imports if node.module]
        needed += [alias.name for node in imports if node.level and not node.module for alias in node.names]
        late = [order[name] for name in needed if order.get(name, "") > page]
        check(
            not late,
            f"nbs/lib/{page}.ipynb needs {', '.join(late)}, which comes after it:"
            " give it a later number (links to it change too)",
        )
