"The wheel and the sdist: what is in them, what they ask for, and that the library works where there is no repository."

import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
# of hidden files .zenodo.json alone stays
LEFT_OUT = shutil.ignore_patterns("build", "dist", ".[!z]*", "*.egg-info", "__pycache__", "results")
HEAVY = ("torch", "pandas", "papermill", "nbformat", "matplotlib")


def build(folder):
    "Build sdist and wheel (the wheel from the sdist) from a copy of the tree, without a network."
    shutil.copytree(ROOT, folder / "tree", ignore=LEFT_OUT)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "tree"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not re.search(r"deprecat", done.stdout + done.stderr, re.I), done.stdout + done.stderr


@pytest.fixture(scope="session")
def packages(built_once):
    "(sdist, wheel)."
    folder = built_once("packages", build) / "dist"
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def names(packages):
    "The files in the wheel."
    return zipfile.ZipFile(packages[1]).namelist()


@pytest.fixture(scope="session")
def metadata(packages):
    "The wheel's METADATA."
    wheel = zipfile.ZipFile(packages[1])
    return email.message_from_bytes(wheel.read(next(n for n in wheel.namelist() if n.endswith("/METADATA"))))


@pytest.fixture(scope="session")
def alone(packages, tmp_path_factory):
    "Runs Python where only the wheel is, in an empty folder, with an empty home and no way to the network."
    target, cwd = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("elsewhere")
    zipfile.ZipFile(packages[1]).extractall(target)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FMM_")}
    environment |= {
        "PYTHONPATH": str(target),
        "HOME": str(cwd / "home"),
        "MPLBACKEND": "Agg",
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }

    def run(*arguments):
        return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)

    where = run("-c", "import fmm_nb; print(fmm_nb.__file__)")
    assert where.stdout.startswith(str(target)), where.stdout + where.stderr
    return run


