"The HTML edition: whole, offline, the paper first; an old site outlives a failed build."

import json
import re
import subprocess
import sys
from contextlib import nullcontext
from importlib import util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "site"


def module(name):
    "A module of site/ (the folder is no package, and `build` is also another's name)."
    sys.path.insert(0, str(SITE))
    try:
        spec = util.spec_from_file_location(f"site_{name}", SITE / f"{name}.py")
        loaded = util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded
    finally:
        sys.path.remove(str(SITE))


def build(out, *options):
    "Run the command that builds the site."
    command = [sys.executable, SITE / "build.py", "--out", out, *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="session")
def site(built_once):
    "The site of this tree, built once."

    def make(folder):
        done = build(folder / "site")
        assert done.returncode == 0, done.stdout + done.stderr

    return built_once("edition", make) / "site"


def test_long_headings_of_a_table_may_break():
    output = {"data": {"text/html": '<table class="a_b"><th id="T_1">seen_by_all</th><td>seen_by_all</td></table>'}}
    html = '<table class="a_b"><th id="T_1">seen_<wbr>by_<wbr>all</th><td>seen_by_all</td></table>'
    assert module("prep").turned(output, None, None)["data"]["text/html"] == html


def test_themes_of_the_library_begin_at_its_modules():
    names = [f"lib/{path.stem}" for path in sorted((ROOT / "nbs" / "lib").glob("*.ipynb"))]
    build = module("build")
    assert list(build.themes(names)) == list(build.THEMES.values())


def test_asks_no_other_machine(site):
    assert module("checks").remote(site) == []
    assert (site / "_static" / "mathjax" / "tex-chtml-full.js").is_file(), "formulas need MathJax beside the pages"


def test_links_hold(site):
    assert module("checks").broken(site) == []


def test_starts_with_the_paper(site):
    cells = json.loads((ROOT / "nbs" / "paper.ipynb").read_text(encoding="utf-8"))["cells"]
    title = "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")
    start = (site / "index.html").read_text(encoding="utf-8")
    assert f"<h1>{title}<" in start.replace("’", "'"), "index.html is not the paper"
    assert "page-paper" in start


def test_everything_is_one_click_away(site):
    experiments = [f"experiments/{p.stem}.html" for p in (ROOT / "nbs" / "experiments").glob("*.ipynb")]
    library = [f"lib/{p.stem}.html" for p in (ROOT / "nbs" / "lib").glob("*.ipynb")]
    for page in ("index.html", "readme.html", "lib/01_files.html"):
        links = {Path(link).name for link in module("checks").Page(site / page).links}
        missing = [
            p
            for p in ("data.html", "results.html", *experiments, *library)
            if Path(p).name not in links | {Path(page).name}
        ]
        assert not missing, f"{page} does not lead to {missing}"


def test_every_page_gives_its_notebook(site):
    for notebook in [*(ROOT / "nbs" / "lib").glob("*.ipynb"), *(ROOT / "nbs" / "experiments").glob("*.ipynb")]:
        copy = site / "notebooks" / notebook.relative_to(ROOT / "nbs")
        assert copy.read_bytes() == notebook.read_bytes()


def test_every_figure_leads_to_its_cell_and_its_table(site):
    page = module("checks").Page
    pages = {p.stem.split("_")[0]: page(p) for p in (site / "experiments").glob("*.html")} | {
        "paper": page(site / "index.html")
    }
    drawn = {p.stem for p in (ROOT / "data" / "results").glob("*/figures/*.svg")}
    shown = {name: pages[name.split("_")[0]] for name in drawn}
    assert not [name for name in drawn if f"figure-{name}" not in shown[name].anchors]
    assert not [name for name in drawn if not any(link.endswith(f"/{name}.csv") for link in shown[name].links)]
    of_the_paper = [link for link in pages["paper"].links if "#figure-" in link]
    assert of_the_paper and not [link for link in of_the_paper if not link.startswith("experiments/")]


def test_library_pages_show_what_came_out(site):
    assert "cell_output" in (site / "lib" / "00_errors.html").read_text(encoding="utf-8")


