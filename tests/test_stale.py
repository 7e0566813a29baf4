"""What a change costs: which nets are trained or measured, which pages are executed, and what `fmm why` says."""

import ast
import json
import shutil
from dataclasses import dataclass, replace

import pytest

from fmm_nb import pages, specs, training
from fmm_nb.judgement import CLAIMS, GAINS
from fmm_nb.loop import step
from fmm_nb.plan import EXPERIMENTS
from fmm_nb.results import rows
from fmm_nb.specs import Protocol, Spec
from fmm_nb.store import Store

QUICK = Protocol(epochs=1, batch_size=20)
NETS = [Spec(model, "mnist_mini", QUICK, n_train=40) for model in ("cnn", "am")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A store of two nets, and the rows of a measure."
    folder = tmp_path_factory.mktemp("made")
    Count(folder)(NETS)
    return folder


class Count:
    "Asks for the rows of nets, and counts what that trains and measures."

    def __init__(self, folder, version=1):
        self.folder, self.trained, self.measured, self.version = folder, [], [], version

    def __call__(self, nets):
        def measure(net):
            self.measured.append(net.spec)
            return {"value": net.test_correct.sum().item()}

        def train(spec, *rest, real=training.train):
            self.trained.append(spec)
            return real(spec, *rest)

        measure.version = self.version
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "train", train)
            self.rows = rows("tiny", nets, measure, "smoke", self.folder / "store", self.folder)
        return self


@pytest.fixture
def copy(made, tmp_path):
    "The same in a folder of the test's own."
    return shutil.copytree(made, tmp_path / "copy")


def test_nothing_changed_nothing_is_done(copy):
    again = Count(copy)(NETS)
    assert (again.trained, again.measured) == ([], [])


def test_another_arm_costs_that_arm(copy):
    new = Spec("am_half", "mnist_mini", QUICK, n_train=40)
    again = Count(copy)([*NETS, new])
    assert (again.trained, again.measured) == ([new], [new])


def test_another_protocol_costs_the_nets_it_touches(copy):
    changed = replace(NETS[0], protocol=replace(QUICK, learning_rate=0.01))
    assert Store(copy / "store").why(changed) == [("protocol.learning_rate", None, 0.01)]
    again = Count(copy)([changed, NETS[1]])
    assert (again.trained, again.measured) == ([changed], [changed])


def test_a_field_that_protocols_did_not_have_costs_nothing(copy, monkeypatch):
    @dataclass(frozen=True)
    class Later(Protocol):
        fresh: float = 0.0

    before = [net.key for net in NETS]
    later = [replace(net, protocol=Later(epochs=1, batch_size=20)) for net in NETS]
    monkeypatch.setattr(specs, "Protocol", Later)
    assert [net.key for net in later] == before


def test_a_measure_that_changed_measures_again_and_trains_nothing(copy):
    again = Count(copy, version=2)(NETS)
    assert (again.trained, again.measured) == ([], NETS)


@pytest.mark.parametrize(
    "version, named", [("TRAINING_VERSION", "training_version"), ("MODELS_VERSION", "models_version")]
)
def test_a_version_that_was_raised_trains_anew_and_is_named(copy, monkeypatch, version, named):
    old = getattr(specs, version)
    monkeypatch.setattr(specs, version, old + 1)
    assert Store(copy / "store").why(NETS[0]) == [(named, old, old + 1)]
    again = Count(copy)(NETS)
    assert (again.trained, again.measured) == (NETS, NETS)


def test_a_quicker_loop_with_the_same_result_costs_nothing(copy, monkeypatch):
    "The key knows the loop by its version alone; that its result is the same is what the golden test holds."
    from fmm_nb import loop

    monkeypatch.setattr(loop, "step", lambda *given: step(*given))
    again = Count(copy)(NETS)
    assert again.trained == []


def test_other_images_cost_their_nets_and_are_named(copy, monkeypatch):
    monkeypatch.setattr(specs, "fingerprint", lambda name: "0" * 16)
    ((field, _, new),) = Store(copy / "store").why(NETS[0])
    assert (field, new) == ("fingerprint", "0" * 16)


PAGES = {"01_random_curves", "03_multiplication", "paper"}


@pytest.fixture
def done(tmp_path, monkeypatch):
    "Pages that are up to date, in a copy of the repository's inputs."
    root = tmp_path / "clone"
    for folder in ("nbs/experiments", "fmm_nb", "data/reported"):
        shutil.copytree(
            pages.need_repository("this test") / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(pages.need_repository("this test") / "nbs" / "paper.ipynb", root / "nbs")
    monkeypatch.setattr(pages, "need_repository", lambda what: root)
    monkeypatch.setattr(pages, "missing_nets", lambda *given: [])
    for name in PAGES:
        page = pages.Page(name, "smoke", tmp_path / "build")
        for path, text in {page.target: "{}", page.answer: "{}"}.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for name in PAGES:
        page = pages.Page(name, "smoke", tmp_path / "build")
        page.stamp.parent.mkdir(parents=True, exist_ok=True)
        page.stamp.write_text(json.dumps(pages.inputs(page) | pages.made(page)))
    return root, tmp_path / "build"


def stale(build):
    "The pages that would be executed, each with what `fmm why` names."
    found = {name: pages.why(name, "smoke", build) for name in sorted(PAGES)}
    return {name: [line.split(": ")[1] for line in lines] for name, lines in found.items() if lines}


@pytest.mark.parametrize(
    "changed, due",
    [
        ("fmm_nb/figures.py", {"01_random_curves", "03_multiplication", "paper"}),
        ("nbs/experiments/03_multiplication.ipynb", {"03_multiplication"}),
        ("nbs/paper.ipynb", {"paper"}),
        ("data/reported/table1.csv", {"01_random_curves", "03_multiplication", "paper"}),
        ("fmm_nb/cli.py", set()),
        ("fmm_nb/pages.py", set()),
    ],
)
def test_a_change_of_code_executes_pages_names_itself_and_trains_nothing(done, changed, due):
    root, build = done
    assert stale(build) == {}
    with open(root / changed, "a") as file:
        file.write("\n")
    assert stale(build) == {page: [changed] for page in due}
    assert not any(line.startswith("train") for page in due for line in pages.why(page, "smoke", build))


def test_an_answer_that_changed_executes_the_paper(done):
    root, build = done
    pages.Page("03_multiplication", "smoke", build).answer.write_text('{"tables": {}}')
    assert stale(build) == {
        "03_multiplication": ["made answers/03_multiplication.json"],
        "paper": ["answers/03_multiplication.json"],
    }


def some_rows(build, scale, name, version):
    "A table of one net."
    path = build / scale / "rows" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"key,measure_version,value\na,{version},1.0\n")


