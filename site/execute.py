"""Run notebooks of the library, each in a fresh process, and keep the executed copies.

    python site/execute.py [--fresh] [--workers 2] [NOTEBOOK …]

Without names: nbs/lib, nbs/howto and nbs/index.ipynb. This runs what nbdev_test runs (the same cells are skipped),
and keeps the outputs, so that the site shows what the test has seen. Warnings are errors, but for those that
pyproject.toml names. A copy is kept under the hash of all that it depends on; --fresh runs also what is kept.
"""

import argparse
import gc
import hashlib
import json
import multiprocessing
import os
import re
import sys
import time
import tomllib
import traceback
import warnings
from configparser import ConfigParser
from multiprocessing.connection import wait
from pathlib import Path
from pkgutil import resolve_name
from textwrap import indent

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "site-cache"
TIMEOUT = 600  # seconds a notebook
DIRECTIVE = re.compile(r"^\s*#[ \t]*\|[ \t]*([\w-]+)[ \t]*:?[ \t]*(.*)$", re.M)
sys.path.insert(0, str(ROOT))  # so notebooks see this package, wherever another one is installed


def library():
    "The notebooks that are run for the site, in reading order."
    found = [ROOT / "nbs" / "index.ipynb", *sorted((ROOT / "nbs" / "lib").glob("*.ipynb"))]
    return [p for p in found + sorted((ROOT / "nbs" / "howto").glob("*.ipynb")) if p.exists()]


def label(path):
    "A notebook's name in messages."
    return os.path.relpath(path, ROOT)


def environment():
    "Hash of everything but itself that an executed notebook depends on."
    files = [
        *sorted((ROOT / "fmm_nb").rglob("*.py")),
        ROOT / "constraints.txt",
        ROOT / "pyproject.toml",
        Path(__file__),
    ]
    shipped = [p for name in ("mini", "reported", "weights") for p in (ROOT / "data" / name).rglob("*") if p.is_file()]
    data = sorted(f"{p.name} {p.stat().st_size}" for p in shipped)
    digest = hashlib.sha256(f"{sys.version_info[:2]} {data}".encode())
    for path in files:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def copies(notebooks):
    "Where the executed copies of notebooks lie, or will lie, {notebook: copy}."
    environ = environment().encode()
    key = lambda notebook: hashlib.sha256(environ + notebook.read_bytes()).hexdigest()[:16]
    return {path: CACHE / path.parent.name / f"{path.stem}-{key(path)}.ipynb" for path in notebooks}


def skip_flags():
    "Flags of settings.ini that mark cells which are not run by default."
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return set(ini["DEFAULT"].get("tst_flags", "").split())


def is_run(source, flags):
    "Whether a cell is run: not where a flag or `eval: false` says no."
    directives = dict(DIRECTIVE.findall(source))
    return not (flags & directives.keys() or directives.get("eval", "").lower() == "false" or "nbdev_export(" in source)


def strict():
    "Make warnings errors, but for those that are none in pytest (pyproject.toml); pytest's own do not occur here."
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    for line in options["filterwarnings"]:
        action, message, category, module = (line.split(":") + ["", "", ""])[:4]
        if not category.startswith("pytest."):
            kind = resolve_name(category if "." in category else f"builtins.{category or 'Warning'}")
            warnings.filterwarnings(action, message, kind, module)


def run_cells(notebook, path):
    "Run the cells of a loaded notebook in place; at the first that fails, say which and why, and leave."
    from execnb.shell import CaptureShell  # replaces __main__, so only in the notebook's own process

    shell, flags, errors = CaptureShell(path, mpl_format="svg"), skip_flags(), []
    shell.showtraceback = lambda *_, **__: errors.append(sys.exception())  # of a cell, or of what shows its results
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    strict()
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        if is_run(source, flags):
            cell["outputs"] = list(shell.run(source))
        if shell.exc or errors:
            error = "".join(
                traceback.format_exception(
                    shell.exc.with_traceback(shell.exc.__traceback__.tb_next) if shell.exc else errors[0]
                )
            )
            sys.exit(f"\n{label(path)}, code cell {number}:\n{indent(source[:800], '    ')}\n{error}")


def run(path, target):
    "Run one notebook as nbdev_test does, in its folder, and write the executed copy; for a process of its own."
    os.chdir(path.parent)
    os.environ["IN_TEST"] = "1"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    if "skip_exec: true" not in "".join(notebook["cells"][0]["source"]):
        run_cells(notebook, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.glob(f"{path.stem}-*.ipynb"):
        old.unlink(missing_ok=True)
    part = target.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(notebook, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(part, target)


def context():
    """How processes start: forked, where that is safe, from one that has imported what most notebooks need, and whose
    objects none of them looks through for garbage."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    gc.disable()
    import execnb.shell  # noqa: F401
    import IPython.core.magics.execution  # noqa: F401
    import matplotlib_inline.backend_inline  # noqa: F401
    import scipy.stats  # noqa: F401
    import seaborn  # noqa: F401
    import torch._dynamo  # noqa: F401  # torch's optimizers and counter of operations load it at their first use
    from matplotlib.backends import backend_registry

    import fmm_nb.article
    import fmm_nb.training
    import fmm_nb.trajectories  # noqa: F401

    backend_registry.list_all()  # looks through all packages for what draws
    gc.freeze()
    gc.enable()
    return multiprocessing.get_context("fork")


def run_all(jobs, workers=2, say=print):
    """Run (notebook, target) pairs, `workers` at a time, the largest first: no core waits for a long one at the end.
    The notebooks that failed."""
    waiting = sorted(jobs, key=lambda job: job[0].stat().st_size, reverse=True)
    processes, running, failed = context(), {}, []
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.pop(0)
            process = processes.Process(target=run, args=job)
            process.start()
            running[process.sentinel] = process, job[0], time.monotonic()
        ended = wait(list(running), timeout=1)
        late = [s for s, (_, _, start) in running.items() if time.monotonic() - start > TIMEOUT]
        for sentinel in {*ended, *late}:
            process, path, start = running.pop(sentinel)
            process.kill() if sentinel in late else None
            process.join()
            # a killed process says nothing itself: its exit code does
            verdict = "ok" if process.exitcode == 0 else f"FAILED (exit code {process.exitcode})"
            failed += [path] if process.exitcode else []
            say(f"  {label(path)}  {time.monotonic() - start:.1f} s  {verdict}", flush=True)
    return failed


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--fresh", action="store_true", help="run also what is kept")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    wanted = copies([p.resolve() for p in args.notebooks] or library())
    missing = [job for job in wanted.items() if args.fresh or not job[1].exists()]
    failed = run_all(missing, args.workers) if missing else []
    if failed:
        sys.exit("failed: " + ", ".join(label(p) for p in failed))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
