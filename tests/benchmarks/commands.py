"""How long the commands take that only look, and a second `fmm paper`, in one run.     make bench

`fmm list` and `fmm claims` on a copy of this repository whose store has 2,000 nets and whose published rows are
repeated to 50,000; `fmm paper` here, where a first one has left nothing to do (it is run, should it be missing: ten
minutes; all else takes one). Each starts anew ROUNDS times, in turns with `python -c pass`, the floor of every
command. Writes data/results/bench/<machine>-commands.csv with a figure, and prints medians.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from bench import ROOT, machine

ROUNDS, NETS, ROWS = 5, 2000, 50_000
LEFT_OUT = shutil.ignore_patterns("build", "dist", ".*", "*.egg-info", "__pycache__")
FMM = [sys.executable, "-c", "import sys; from fmm_nb.cli import main; sys.exit(main())"]
LOOKS = {"fmm list --scale cpu": "list --scale cpu", "fmm claims": "claims"}


def filled(folder):
    "Give a copy of the repository nets of the plan, with further seeds, and every published row many times."
    from fmm_nb.plan import EXPERIMENTS, specs
    from fmm_nb.specs import identity
    from fmm_nb.store import digest

    store = folder / "build" / "store"
    store.mkdir(parents=True)
    planned = list({spec.key: spec for name in EXPERIMENTS for spec in specs(name, "cpu")}.values())
    for place in range(NETS):
        spec = planned[place % len(planned)]
        spec = replace(spec, seed=spec.seed + 100 * (place // len(planned)))
        record = {
            "identity": identity(spec),
            "history": [{"epoch": epoch, "test_accuracy": 0.5} for epoch in range(20)],
        }
        (store / f"{spec.key}.json").write_text(json.dumps({"sha256": digest(record), "record": record}, indent=1))
        (store / f"{spec.key}.safetensors").write_bytes(bytes(1000))
    tables = {
        path: path.read_text().splitlines(keepends=True) for path in (folder / "data" / "results").glob("*/rows/*.csv")
    }
    times = -(-ROWS // sum(len(lines) - 1 for lines in tables.values()))
    for path, (heading, *lines) in tables.items():
        path.write_text("".join([heading, *lines * times]))


def seconds(command, folder):
    "The time a command takes, which must succeed."
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, check=True, capture_output=True)
    return time.perf_counter() - start


def draw(table):
    "Seconds of each command: a dot a round, the median as a tick with its number."
    from matplotlib import pyplot as plt

    from fmm_nb import figures

    figures.style()
    names, colour = list(dict.fromkeys(table.command)), figures.ARMS["am"][1]
    figure, ax = plt.subplots(figsize=(figures.FULL, 1.5), layout="constrained")
    for line, name in enumerate(names):
        times = table.seconds[table.command == name]
        ax.plot(times, [line] * len(times), "o", color=colour, ms=3, mew=0, alpha=0.5)
        ax.plot(times.median(), line, "|", color=colour, ms=10)
        ax.annotate(
            f"{times.median():.2f}", (times.max(), line), xytext=(6, 0), textcoords="offset points", va="center"
        )
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel(f"seconds, with {NETS:,} nets and {ROWS:,} rows")
    ax.margins(x=0.12, y=0.15)
    ax.set_xlim(left=0)
    ax.yaxis.set_inverted(True)
    return figure


def main():
    import pandas as pd

    from fmm_nb import figures
    from fmm_nb.workers import cores

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        filled(copy)
        subprocess.run([*FMM, "paper"], cwd=ROOT, check=True)
        commands = {"an empty Python": ([sys.executable, "-c", "pass"], copy)} | {
            name: ([*FMM, *line.split()], copy) for name, line in LOOKS.items()
        }
        commands |= {"second fmm paper": ([*FMM, "paper"], ROOT)}
        for command in commands.values():  # files are read from memory from here on
            seconds(*command)
        rows = [
            {"command": name, "round": turn, "seconds": seconds(*command)}
            for turn in range(ROUNDS)
            for name, command in commands.items()
        ]
    table = pd.DataFrame(rows).round(4).assign(nets=NETS, rows=ROWS, cores=cores())
    floor = statistics.median(row["seconds"] for row in rows if row["command"] == "an empty Python")
    for name, of in table.groupby("command", sort=False):
        print(f"{name}: {of.seconds.median():.2f} s, {of.seconds.median() / floor:.0f} x an empty Python", flush=True)
    figures.save(draw(table), f"{machine()}-commands", table, ROOT / "data" / "results" / "bench")


if __name__ == "__main__":
    main()
