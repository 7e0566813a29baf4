"""Build the HTML edition: the paper, its experiments, the library, the API, the data.

    python site/build.py --scale smoke --out build/site

Shows the published results, and beside them the reader's own (build/SCALE); where nothing was published, the
reader's own. Nothing is fetched; the result works from a file:// address. A build that fails leaves the old site as
it was.
"""

import argparse
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS, DATA = ROOT / "nbs", ROOT / "data"
SCALES = ("paper", "cpu", "smoke")  # highest first
STAMP = ".inputs"  # in the finished site: the hash of what it was made from
THEMES = {  # of the library, each by its first module
    "errors": "Files, images, processes",
    "evaluation": "Gates and nets",
    "sensitivity": "Measures",
    "checkpoints": "Training",
    "residual_arms": "The study",
    "comparisons": "From rows to verdicts",
    "figures": "Figures and the paper",
}
LOOSE = ("settings.ini", "constraints.txt", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff")


def inputs(scale):
    "Every file that the site is made from."
    folders = [
        NBS,
        ROOT / "fmm_nb",
        ROOT / "site",
        DATA,
        *(ROOT / "build" / scale / f for f in ("notebooks", "rows", "figures")),
    ]
    files = [
        p
        for f in folders
        for p in f.rglob("*")
        if p.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(p.parts)
    ]
    files += [ROOT / name for name in LOOSE] + [ROOT / "build" / scale / "claims.csv"]
    return sorted(p for p in files if p.exists())


def digest(scale, execute=True):
    "Hash of all inputs, by content."
    total = hashlib.sha256(f"{scale} {execute}".encode())
    for path in inputs(scale):
        with open(path, "rb") as file:
            total.update(f"{path.relative_to(ROOT)}\n".encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def is_whole(notebook):
    "Whether an executed notebook is there and did not fail."
    if not notebook.is_file():
        return False
    return not json.loads(notebook.read_text(encoding="utf-8"))["metadata"].get("papermill", {}).get("exception")


def own(relative, scale):
    "The reader's own executed notebook, or None, and what is said of it."
    notebook = ROOT / "build" / scale / "notebooks" / relative
    return notebook if is_whole(notebook) else None, f"your build, scale {scale}" + (
        ": not evidence" if scale == "smoke" else ""
    )


def kept(relative):
    """The published executed notebook of a page, or None, and what is said of it: at the scale whose results the paper
    shows, else at the highest that has it."""
    has = lambda scale, name: is_whole(DATA / "results" / scale / "notebooks" / name)
    told = next((scale for scale in SCALES if has(scale, "paper.ipynb")), None)
    found = sorted((scale for scale in SCALES if has(scale, relative)), key=lambda scale: scale != told)
    more = f" (published at scale {', '.join(found[1:])}, too: data/results)" if found[1:] else ""
    return (
        (DATA / "results" / found[0] / "notebooks" / relative, f"published, scale {found[0]}{more}")
        if found
        else (None, "")
    )


def study(scale):
    """The paper and the experiments, each as it was published, else as it ran here; and beside what was published what
    ran here."""
    from prep import Page

    relatives = [Path("paper.ipynb"), *(p.relative_to(NBS) for p in sorted((NBS / "experiments").glob("*.ipynb")))]
    pages, beside = [], []
    for relative in (r for r in relatives if (NBS / r).exists()):
        kind = "paper" if relative.name == "paper.ipynb" else "experiment"
        name = "index" if kind == "paper" else str(relative.with_suffix(""))
        (mine, mine_note), (theirs, theirs_note) = own(relative, scale), kept(relative)
        shown, note = (
            (theirs, theirs_note)
            if theirs
            else (mine, mine_note)
            if mine
            else (NBS / relative, f"not run here; make paper SCALE={scale} runs it")
        )
        pages.append(Page(name, shown, NBS / relative, kind, note))
        if mine and theirs:
            beside.append(Page(f"build/{relative.with_suffix('')}", mine, NBS / relative, kind, mine_note))
    return pages, beside


def library(execute):
    """Pages of nbs/lib, nbs/howto and nbs/index.ipynb: their executed copies, which `executing` makes, unless told
    otherwise."""
    import execute as runner
    from prep import Page

    notebooks = runner.library()
    copies = runner.copies(notebooks) if execute else {p: p for p in notebooks}
    kinds = {"lib": "library", "howto": "howto", "nbs": "readme"}
    names = {p: "readme" if p.parent == NBS else str(p.relative_to(NBS).with_suffix("")) for p in notebooks}
    return [Page(names[p], copy, p, kinds[p.parent.name]) for p, copy in copies.items()]


@contextmanager
def executing(execute):
    """Within the block another process runs the library's notebooks, where they were not run before; at its end all of
    them were."""
    if not execute:
        yield
        return
    with subprocess.Popen([sys.executable, ROOT / "site" / "execute.py"]) as runner:
        yield
    if runner.returncode:
        raise SystemExit(runner.returncode)


def places(pages):
    "What a link to a file or folder of the repository leads to."
    found = {path: f"{p.name}.ipynb" for p in reversed(pages) for path in (p.shown, p.origin)}
    data = {
        DATA / "README.md": "data.md",
        DATA: "data.md",
        DATA / "results": "results.md",
        NBS / "experiments": "results.md",
    }
    loose = {ROOT / f"{name}.md": f"{name.lower()}.md" for name in ("CHANGELOG", "CONTRIBUTING")}
    return (
        found
        | data
        | loose
        | {NBS / "lib": "api/index.md", ROOT / "fmm_nb": "api/index.md", ROOT / "README.md": "readme.ipynb"}
    )


def toctree(caption, names):
    "One group of the sidebar."
    lines = "\n".join(names)
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n\n" if names else ""


def themes(names):
    "The pages of the library, in order, by theme."
    found, caption = {}, "Library"
    for name in names:
        caption = THEMES.get(name.partition("_")[2], caption)
        found.setdefault(caption, []).append(name)
    return found


def sidebar(pages, beside, scale):
    "The groups of the sidebar, as markdown for the start page."
    of = {kind: [p.name for p in pages if p.kind == kind] for kind in ("experiment", "howto", "library")}
    titled = [f"The paper <{p.name}>" if p.kind == "paper" else p.name for p in beside]
    return (
        toctree("Read", ["The paper <self>", "Read me <readme>", "Results <results>", "Data <data>", "API <api/index>"])
        + toctree("Experiments", of["experiment"])
        + toctree(f"Your build (scale {scale})", titled)
        + toctree("How-to", of["howto"])
        + "".join(toctree(caption, names) for caption, names in themes(of["library"]).items())
    )


def write_notebook(page, links, source, more=""):
    "Put one page into the source, and its clean notebook beside the pages for download."
    from prep import markdown, prepare

    notebook = prepare(page, links)
    notebook["cells"] += [markdown(more) | {"id": "more"}] if more else []
    target = source / "html" / f"{page.name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(notebook), encoding="utf-8")
    clean = source / "extra" / "notebooks" / f"{page.name}.ipynb"
    clean.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(page.origin, clean)


def write_api(pages, source):
    "The pages of the API."
    import api

    of = {str(p.origin.relative_to(ROOT)): p.name for p in pages}
    modules = sorted((api.Module(p) for p in (ROOT / "fmm_nb").glob("[!_]*.py")), key=lambda m: m.notebook or "")
    (source / "html" / "api").mkdir(parents=True)
    for module in modules:
        text = api.module_page(module, of.get(module.notebook))
        (source / "html" / "api" / f"{module.name}.md").write_text(text, encoding="utf-8")
    (source / "html" / "api" / "index.md").write_text(api.index_page(modules), encoding="utf-8")


def write_texts(pages, pages_library, scale, links, source):
    "The pages that no notebook is: the API, data, results, and two texts of the repository's root."
    import tables

    write_api(pages_library, source)
    text = {name: tables.loose_page(ROOT / f"{name.upper()}.md", links) for name in ("changelog", "contributing")}
    text |= {"data": tables.data_page(DATA, links), "results": tables.results_page(pages, scale, ROOT, links)}
    for name, page in text.items():
        (source / "html" / f"{name}.md").write_text(page, encoding="utf-8")


def assemble(scale, source, execute=True):
    "Everything Sphinx needs, in the folder `source`: pages in html/, files to be copied as they are in extra/."
    from prep import Links, copy_name, for_both_grounds

    if not (NBS / "paper.ipynb").exists() or not (NBS / "index.ipynb").exists():
        raise SystemExit(
            "nbs/paper.ipynb and nbs/index.ipynb are needed: they are the site's start page and its read-me"
        )
    (pages, beside), pages_library = study(scale), library(execute)
    everything = pages + pages_library + beside
    links = Links(ROOT, places(everything))
    with executing(execute):
        for page in pages + beside:
            write_notebook(
                page, links, source, sidebar(pages + pages_library, beside, scale) if page.name == "index" else ""
            )
        write_texts(pages + beside, pages_library, scale, links, source)
        import furo  # noqa: F401  # Sphinx takes a second to load
    for page in pages_library:
        write_notebook(page, links, source)
    for path in sorted(links.files):
        copy = source / "html" / "files" / copy_name(path.relative_to(ROOT))
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".svg":
            copy.write_text(for_both_grounds(path.read_text(encoding="utf-8")), encoding="utf-8")
        else:
            shutil.copyfile(path, copy)


def render(source, target):
    "Run Sphinx; its warnings are errors."
    from sphinx.cmd.build import main as sphinx

    # two that write, and Sphinx itself, which hands out the pages
    jobs = ["-j", "3"] if sys.platform == "linux" else []
    options = ["-q", "-W", "--keep-going", "-E", *jobs, "-c", str(ROOT / "site"), "-d", str(source / "doctrees")]
    gc.disable()  # pages are large trees full of cycles, and soon over: looking for garbage is a sixth of the work
    try:
        failed = sphinx([*options, "-D", f"html_extra_path={source / 'extra'}", str(source / "html"), str(target)])
    finally:
        gc.enable()
    if failed:
        raise SystemExit("the site could not be built: see the warnings above")
    shutil.rmtree(target / ".doctrees", ignore_errors=True)
    (target / ".buildinfo").unlink(missing_ok=True)
    shutil.rmtree(target / "_sources", ignore_errors=True)


def check(target):
    "Refuse a site that asks another machine for something, or whose links do not hold."
    import checks

    with ProcessPoolExecutor(2) as both:
        remote, broken = both.submit(checks.remote, target), both.submit(checks.broken, target)
    wrong = [f"remote: {x}" for x in remote.result()] + [f"broken link: {x}" for x in broken.result()]
    if wrong:
        raise SystemExit("\n".join(wrong[:20] + ([f"… and {len(wrong) - 20} more"] if len(wrong) > 20 else [])))


def swap(new, out):
    "Put the finished folder in the old one's place."
    old = new.parent / "old"
    if out.exists():
        os.replace(out, old)
    os.replace(new, out)


def build(scale, out, execute=True, force=False):
    "Build the site into `out`; True if there was something to do."
    wanted = digest(scale, execute)
    stamp = out / STAMP
    if not force and stamp.is_file() and stamp.read_text() == wanted:
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".site-", dir=out.parent) as work:
        source, new = Path(work) / "source", Path(work) / "new"
        assemble(scale, source, execute)
        render(source, new)
        check(new)
        (new / STAMP).write_text(wanted)
        swap(new, out)
    return True


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="smoke", choices=SCALES)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    parser.add_argument("--no-execute", action="store_true", help="show library pages without running them")
    parser.add_argument("--force", action="store_true", help="build also where nothing has changed")
    args = parser.parse_args()
    done = build(args.scale, args.out.resolve(), not args.no_execute, args.force)
    print(f"{'built' if done else 'unchanged'}: {args.out / 'index.html'}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
