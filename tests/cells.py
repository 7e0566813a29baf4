"""The tests beside the code, on the exported modules: `make coverage` measures with this, and so do mutants of a
module.

    pytest tests/cells.py [-k 31_statistics]

A page's exported cells are left out; all others run in the namespace of the module that they make.
"""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest

PAGES = [
    "01_files",
    "31_statistics",
    "32_checkpoints",
    "37_store",
    "54_rules",
    "52_comparisons",
    "53_effects",
    "56_judgement",
    "58_claims",
]
LIBRARY = Path(__file__).resolve().parent.parent / "nbs" / "lib"


@pytest.mark.parametrize("page", PAGES)
def test_cells(page, monkeypatch):
    monkeypatch.chdir(LIBRARY)
    module = import_module(f"fmm_nb.{page.partition('_')[2]}")
    names = dict(vars(module))
    try:
        for cell in json.loads((LIBRARY / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and not re.search(
                r"^#\| (export|default_exp|eval: false|slow|gpu)|nbdev_export", source, re.M
            ):
                exec(compile(source, page, "exec"), vars(module))
    finally:
        vars(module).clear()
        vars(module).update(names)
