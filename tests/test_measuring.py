"""Rows of nets that several processes measure: the same as those of one, and none lost."""

import os
import signal
import threading
import warnings
from functools import cache

import pandas as pd
import pytest

from fmm_nb import results, workers
from fmm_nb.results import rows
from fmm_nb.specs import Protocol, Spec
from fmm_nb.store import Store
from fmm_nb.tables import read_rows

NETS = [Spec("cnn", "mnist_mini", Protocol(epochs=1, batch_size=20), seed, n_train=40) for seed in range(4)]
HERE = os.getpid()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    Store(folder).train(NETS)
    return folder


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    "Workers start also for what is quick."
    monkeypatch.setattr(workers, "QUICK", 0)


def measure_that(does=lambda trained: None):
    "A measure of two rows a net, which no other process can import; the net of the last seed has a column more."

    @cache
    def scale(seed):
        return seed / 3

    def measure(trained):
        does(trained)
        of_net = sum(weights.double().norm().item() for weights in trained.weights[1].values())
        more = {"late": trained.spec.seed} if trained.spec.seed == 3 else {}
        return [{"part": part, "value": of_net * scale(trained.spec.seed)} | more for part in ("a", "b")]

    return measure


def measured(folder, store, measure, count, nets=NETS):
    return rows("nets", nets, measure, "smoke", store, folder, workers=count)


def test_two_workers_give_the_rows_of_one(tmp_path, store):
    alone = measured(tmp_path / "1", store, measure_that(), 1)
    beside = measured(tmp_path / "2", store, measure_that(), 2)
    pd.testing.assert_frame_equal(alone, beside, check_exact=True)
    assert alone.seed.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len({(tmp_path / count / "rows" / "nets.csv").read_bytes() for count in "12"}) == 1


def test_workers_measure(tmp_path, store):
    assert HERE not in set(measured(tmp_path / "cpu", store, lambda trained: {"process": os.getpid()}, 2).process)


def test_a_batch_has_no_more_processes_than_cores(tmp_path, store):
    measure = lambda trained: {"process": os.getpid()}
    with workers.batch_cores(2), workers.own_core():
        with workers.own_core():  # another page's
            assert set(measured(tmp_path / "both", store, measure, 8).process) == {HERE}
        assert 1 <= len(set(measured(tmp_path / "one", store, measure, 8).process) - {HERE}) <= 2


class Odd(ValueError):
    "An error with more than a text."

    def __init__(self, text, seed):
        super().__init__(text)
        self.seed = seed

    def __reduce__(self):
        return Odd, (*self.args, self.seed)


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_comes_out_as_it_was_and_what_was_finished_is_kept(tmp_path, store, count):
    def fails(trained):
        if trained.spec.seed in (1, 2):
            raise Odd(f"no value for seed {trained.spec.seed}", trained.spec.seed)

    with pytest.raises(Odd, match="^no value for seed 1$") as error:
        measured(tmp_path, store, measure_that(fails), count)
    assert error.value.seed == 1
    assert read_rows(tmp_path / "rows" / "nets.csv").seed.tolist() == [0, 0]


def test_what_was_measured_before_a_stop_is_not_measured_again(tmp_path, store):
    seen = []

    def stopped(trained):
        seen.append(trained.spec.seed)
        if seen == [0, 1, 2]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, store, measure_that(stopped), 1)
    found = measured(tmp_path, store, measure_that(stopped), 1)
    assert seen == [0, 1, 2, 2, 3] and found.seed.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_rows_are_written_while_others_are_measured(tmp_path, store, monkeypatch):
    monkeypatch.setattr(results, "WRITE_SECONDS", 0)
    there = lambda trained: {"there": len(read_rows(tmp_path / "rows" / "nets.csv"))}
    assert measured(tmp_path, store, there, 1).there.tolist() == [0, 1, 2, 3]


def test_a_killed_worker_is_told(tmp_path, store):
    def killed(trained):
        if trained.spec.seed == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match="its worker died .*: too little memory"):
        measured(tmp_path, store, measure_that(killed), 2)


def test_warnings_of_workers_are_heard(tmp_path, store):
    with pytest.warns(UserWarning) as said:
        measured(tmp_path, store, measure_that(lambda trained: warnings.warn(f"seed {trained.spec.seed} is odd")), 2)
    assert {f"seed {spec.seed} is odd" for spec in NETS} == {str(one.message) for one in said}


def test_what_no_worker_can_have_is_measured_here(tmp_path, store):
    lock = threading.Lock()
    with pytest.warns(UserWarning, match="one process does all"):
        found = measured(tmp_path, store, lambda trained: {"process": os.getpid(), "locked": lock.locked()}, 2)
    assert set(found.process) == {HERE}
