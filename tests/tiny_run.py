"""`fmm run` of a study that takes seconds: four nets and a page of a few lines, all in a folder of its own.

    python tests/tiny_run.py FOLDER [option of fmm run …]

Where TINY_HELD names a file, one worker waits after its first checkpoint: it has written its number there, and can
be killed in mid-training.
"""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import nbformat

from fmm_nb import batch, cli, pages
from fmm_nb.specs import Protocol, Spec

EPOCHS = int(os.environ.get("TINY_EPOCHS", 3))
RECIPE = Protocol(epochs=EPOCHS, batch_size=20, snapshots=tuple(range(1, EPOCHS)))  # a checkpoint after each epoch
NETS = [Spec(model, "mnist_mini", RECIPE, seed, n_train=200) for model in ("cnn", "am") for seed in (0, 1)]
CODE = f"""import sys
from fmm_nb.measures import last_epoch
from fmm_nb.results import rows, study
page = study("paper", globals())
sys.path.insert(0, {str(Path(__file__).parent)!r})
from tiny_run import NETS
table = rows("tiny", NETS, last_epoch, scale, page.store, page.out)
page.answer("found", {{"accuracy": table[["key", "test_accuracy_percent"]]}})"""


class Page(pages.Page):
    "The page of this study; workers find this class as they import this file."

    source = property(lambda self: self.build / "page.ipynb")


def write_page(folder):
    "The notebook."
    parameters = nbformat.v4.new_code_cell("scale = 'smoke'\nstore = ''\nout = ''", metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(
        nbformat.v4.new_notebook(metadata=kernel, cells=[parameters, nbformat.v4.new_code_cell(CODE)]),
        folder / "page.ipynb",
    )


def hold(file):
    "Have the first worker of all that writes a checkpoint wait."
    from fmm_nb import loop

    def held(training, path, write=loop.write_checkpoint):
        write(training, path)
        try:
            number = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return
        os.write(number, str(os.getpid()).encode())
        time.sleep(600)

    loop.write_checkpoint = held


if __name__ == "__mp_main__" and "TINY_HELD" in os.environ:
    hold(os.environ["TINY_HELD"])
if __name__ in ("__main__", "__mp_main__"):  # here, and in the process of the page
    for module in (batch, pages):
        module.Page = Page
        module.experiment_of = lambda name: "paper"
        module.specs = lambda name, scale: NETS
        module.inputs = lambda page: {f"net {spec.seed}": spec.key for spec in NETS}
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore it
    folder = Path(sys.argv[1]).resolve()
    if not (folder / "page.ipynb").exists():
        write_page(folder)
    batch.run = partial(batch.run, build=folder)
    sys.exit(cli.main(["run", "page", *sys.argv[2:]]))
