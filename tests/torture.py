"""What `make test` does a little of, for long: kills at each write and at random, faults, eight processes, mutated
files.

    python tests/torture.py [TRIAL …]

Writes data/results/torture/record.csv; a trial that finds something wrong ends it with 1. The record says how many runs
each trial made, how many of them went wrong, and what of it the trial counts.
"""

import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faults
import psutil

HERE = Path(__file__).resolve().parent
RECORD = HERE.parent / "data" / "results" / "torture" / "record.csv"


def tree_kills(base, whole, kills=60, seed=1):
    """Kill `fmm run` of a tiny study, as a whole tree or one process of it, at random moments; each time it ends, hold
    its table against the whole one."""
    chance, done, ended, wrong, tables = random.Random(seed), 0, 0, [], set()
    folder, usual = base / "run", None
    while done < kills:
        start = time.monotonic()
        run = subprocess.Popen(
            [sys.executable, HERE / "tiny_run.py", folder],
            env=os.environ | {"TINY_EPOCHS": "6"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if usual:
            end = time.monotonic() + chance.uniform(0, usual)
            while run.poll() is None and time.monotonic() < end:
                time.sleep(0.005)
            if run.poll() is None:
                family = psutil.Process(run.pid).children(recursive=True)
                if family and chance.random() < 0.5:
                    chance.choice(family).kill()
                else:
                    for process in [psutil.Process(run.pid), *family]:
                        process.kill() if process.is_running() else None
                done += 1
        code = run.wait()
        usual = usual or time.monotonic() - start
        if code == 0:
            ended += 1
            tables.add((folder / "smoke" / "rows" / "tiny.csv").read_bytes())
            shutil.rmtree(folder)
        elif code not in (1, -signal.SIGKILL):
            wrong.append(f"after {done} kills: exit {code}")
    final = subprocess.run(
        [sys.executable, HERE / "tiny_run.py", folder],
        env=os.environ | {"TINY_EPOCHS": "6"},
        capture_output=True,
        text=True,
    )
    wrong += [f"the last run: exit {final.returncode}"] if final.returncode else []
    tables.add((folder / "smoke" / "rows" / "tiny.csv").read_bytes())
    return {"runs": done, "finished": ended + 1, "wrong": wrong + (["tables differ"] if len(tables) > 1 else [])}


def mutated(*_):
    "Ten thousand mutated files for each reader: pytest counts the readers."
    readers = "mutated_files or damaged_archives or test_nets or test_checkpoints or test_rows or published_rows"
    readers += " or stamps or test_notebooks"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        str(HERE / "test_mutations.py"),
        str(HERE / "test_data.py"),
        "-k",
        readers,
    ]
    done = subprocess.run(command, env=os.environ | {"FMM_MUTATIONS": "10000"}, capture_output=True, text=True)
    passed = int((re.search(r"(\d+) passed", done.stdout) or [0, 0])[1])
    return {"runs": 10000 * passed, "wrong": [] if done.returncode == 0 and passed else done.stdout.splitlines()[-5:]}


TRIALS = {
    "killed at each write": lambda base, whole: faults.sweep(base, whole, "killed"),
    "disk full at each write": lambda base, whole: faults.sweep(base, whole, "disk full"),
    "error at each write": lambda base, whole: faults.sweep(base, whole, "input or output error"),
    "read-only from each write on": lambda base, whole: faults.sweep(base, whole, "read-only", for_good=True),
    "each write cut short": lambda base, whole: faults.sweep(base, whole, "short write"),
    "fmm imagenet killed at each write": lambda base, whole: faults.on_pictures(base, whole),
    "killed at random": lambda base, whole: faults.at_random(base, whole, 200),
    "one byte flipped": lambda base, whole: faults.flips(base, whole, per_file=20),
    "eight processes, 1000 rounds each": lambda base, whole: faults.together(base, whole, rounds=1000),
    "fmm run killed, tree or one process": tree_kills,
    "mutated files": mutated,
}


def main(names):
    "Run trials and note each as it ends."
    faults.MODELS = ["cnn", "am"]
    faults.prepare()
    old = list(csv.DictReader(open(RECORD, newline=""))) if RECORD.exists() else []
    rows, bad = {row["trial"]: row for row in old}, False
    for name in names:
        with tempfile.TemporaryDirectory(prefix="fmm torture å ") as folder:
            base = Path(folder)
            faults.forked(lambda: faults.batch(base / "whole"))
            start = time.monotonic()
            found = TRIALS[name](base, faults.kept(base / "whole"))
        wrong = found["wrong"]
        bad |= bool(wrong)
        rows[name] = {
            "trial": name,
            "runs": found["runs"],
            "wrong": len(wrong),
            "seconds": round(time.monotonic() - start),
            "first_wrong": (wrong or [""])[0],
        }
        print(rows[name], *wrong, sep="\n", flush=True)
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        with open(RECORD, "w", newline="") as file:
            table = csv.DictWriter(file, list(rows[name]))
            table.writeheader()
            table.writerows(rows[trial] for trial in TRIALS if trial in rows)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(TRIALS)))
