"""Small changes of a module, one at a time: how many does no test see? Takes an hour, so it is run by hand.

    pip install --target build/cosmic-ray cosmic-ray        # whose changes these are
    PYTHONPATH=build/cosmic-ray python tests/mutants.py statistics 300    # so many of its mutants, drawn at random; all without a number

Writes data/results/torture/mutants.csv; prints each change that was not seen. A mutant is a forked child, in which the module
is imported from the changed source.
"""
import csv
import difflib
import os
import random
import resource
import sys
import traceback
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "data" / "results" / "torture" / "mutants.csv"
TESTS = {
    "statistics": ["cells.py::test_cells[09_statistics]", "test_statistics.py"],
    "rules": ["cells.py::test_cells[25_rules]", "cells.py::test_cells[27_judgement]", "test_claims.py", "test_rules.py"],
    "comparisons": ["cells.py::test_cells[26_comparisons]", "cells.py::test_cells[27_judgement]", "test_claims.py"],
    "judgement": ["cells.py::test_cells[27_judgement]", "test_claims.py"],
    "claims": ["test_claims.py", "cells.py::test_cells[28_claims]"],
}

BROKEN = 70  # exit code


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


def seen(module, source):
    "Whether a test fails on a changed module."
    if child := os.fork():
        status = os.waitpid(child, 0)[1]
        assert os.waitstatus_to_exitcode(status) != BROKEN, "pytest itself failed"
        return status != 0
    try:
        import pytest

        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # a loop that does not end is seen
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.meta_path.insert(0, Changed(f"fmm_nb.{module}", source))
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(str(ROOT / "tests" / test) for test in TESTS[module])])
        os._exit(int(code))
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(BROKEN)


def main(module, count=None):
    "Run the tests on mutants of a module, and note how many were seen."
    import matplotlib.pyplot, pandas, scipy.stats, statsmodels.stats.power, torch  # noqa: E401, F401 (loaded once)

    source = (ROOT / "fmm_nb" / f"{module}.py").read_text(encoding="utf-8")
    assert not seen(module, source), "its tests fail on the module as it is"
    made = list(mutants(source))
    drawn = random.Random(0).sample(made, min(int(count), len(made)) if count else len(made))
    unseen = []
    for place, change in enumerate(drawn):
        changed = mutant(source, *change)
        if not seen(module, changed):
            unseen.append(change)
            print(*change)
            print(*list(difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0))[2:], sep="\n", flush=True)
        print(f"{place + 1} of {len(drawn)}, {len(unseen)} unseen", file=sys.stderr, flush=True)
    rows = {row["module"]: row for row in csv.DictReader(open(RECORD, newline=""))} if RECORD.exists() else {}
    rows[module] = {"module": module, "mutants": len(made), "tried": len(drawn), "seen": len(drawn) - len(unseen), "percent": round(100 - 100 * len(unseen) / len(drawn), 1)}
    with open(RECORD, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[module]))
        table.writeheader()
        table.writerows(rows[name] for name in TESTS if name in rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
