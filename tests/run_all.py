"""Everything that `make test` checks, cheapest first; stops at the first step that fails.

    python tests/run_all.py [WORKERS]

1. notebooks are clean, the package is what they export, README.md is what nbs/index.ipynb says
2. the notebooks run: the tests beside the code (what they show is kept for the site)
3. pytest: all the rest, among it packages that build and a site that is whole and offline
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTEST = ["-m", "pytest", "--no-header", "-p", "no:cacheprovider"]


def steps(workers):
    "Names and commands."
    return [
        ("notebooks and package in sync", [*PYTEST, "tests/test_notebooks.py"]),
        ("notebooks run", ["site/execute.py", "--fresh", "--workers", str(workers)]),
        ("tests", [*PYTEST, "-n", str(workers), "--dist", "worksteal", "--ignore", "tests/test_notebooks.py", "tests"]),
    ]


def main():
    "Run the steps; the last line is the verdict."
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else min(2, os.cpu_count() or 1)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # two workers on two cores
    begin = time.monotonic()
    for name, command in steps(workers):
        print(f"== {name}", flush=True)
        start = time.monotonic()
        code = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment).returncode
        print(f"== {name}: {'ok' if code == 0 else 'FAILED'} in {time.monotonic() - start:.0f} s", flush=True)
        if code:
            sys.exit(f"make test: FAILED at '{name}', see above")
    print(f"make test: all is well ({time.monotonic() - begin:.0f} s)")


if __name__ == "__main__":
    main()
