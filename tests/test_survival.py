"""Killed, starved of disk, altered, crowded: the next run goes on by itself and ends with the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TRIALS = [
    "killed",
    "input or output error",
    "read-only",
    "short write",
    "training on pictures",
    "random kills",
    "flipped bytes",
    "together",
]


@pytest.fixture(scope="session")
def outcomes(built_once):
    "What each trial found; one process makes all of them, since torch takes long to load."

    def make(folder):
        done = subprocess.run(
            [sys.executable, HERE / "faults.py", folder, *TRIALS],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            timeout=900,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        (folder / "found.json").write_text(done.stdout)

    return json.loads((built_once("survival", make) / "found.json").read_text())


@pytest.mark.parametrize("trial", TRIALS)
def test_the_next_run_ends_with_the_same_bytes(outcomes, trial):
    least = {
        "killed": 30,
        "input or output error": 6,
        "read-only": 6,
        "short write": 6,
        "training on pictures": 6,
        "random kills": 8,
        "flipped bytes": 3,
        "together": 80,
    }
    assert outcomes[trial]["wrong"] == [] and outcomes[trial]["runs"] >= least[trial]
