"""Small changes of a module, one at a time: how many does no test see? Takes an hour, so it is run by hand.

    pip install --target build/cosmic-ray cosmic-ray        # whose changes these are
    PYTHONPATH=build/cosmic-ray python tests/mutants.py statistics 300    # so many, at random; without it all

Prints each change that was not seen, and updates data/results/torture/mutants.csv after each mutant. Started again,
it goes on: as long as the module is the same, what was seen stays seen (delete build/mutants where a test was taken
away), and what was not is tried again. A mutant is a forked child, in which the module is imported from the changed
source; its tests run in the order of the time they take.
"""

import contextlib
import csv
import difflib
import hashlib
import os
import random
import resource
import sys
import traceback
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "data" / "results" / "torture" / "mutants.csv"
# fewer than all that could see a change: what these do not see, others may
TESTS = {
    "statistics": ["test_statistics.py", "cells.py::test_cells[31_statistics]"],
    "rules": ["test_rules.py", "cells.py::test_cells[54_rules]", "test_judgement.py"],
    "comparisons": ["test_comparisons.py", "cells.py::test_cells[52_comparisons]", "test_judgement.py"],
    "judgement": ["test_judgement.py", "cells.py::test_cells[56_judgement]"],
    "effects": ["test_judgement.py", "cells.py::test_cells[53_effects]"],
    "claims": ["test_claims.py", "cells.py::test_cells[58_claims]"],
}

BROKEN = 70  # exit code
# plugins are loaded before
OPTIONS = "-x -q -p no:cacheprovider -p no:unraisableexception -W ignore::pytest.PytestAssertRewriteWarning".split()


class Changed(MetaPathFinder, Loader):
    "Imports a module from another text."

    def __init__(self, name, source):
        self.name, self.source = name, source

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, origin=f"{name}, changed") if name == self.name else None

    def exec_module(self, module):
        exec(compile(self.source, self.name, "exec"), vars(module))


def mutants(source):
    "Every change that cosmic-ray makes of a text: (operator, which of its places)."
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    tree = get_ast(source)
    operators = [(name, get_operator(name)) for name in sorted(operator_names())]
    for name, operator in operators:
        if not operator.arguments():  # others need to be told the name of a variable
            places = sum(len(list(operator().mutation_positions(node))) for node in ast_nodes(tree))
            yield from ((name, place) for place in range(places))


def mutant(source, name, place):
    "The text with one change."
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    return mutate_code(source, get_operator(name)(), place)


def read(path):
    "The rows of a file; none where it is not there."
    return list(csv.reader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


class InOrder:
    "For pytest: runs the quickest tests first, by their times in a file that it writes."

    def __init__(self, path):
        self.path, self.times = path, {}

    def pytest_collection_modifyitems(self, items):
        times = dict(read(self.path))
        items.sort(key=lambda item: float(times.get(item.nodeid, 0)))

    def pytest_runtest_logreport(self, report):
        self.times[report.nodeid] = self.times.get(report.nodeid, 0) + report.duration

    def pytest_sessionfinish(self, exitstatus):
        if not exitstatus:
            with self.path.open("w", newline="") as file:
                csv.writer(file).writerows(self.times.items())


def seen(module, source, order):
    "Whether a test fails on a changed module."
    if child := os.fork():
        status = os.waitpid(child, 0)[1]
        assert os.waitstatus_to_exitcode(status) != BROKEN, "pytest itself failed"
        return status != 0
    try:
        import pytest

        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # a loop that does not end is seen
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.modules.pop(f"fmm_nb.{module}")
        sys.meta_path.insert(0, Changed(f"fmm_nb.{module}", source))
        try:
            import_module(f"fmm_nb.{module}")
        except Exception:
            os._exit(1)
        code = int(pytest.main([*OPTIONS, *(str(ROOT / "tests" / test) for test in TESTS[module])], plugins=[order]))
        os._exit(code if code in (0, 1, 2) else BROKEN)  # all passed; one failed; one could not be imported
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(BROKEN)


def load(module):
    "Import here, once for all mutants, what does not depend on the module."
    import matplotlib.pyplot  # noqa: F401
    import pytest

    import_module(f"fmm_nb.{module}")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        pytest.main([*OPTIONS, "--collect-only", str(ROOT / "tests" / "conftest.py")])  # loads pytest's plugins


def record(module, made, outcomes):
    "Update a module's row of the record."
    tried, found = len(outcomes), sum(outcomes.values())
    head, *rows = read(RECORD)
    rows = {row[0]: row for row in rows} | {module: [module, made, tried, found, round(100 * found / tried, 1)]}
    with RECORD.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *(rows[name] for name in TESTS if name in rows)])


def main(module, count=None):
    "Run the tests on mutants of a module, and note how many were seen."
    load(module)
    source = (ROOT / "fmm_nb" / f"{module}.py").read_text(encoding="utf-8")
    kept = ROOT / "build" / "mutants" / f"{module}-{hashlib.sha256(source.encode()).hexdigest()[:16]}.csv"
    kept.parent.mkdir(parents=True, exist_ok=True)
    order = InOrder(kept.with_name(f"{module}-times.csv"))
    assert not seen(module, source, order), "its tests fail on the module as it is"
    made = list(mutants(source))
    random.Random(0).shuffle(made)
    drawn = made[: int(count) if count else None]
    outcomes = {(name, int(place)): found == "True" for name, place, found in read(kept)}
    with kept.open("a", newline="", buffering=1) as file:
        for change in sorted(drawn, key=lambda change: change in outcomes):  # those of an earlier run last
            if outcomes.get(change):
                continue
            changed = mutant(source, *change)
            outcomes[change] = seen(module, changed, order)
            csv.writer(file).writerow([*change, outcomes[change]])
            record(module, len(made), outcomes)
            if not outcomes[change]:
                print(*change)
                print(
                    *list(difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0))[2:],
                    sep="\n",
                    flush=True,
                )
            print(
                f"{len(outcomes)} of {len(drawn)}, {len(outcomes) - sum(outcomes.values())} unseen",
                file=sys.stderr,
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
