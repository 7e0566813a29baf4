"""What the study writes itself, mutated: the right answer or our named error, never another exception, never a wrong
value."""

import json
import os
import random
import shutil
import warnings
from functools import partial

import pandas as pd
import papermill
import pytest
import torch
from test_data import mutate

from fmm_nb import batch, pages
from fmm_nb.batches import parts
from fmm_nb.checkpoints import read_checkpoint, write_checkpoint
from fmm_nb.data import load
from fmm_nb.errors import InputError
from fmm_nb.files import read_json
from fmm_nb.loop import Training
from fmm_nb.specs import Protocol, Spec
from fmm_nb.store import Store, read_net, records, write_net
from fmm_nb.tables import append_rows, read_rows
from fmm_nb.training import train

MUTATIONS = int(os.environ.get("FMM_MUTATIONS", 100))
SPEC = Spec("cnn", "mnist_mini", Protocol(epochs=1, batch_size=20), n_train=40)
ROW = {
    "key": "0123456789abcdef",
    "measure_version": 1,
    "model": "am",
    "data": "mnist",
    "seed": 0,
    "precision": "float32",
    "value": 0.1,
}


@pytest.fixture(scope="module")
def images():
    return load("mnist_mini").subset(60, 30)


def mutations(path, seed=0):
    "Write mutated contents to a file, one after the other, and say of each whether it is what it was."
    whole, chance = path.read_bytes(), random.Random(seed)
    for _ in range(MUTATIONS):
        content = mutate(whole, chance)
        path.write_bytes(content)
        yield content == whole
    path.write_bytes(whole)


def answer(read):
    "What a reader gives, or None where it raises our error, in one line."
    try:
        return read()
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_nets(tmp_path, images, kind):
    write_net(tmp_path, train(SPEC, images, "cpu"))
    whole = read_net(tmp_path, SPEC.key)
    for same in mutations(tmp_path / f"{SPEC.key}.{kind}"):
        found = answer(lambda: read_net(tmp_path, SPEC.key))
        right = (
            found is not None
            and found.history.equals(whole.history)
            and all(torch.equal(found.weights[1][name], value) for name, value in whole.weights[1].items())
        )
        assert right if same else found is None or right
        list(records(tmp_path))
    assert Store(tmp_path).verify() == []


def test_checkpoints(tmp_path, images):
    path, state = tmp_path / "state", Training(SPEC, parts(SPEC, images))
    write_checkpoint(state, path)
    for same in mutations(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert read_checkpoint(state, path) == same


def test_rows(tmp_path):
    path = tmp_path / "rows" / "tiny.csv"
    append_rows(path, pd.DataFrame([ROW, ROW | {"key": "f" * 16, "value": 1 / 3}]))
    whole = read_rows(path)
    for _ in mutations(path):
        found = answer(lambda: read_rows(path))
        assert found is None or found.equals(whole)
        pages.measured("tiny", "rows", tmp_path)


def test_published_rows(tmp_path):
    "These have no checksum, since git keeps them: whatever can be read as a table is one."
    path = tmp_path / "tiny.csv"
    pd.DataFrame([ROW, ROW | {"value": 1 / 3}]).to_csv(path, index=False)
    for _ in mutations(path):
        found = answer(lambda: read_rows(path))
        assert found is None or {"key", "model"} <= set(found.columns)


def test_answers_and_stamps(tmp_path):
    page = pages.Page("paper", "smoke", tmp_path)
    page.stamp.parent.mkdir(parents=True)
    page.stamp.write_text(json.dumps({"fmm_nb/loop.py": "0123456789abcdef"}, indent=1))
    for _ in mutations(page.stamp):
        stamp, content = pages._stamp(page), answer(lambda: read_json(page.stamp))
        assert isinstance(stamp, dict) and (content is None or content == stamp)


def test_notebooks(tmp_path, monkeypatch):
    """All but its execution: a page whose notebook is damaged fails, in one line; one that was executed and altered
    since is out of date."""
    monkeypatch.setattr(papermill, "execute_notebook", partial(papermill.execute_notebook, prepare_only=True))
    monkeypatch.setattr(pages, "inputs", lambda page: {"page": "1"})
    source = tmp_path / "source.ipynb"
    shutil.copy(pages.need_repository("this test") / "nbs" / "experiments" / "04_landscapes.ipynb", source)
    monkeypatch.setattr(pages.Page, "source", source)
    page, texts = pages.Page("04_landscapes", "smoke", tmp_path), []
    page.target.parent.mkdir(parents=True)
    for _ in mutations(source):
        texts.append(batch._papermill(page, page.target))
    assert (
        batch._papermill(page, page.target) is None
        and 0 < sum(map(bool, texts))
        and "\n" not in "".join(filter(None, texts))
    )
    page.stamp.parent.mkdir(exist_ok=True)
    page.stamp.write_text(json.dumps(pages.inputs(page) | pages.made(page)))
    for same in mutations(page.target):
        assert pages.state(page) == ("done" if same else "stale")


def test_a_page_whose_figure_or_rows_were_altered_is_out_of_date(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "inputs", lambda page: {"page": "1"})
    page = pages.Page("03_multiplication", "smoke", tmp_path)
    made = [page.target, page.out / "figures" / "03_a.svg", page.out / "rows" / "03_multiplication.csv", page.answer]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("as it was")
    page.stamp.parent.mkdir()
    page.stamp.write_text(json.dumps(pages.inputs(page) | pages.made(page)))
    assert pages.state(page) == "done"
    for path in made:
        path.write_text("as it wos")
        assert pages.state(page) == "stale" and [name for name, *_ in pages.changes(page)] == [
            f"made {path.relative_to(page.out)}"
        ]
        path.write_text("as it was")
    shutil.rmtree(page.out / "figures")
    assert pages.changes(page)[0][2] is None