def test_nothing_to_do_is_said(site):
    done = build(site)
    assert done.returncode == 0 and done.stdout.startswith("unchanged"), done.stdout + done.stderr


@pytest.mark.parametrize("fails", [True, False])
def test_a_failed_build_leaves_the_old_site(tmp_path, monkeypatch, fails):
    def render(source, target):
        target.mkdir()
        (target / "index.html").write_text("new")
        if fails:
            raise SystemExit("no")

    builder, old = module("build"), tmp_path / "site" / "index.html"
    old.parent.mkdir()
    old.write_text("old")
    monkeypatch.setattr(builder, "assemble", lambda *_: None)
    monkeypatch.setattr(builder, "render", render)
    monkeypatch.setattr(builder, "check", lambda *_: None)
    with pytest.raises(SystemExit) if fails else nullcontext():
        builder.build("smoke", old.parent)
    assert old.read_text() == ("old" if fails else "new")
    assert [p.name for p in tmp_path.iterdir()] == ["site"], "something was left"


def test_checks_find_what_is_wrong(tmp_path):
    page = '<script src="https://cdn.example/x.js"></script><a href="gone.html">x</a><a href="#nowhere">y</a><a href="https://ok.example">z</a>'
    (tmp_path / "index.html").write_text(page)
    (tmp_path / "look.css").write_text(
        "@import url(//fonts.example/a.css); a { background: url('https://img.example/a.png') }"
    )
    checks = module("checks")
    assert len(checks.remote(tmp_path)) == 3
    assert checks.broken(tmp_path) == ["index.html: gone.html", "index.html: #nowhere"]


def test_sidebar_and_search_are_those_that_sphinx_and_furo_make(tmp_path):
    pages = {
        "index": "# Start\n\n```{toctree}\n:caption: Read\n:hidden:\n\nStart <self>\none & two\nsub/index\n```\n\n"
        "Running and running on\n",
        "one & two": "# One & two",
    }
    pages |= {
        "sub/index": "# Sub\n\n## Part\n\n```{toctree}\n:hidden:\n\na\nb\n```\n",
        "sub/a": "# A\n\n## Runs",
        "sub/b": "# B",
    }
    for name, text in pages.items():
        path = tmp_path / "source" / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    conf = (
        "import sys\nsys.path.insert(0, {!r})\n"
        'extensions, html_theme, html_use_index = ["myst_parser", *{!r}], "furo", False'
    )
    made = {}
    for name, extensions in {"plain": [], "ours": ["sphinx_sidebar", "sphinx_words"]}.items():
        (tmp_path / "source" / "conf.py").write_text(conf.format(str(SITE), extensions))
        command = [sys.executable, "-m", "sphinx", "-q", "-W", tmp_path / "source", tmp_path / name]
        subprocess.run(command, check=True)
        files = [*(tmp_path / name).rglob("*.html"), tmp_path / name / "searchindex.js"]
        made[name] = {path.relative_to(tmp_path / name): path.read_text() for path in files}
    assert len(made["plain"]) > len(pages) and "current-page" in made["plain"][Path("sub/a.html")]
    assert made["ours"] == made["plain"]


def tree(root, **notebooks):
    "A tree of notebooks: {folder: papermill's exception or None}, each with a paper and one experiment."
    for folder, exception in notebooks.items():
        for name in ("paper.ipynb", "experiments/03_x.ipynb"):
            path = root / folder.replace("__", "/") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"cells": [], "metadata": {"papermill": {"exception": exception}}}))