def test_wheel_holds_the_library_and_its_small_data(names):
    assert "fmm_nb/py.typed" in names
    assert {f"fmm_nb/{p.name}" for p in (ROOT / "fmm_nb").glob("*.py")} <= set(names)
    for folder in ("mini", "reported", "weights"):
        files = [p for p in (ROOT / "data" / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        assert {f"fmm_nb/_data/{p.relative_to(ROOT / 'data')}" for p in files} <= set(names)
    assert [n for n in names if re.fullmatch(r"fmm_nb/_data/mini/.+\.npz", n)], "data/mini is not packed"


def test_wheel_holds_nothing_else(names):
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"fmm_nb"}
    assert not [n for n in names if n.endswith((".ipynb", ".pyc"))]
    assert [n for n in names if n.endswith("licenses/LICENSE")]


def test_sdist_is_enough_to_build_and_test(packages):
    with tarfile.open(packages[0]) as tar:
        names = {n.split("/", 1)[1] for n in tar.getnames() if "/" in n}
    needed = {
        "settings.ini",
        "setup.py",
        "pyproject.toml",
        "constraints.txt",
        "requirements.lock",
        "Makefile",
        "README.md",
        "LICENSE",
        "CITATION.cff",
        ".zenodo.json",
    }
    needed |= {"site/build.py", "nbs/index.ipynb"}
    assert needed <= names
    assert not [n for n in names if n.startswith(("build/", "data/results"))]


def test_metadata(metadata):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert metadata["Name"] == "fmm_nb" and metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload(decode=True).decode().strip() == readme.strip()
    assert not [v for v in metadata.values() if "UNKNOWN" in str(v)]
    assert "Home-page" not in metadata and "Author-email" not in metadata, "there is no address to give"


def test_extras(metadata):
    assert {"run", "lab", "dev", "cluster", "imagenet", "kernel", "all"} == set(metadata.get_all("Provides-Extra"))
    required = metadata.get_all("Requires-Dist")
    plain = {re.match(r"[\w.-]+", r)[0].lower() for r in required if "extra ==" not in r}
    assert {"torch", "numpy", "pandas"} <= plain
    assert not plain & {"papermill", "nbdev", "sphinx", "jupyterlab", "pytest", "dask", "fastcore"}
    for package, extra in {
        "papermill": "run",
        "nbdev": "run",
        "myst-nb": "run",
        "jupyterlab": "lab",
        "pytest": "dev",
        "dask": "cluster",
        "accelerate": "imagenet",
        "triton": "kernel",
    }.items():
        assert [r for r in required if re.match(rf"{package}\b", r) and f'extra == "{extra}"' in r], (
            f"{package} is not in extra {extra}"
        )


def test_every_requirement_is_pinned():
    pins = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    text = (ROOT / "settings.ini").read_text().split("### Requirements")[1].split("console_scripts")[0]
    wanted = {m.lower() for m in re.findall(r"^\s+([A-Za-z][\w.-]*)", text, re.M)}
    assert wanted and not wanted - pins, f"constraints.txt has no version of {sorted(wanted - pins)}"


def test_the_lock_has_the_pinned_versions_with_hashes_and_names_no_host():
    text = (ROOT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)(?: ;.*)? \\$", text, re.M))
    pins = dict(
        line.split(" ")[0].replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    wrong = {name: (version, pins.get(name)) for name, version in locked.items() if pins.get(name) != version}
    assert len(locked) > 150 and not wrong, f"make it anew, see CONTRIBUTING.md: {wrong}"
    assert all("--hash=sha256:" in block for block in re.split(r"^(?=\S)", text, flags=re.M) if "==" in block)
    assert "://" not in text


def test_version_date_and_title_are_the_same_wherever_they_stand(metadata):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    archive = json.loads((ROOT / ".zenodo.json").read_text())
    released = re.search(r"^## \[(\d\S+)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    paper = json.loads((ROOT / "nbs" / "paper.ipynb").read_text())["cells"][0]["source"]
    title = "".join(paper).splitlines()[0].removeprefix("# ")
    places = {
        "CHANGELOG.md": released.groups(),
        "CITATION.cff": (str(citation["version"]), str(citation["date-released"])),
        ".zenodo.json": (archive["version"], archive["publication_date"]),
    }
    assert set(places.values()) == {(metadata["Version"], released[2])}, places
    assert f'"{metadata["Version"]}"' in (ROOT / "fmm_nb" / "__init__.py").read_text()
    assert citation["title"] == archive["title"] == f"{metadata['Name']}: {title}"
    assert citation["license"] == archive["license"] == metadata["License-Expression"]
    assert citation["keywords"] == archive["keywords"]
    assert (
        [author["name"] for author in citation["authors"]]
        == [creator["name"] for creator in archive["creators"]]
        == [metadata["Author"]]
    )


def test_both_papers_are_cited():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    archive = (ROOT / ".zenodo.json").read_text()
    assert len(cited) == 2
    for work in cited:
        assert work["title"] in archive and work["title"] in (ROOT / "README.md").read_text()
        assert all(f". {author['family-names']}" in archive for author in work["authors"])


@pytest.mark.parametrize("first", ["# on your own model", "# with a trained net that comes along"])
def test_the_readmes_lines_run_where_there_is_no_repository(alone, first):
    blocks = re.findall(rf"```python\n({first}\n.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 1, f"README.md needs one block that starts with '{first}'"
    lines = [line for line in blocks[0].splitlines()[1:] if line.strip()]
    assert len(lines) <= 12, f"{len(lines)} lines are not ten"
    done = alone("-c", blocks[0])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [["run"], ["why", "03"], ["why", "M14"]])
def test_running_and_explaining_the_study_needs_the_repository(alone, command):
    done = alone("-c", f"import sys; from fmm_nb.cli import main; sys.argv = ['fmm', *{command}]; sys.exit(main())")
    said = (done.stdout + done.stderr).strip()
    assert done.returncode == 2, said
    assert len(said.splitlines()) == 1 and "repository" in said, said


def test_help_is_light(alone):
    code = (
        "import sys\nfrom fmm_nb.cli import main\nsys.argv = ['fmm', '--help']\n"
        "try: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
        f"heavy = [m for m in {HEAVY} if m in sys.modules]\nassert not heavy, heavy"
    )
    done = alone("-c", code)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


CONTRACT = {
    "specs": "Protocol Spec fingerprint",
    "plan": "SCALES EXPERIMENTS specs",
    "data": "load available ImageSet",
    "models": "create_model list_models count_parameters count_macs",
    "gates": "Gated unit gates_of replace_gate frozen_gates replace_activations",
    "saliency": "fullgrad_terms FullGrad SmoothFullGrad attention_weights channel_importance",
    "agreement": "kendall_tau cosine permutation_null",
    "sensitivity": "jacobian_norm output_sensitivity",
    "trajectories": "ellipse curves roughness transitions triples",
    "training": "Protocol Spec train train_many Trained",
    "store": "Store",
    "statistics": "effect equivalent power interaction holm",
    "results": "rows",
    "claims": "CLAIMS verdict table",
    "figures": "style save",
    "batch": "run status why publish",
    "cli": "main",
    # what stands in what calls return
    "data.ImageSet": "train_x train_y test_x test_y classes name fingerprint subset split mean_std",
    "training.Trained": "spec history diverged_at test_correct model",
    "store.Store": "trained has why verify",
    "fullgrad.Terms": "output input bias gate residual terms",
    "statistics.Effect": "difference low high p p_superior detectable",
}


@pytest.mark.parametrize("place", CONTRACT)
def test_names_that_others_use_stay_where_they_are(place):
    module, _, kind = place.partition(".")
    there = import_module(f"fmm_nb.{module}")
    there = getattr(there, kind) if kind else there
    fields = getattr(there, "__dataclass_fields__", {})
    assert [name for name in CONTRACT[place].split() if not hasattr(there, name) and name not in fields] == []


def test_the_library_imports_where_only_other_systems_have_a_module():
    # Windows has none of these, and engineers who take the library alone use it too
    script = """
import importlib, pkgutil, sys
sys.modules |= dict.fromkeys(("fcntl", "grp", "pwd", "resource", "termios"))
import fmm_nb
for module in pkgutil.iter_modules(fmm_nb.__path__):
    if module.name != "first_layer":  # needs Triton
        importlib.import_module(f"fmm_nb.{module.name}")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
