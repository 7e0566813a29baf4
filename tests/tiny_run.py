"""`fmm run` of a study that takes seconds: four nets and a page of a few lines, in a folder of its own.

    python tests/tiny_run.py FOLDER [SCHEDULER]
"""
import json
import sys
import warnings
from pathlib import Path

import nbformat

from fmm_nb import batch, loop
from fmm_nb.specs import Protocol, Spec

loop.CHECKPOINT_SECONDS = 0
NETS = [Spec(model, "mnist_mini", Protocol(epochs=3, batch_size=20), seed, n_train=400) for model in ("cnn", "am") for seed in (0, 1)]
CODE = f"""from fmm_nb.results import last_epoch, rows, study
page = study("paper", globals())
from fmm_nb.specs import Protocol, Spec
nets = [Spec(model, "mnist_mini", Protocol(epochs=3, batch_size=20), seed, n_train=400) for model in ("cnn", "am") for seed in (0, 1)]
table = rows("tiny", nets, last_epoch, scale, page.store, page.out)
page.answer("found", {{"accuracy": table[["key", "test_accuracy_percent"]]}})"""


class Page(batch.Page):
    "The page of this study; workers find this class as they import this file."

    source = property(lambda self: self.build / "page.ipynb")


batch.Page = Page
batch.experiment_of = lambda name: "paper"
batch.specs = lambda name, scale: NETS
batch.inputs = lambda page: {f"net {spec.seed}": spec.key for spec in NETS}


def write_page(folder):
    "The notebook, once."
    parameters = nbformat.v4.new_code_cell("scale = 'smoke'\nstore = ''\nout = ''", metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(metadata=kernel, cells=[parameters, nbformat.v4.new_code_cell(CODE)]), folder / "page.ipynb")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if not (folder / "page.ipynb").exists():
        write_page(folder)
    failures = batch.run(["the page"], "smoke", 2, build=folder, scheduler=sys.argv[2] if len(sys.argv) > 2 else None)
    print(json.dumps(failures))
    sys.exit(bool(failures))