@pytest.mark.parametrize(
    "there, note, mine_beside",
    [
        ({}, "not run here", 0),
        ({"data__results__cpu__notebooks": None}, "published, scale cpu", 0),
        ({"data__results__cpu__notebooks": None, "data__results__paper__notebooks": None}, "published, scale paper", 0),
        ({"build__smoke__notebooks": None}, "your build, scale smoke: not evidence", 0),
        ({"build__smoke__notebooks": None, "data__results__cpu__notebooks": None}, "published, scale cpu", 2),
        ({"build__smoke__notebooks": True, "data__results__cpu__notebooks": None}, "published, scale cpu", 0),
    ],
)
def test_shows_the_published_and_the_readers_own_beside_it(tmp_path, monkeypatch, there, note, mine_beside):
    tree(tmp_path, nbs=None, **there)
    builder = module("build")
    for name, path in {"ROOT": tmp_path, "NBS": tmp_path / "nbs", "DATA": tmp_path / "data"}.items():
        monkeypatch.setattr(builder, name, path)
    monkeypatch.syspath_prepend(SITE)
    pages, beside = builder.study("smoke")
    assert [p.name for p in pages] == ["index", "experiments/03_x"]
    assert all(p.note.startswith(note) for p in pages)
    assert len(beside) == mine_beside


def test_a_page_is_shown_at_the_scale_of_the_paper(tmp_path, monkeypatch):
    tree(tmp_path, data__results__cpu__notebooks=None, data__results__paper__notebooks=None)
    (tmp_path / "data" / "results" / "paper" / "notebooks" / "paper.ipynb").unlink()
    builder = module("build")
    monkeypatch.setattr(builder, "DATA", tmp_path / "data")
    notebook, note = builder.kept(Path("experiments/03_x.ipynb"))
    assert (notebook.parts[-4], note) == ("cpu", "published, scale cpu (published at scale paper, too: data/results)")


def test_a_page_opens_with_the_papers_verdicts(tmp_path, monkeypatch):
    tree(tmp_path, data__results__cpu__notebooks=None, nbs=None)
    (tmp_path / "data" / "results" / "cpu" / "claims.csv").write_text(
        "id,verdict,scale,experiment\n"
        "M1,undecided,cpu,03_x\nM2,supported,paper,03_x\nM3,supported,cpu,04_y\nM4,not tested,,03_x\n"
    )
    prep = module("prep")
    page = prep.Page(
        "experiments/03_x",
        tmp_path / "data/results/cpu/notebooks/experiments/03_x.ipynb",
        tmp_path / "nbs/experiments/03_x.ipynb",
        "experiment",
    )
    assert (
        prep.answers(page) == '<p class="page-verdicts">What the paper says of its claims: <b>not tested</b> M4;'
        " <b>supported</b> M2 (scale paper); <b>undecided</b> M1.</p>"
    )
    assert prep.answers(prep.Page("lib/x", page.shown, page.origin, "library")) == ""


def cell(source, *outputs, kind="code"):
    "A cell of a notebook, with the data of its outputs."
    return {"cell_type": kind, "metadata": {}, "source": source} | (
        {"outputs": [{"output_type": "display_data", "metadata": {}, "data": data} for data in outputs]}
        if kind == "code"
        else {}
    )


def prepared(tmp_path, *cells):
    "What a page of these cells becomes."
    (tmp_path / "x.ipynb").write_text(json.dumps({"cells": [cell("# Title", kind="markdown"), *cells]}))
    prep = module("prep")
    return prep.prepare(
        prep.Page("x", tmp_path / "x.ipynb", tmp_path / "x.ipynb", "experiment"), prep.Links(tmp_path, {})
    )["cells"]


DRAWING = {"image/svg+xml": '<svg><defs/><path style="fill: #ffffff; stroke: #767676"/></svg>'}


def test_a_figure_is_described_by_its_caption(tmp_path):
    captions = [{"text/markdown": f"**{words}.** See [page](https://x.y), `J`."} for words in ("One", "Two")]
    asked = cell("## Look\n\nWhich is *larger*?", kind="markdown")
    after = cell("**Three.** Dots are nets.", kind="markdown")
    cells = prepared(
        tmp_path,
        asked,
        cell("draw()", DRAWING, captions[0], DRAWING, captions[1]),
        cell("draw()", DRAWING),
        after,
        asked,
        cell("draw()", DRAWING),
    )
    drawn = [c for c in cells if any("image/svg+xml" in output["data"] for output in c.get("outputs", []))]
    assert [c["metadata"]["mystnb"]["image"]["alt"] for c in drawn] == [
        "One. See page, J.",
        "Two. See page, J.",
        "Three. Dots are nets.",
        "Which is larger?",
    ]
    assert ["remove-input" in c["metadata"]["tags"] for c in drawn] == [False, True, False, False], "code is shown once"