def test_another_pages_rows_execute_the_page_that_reads_them(done):
    root, build = done
    for version in (1, 2):
        some_rows(build, "smoke", "04_landscapes", version)
        some_rows(build, "smoke", "06_mixup", version)  # which neither page reads
        assert stale(build) == {"03_multiplication": ["rows of 04_landscapes at smoke"]}
        page = pages.Page("03_multiplication", "smoke", build)
        page.stamp.write_text(json.dumps(pages.inputs(page) | pages.made(page)))
        assert stale(build) == {}


def test_its_rows_at_a_higher_scale_execute_a_page_and_publishing_them_does_not(done, tmp_path, monkeypatch):
    root, build = done
    some_rows(build, "cpu", "01_random_curves", 9)
    assert stale(build) == {"01_random_curves": ["rows of 01_random_curves at cpu"]}
    page = pages.Page("01_random_curves", "smoke", build)
    page.stamp.write_text(json.dumps(pages.inputs(page) | pages.made(page)))
    kept = shutil.copytree(pages.published_folder("cpu"), tmp_path / "published" / "cpu")
    with open(kept / "rows" / "01_random_curves.csv", "a") as file:
        file.write("a,9,1.0\n")
    monkeypatch.setattr(
        pages, "published_folder", lambda scale, real=pages.published_folder: kept if scale == "cpu" else real(scale)
    )
    assert stale(build) == {}


def test_pages_say_which_other_pages_decide_their_claims():
    parts = {
        claim.id: [CLAIMS[part] for part in claim.comparators.split("; ")] if claim.kind == "conjunction" else []
        for claim in CLAIMS.values()
    }
    for claim in CLAIMS.values():
        gains = [CLAIMS[GAINS[data]] for data in claim.data if data in GAINS] if claim.kind == "mediation" else []
        family = (
            [other for other in CLAIMS.values() if other.family == claim.family]
            if claim.kind not in ("exact", "untestable")
            else []
        )
        wanted = {other.experiment for other in [*parts[claim.id], *gains, *family]} - {claim.experiment}
        assert wanted <= set(EXPERIMENTS[claim.experiment].reads if claim.experiment in EXPERIMENTS else ()), claim.id
    assert all(set(page.reads) <= EXPERIMENTS.keys() - {name} for name, page in EXPERIMENTS.items())


def test_a_training_on_imagenet_is_taken_up_by_its_page_alone(tmp_path):
    two = [pages.Page(name, "smoke", tmp_path) for name in ("03_multiplication", "15_imagenet_cost")]
    before = [pages.inputs(page) for page in two]
    log = tmp_path / "imagenet" / "resnet50" / "log.csv"
    log.parent.mkdir(parents=True)
    log.write_text("epoch,top1\n")
    new = [set(pages.inputs(page)) - set(old) for page, old in zip(two, before)]
    assert new == [set(), {"imagenet/resnet50/log.csv"}]


def test_a_net_of_a_page_that_changed_is_named_old_and_new(done, monkeypatch):
    root, build = done
    monkeypatch.setattr(
        pages,
        "specs",
        lambda name, scale, real=pages.specs: [
            replace(spec, protocol=replace(spec.protocol, epochs=spec.protocol.epochs + 1))
            for spec in real(name, scale)
        ],
    )
    found = stale(build)
    assert "03_multiplication" in found and all(name.startswith("net ") for name in found["03_multiplication"])
    assert all(" → " in line for line in pages.why("03", "smoke", build))


def imported(code):
    "The modules of the package that some code imports, at its head or within functions."
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("fmm_nb")):
            module = (node.module or "").removeprefix("fmm_nb").lstrip(".")
            yield from [module] if module else [alias.name for alias in node.names]


def test_pages_depend_on_the_modules_that_they_reach_and_on_no_others():
    root = pages.need_repository("this test")
    modules = {path.stem: path.read_text(encoding="utf-8") for path in (root / "fmm_nb").glob("*.py")}
    notebooks = [*(root / "nbs" / "experiments").glob("*.ipynb"), root / "nbs" / "paper.ipynb"]
    cells = [cell for path in notebooks for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    ahead = {name for text in code for name in imported(text)}
    ahead |= {family.builder.split(".")[0] for family in specs.FAMILIES.values()}
    reached = set()
    while ahead := (ahead & modules.keys()) - reached:
        reached |= ahead
        ahead = {name for module in ahead for name in imported(modules[module]) if f"{name}.py" not in pages.NOT_INPUTS}
    assert {f"{name}.py" for name in modules.keys() - reached} == pages.NOT_INPUTS