def test_a_figure_knows_the_dark_and_an_interval_is_not_broken(tmp_path):
    *_, shown = prepared(tmp_path, cell("draw()", DRAWING, {"text/markdown": "−0.02 [−0.10, +0.06], [a, b]"}))
    svg, text = (next(iter(output["data"].values())) for output in shown["outputs"])
    assert svg.startswith("<svg><style>@media (prefers-color-scheme: dark)") and svg.endswith("</svg>")
    assert text == "−0.02 [−0.10,\N{NO-BREAK SPACE}+0.06], [a, b]"


def test_a_figures_files_stand_where_it_is_drawn(tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("20_first", "20_second", "20_third", "alone"):
        (tmp_path / "figures" / f"{name}.csv").touch()
    prep = module("prep")
    codes = [
        'def show(name):\n    figures.save(figure, f"20_{name}", table, out)\n\nshow("first")',
        "",
        'figures.save(figure, "alone", table, out)',
        'show("second")\nshow("third")',
    ]
    drawn = prep.tables_drawn(codes, prep.Page("20", tmp_path / "x.ipynb", tmp_path / "x.ipynb", "experiment"))
    assert [[table.stem for table in tables] for tables in drawn] == [
        ["20_first"],
        [],
        ["alone"],
        ["20_second", "20_third"],
    ]


def test_every_figure_has_a_description(site):
    described = re.compile(r'\balt="[^"]+(?<!\.svg)(?<!\.png)"')
    images = {
        page.relative_to(site): re.findall(r"<img\b[^>]*>", page.read_text(encoding="utf-8"))
        for page in site.rglob("*.html")
    }
    assert sum(map(len, images.values())) > 100
    assert not [(name, tag[:200]) for name, tags in images.items() for tag in tags if not described.search(tag)]


def test_api_page_says_what_the_signature_comments_say(tmp_path):
    source = (
        '"""What it is for."""\n__all__ = ["double", "LEAST"]\nLEAST = 1\n'
        "def double(\n    x: int,  # any | number\n    *, twice: bool = True,  # or not\n) -> int:  # two of them\n"
        '    "Twice [x]."\n    return 2 * x\ndef _hidden(): pass\n'
    )
    (tmp_path / "things.py").write_text(source)
    api = module("api")
    page = api.module_page(api.Module(tmp_path / "things.py"), None)
    for part in (
        "# fmm_nb.things",
        "What it is for.",
        "double(x: int, twice: bool = True) -> int",
        "any \\| number",
        "or not",
        "two of them",
        "Twice \\[x]",
        "LEAST = 1",
    ):
        assert part in page
    assert "hidden" not in page


def test_a_notebook_that_dies_or_warns_fails(tmp_path):
    sources = {
        "died": ["import os, signal; os.kill(os.getpid(), signal.SIGKILL)"],
        "wrong": ["#| eval: false\n1 / 0", "assert 1 == 2, 'as it should'"],
        "warned": [
            "import warnings\nwith warnings.catch_warnings(record=True):\n"
            "    warnings.simplefilter('always'); warnings.warn('asked for')",
            "warnings.warn('by a cell')",
        ],
        "shown": [
            "class Odd:\n    def _repr_html_(self):\n        import warnings; warnings.warn('by what is shown')\nOdd()"
        ],
    }
    for name, cells in sources.items():
        made = [
            {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": source}
            for source in cells
        ]
        (tmp_path / f"{name}.ipynb").write_text(json.dumps({"cells": made}))
    done = subprocess.run(
        [sys.executable, SITE / "execute.py", *tmp_path.glob("*.ipynb")], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout.count("FAILED") == 4
    assert "died.ipynb" in done.stdout and "exit code -9" in done.stdout
    for told in (
        "wrong.ipynb, code cell 1",
        "as it should",
        "warned.ipynb, code cell 1",
        "by a cell",
        "shown.ipynb, code cell 0",
        "by what is shown",
    ):
        assert told in done.stderr
