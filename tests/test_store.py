"""The store under faults: nothing half-written, nothing altered unseen, nothing trained twice."""

import errno
import json
import multiprocessing
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from fmm_nb import loop, training
from fmm_nb import store as store_module
from fmm_nb.data import load
from fmm_nb.errors import InputError
from fmm_nb.specs import Protocol, Spec
from fmm_nb.store import FailedTraining, Store, _by_pools, died, read_net, train_group, write_net
from fmm_nb.training import train

QUICK = Protocol(epochs=1, batch_size=20)
SPEC = Spec("cnn", "mnist_mini", QUICK, n_train=40)


@pytest.fixture(scope="module")
def net():
    return train(SPEC, load("mnist_mini").subset(None, 50))


@pytest.fixture
def store(tmp_path, net):
    write_net(tmp_path, net)
    return Store(tmp_path)


def test_what_is_read_is_what_was_written(store, net):
    (read,) = store.trained([SPEC])
    assert read.history.equals(net.history) and net.record.items() <= read.record.items() and read.spec == SPEC
    assert all((read.weights[1][name] == value).all() for name, value in net.weights[1].items())
    assert (read.test_correct == net.test_correct).all()


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_file_is_named_and_trained_anew_with_one_warning(store, net, suffix, damage):
    path = store.root / f"{SPEC.key}.{suffix}"
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "truncated": data[:middle],
            "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "empty": b"",
        }[damage]
    )
    (text,) = store.verify()
    assert path.name in text and "\n" not in text and "trained anew" in text
    with pytest.raises(InputError, match=path.name):
        read_net(store.root, SPEC.key)
    with pytest.warns(UserWarning, match=path.name) as said:
        (again,) = store.trained([SPEC, SPEC])[:1]
    assert (
        len(said) == 1
        and store.verify() == []
        and all(torch.equal(again.weights[1][name], value) for name, value in net.weights[1].items())
    )


def test_an_edited_record_is_seen(store):
    path = store.root / f"{SPEC.key}.json"
    path.write_text(path.read_text().replace('"test_accuracy": 0', '"test_accuracy": 1'))
    with pytest.warns(UserWarning, match="was altered: checksum .*expected"):
        assert (store.trained([SPEC])[0].history.test_accuracy < 1).all()


def test_a_net_under_another_nets_name_is_not_taken_for_it(store):
    other = replace(SPEC, seed=1)
    for kind in ("json", "safetensors"):
        (store.root / f"{SPEC.key}.{kind}").rename(store.root / f"{other.key}.{kind}")
    with pytest.warns(UserWarning, match="is the record of another net"):
        assert store.trained([other])[0].spec == other


def test_a_full_disk_leaves_nothing(tmp_path, net, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_net(tmp_path, net)
    assert list(tmp_path.iterdir()) == []


def test_a_crash_between_the_two_files_leaves_no_net(tmp_path, net, monkeypatch):
    def crash(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", crash)
        with pytest.raises(KeyboardInterrupt):
            write_net(tmp_path, net)
    assert not Store(tmp_path).has(SPEC)
    write_net(tmp_path, net)
    assert Store(tmp_path).verify() == []


def test_a_folder_that_takes_no_files_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another folder"):
        Store(tmp_path / "file" / "store").train([SPEC])


def test_failures_fail_alone_and_are_told_at_the_end(tmp_path):
    # given twice
    broken = Spec("am", "mnist_mini", QUICK, n_train=40, options={"widths": (8, 8, 8, None)[:3], "num_classes": 10})
    refused = Spec("am", "mnist_mini", QUICK, n_train=40, options={"kernel_size": 50})
    with pytest.raises(FailedTraining) as error:
        Store(tmp_path).train([broken, refused, SPEC])
    assert Store(tmp_path).has(SPEC) and not Store(tmp_path).has(broken)
    assert "TypeError" in error.value.failures[broken] and "too small" in error.value.failures[refused]
    assert "Traceback" in (tmp_path / "failed" / f"{broken.key}.txt").read_text()


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_a_lost_file_is_a_lost_net(store, net, kind):
    (store.root / f"{SPEC.key}.{kind}").unlink()
    assert not store.has(SPEC)
    assert train_group(store.root, [SPEC], "cpu") is None and store.verify() == []


def test_a_damaged_record_does_not_keep_others_from_being_explained(store):
    (store.root / "0123456789abcdef.json").write_text("{")
    other = Spec("cnn", "mnist_mini", QUICK, n_train=60)
    assert store.why(other) == [("n_train", 40, 60)]


def test_who_waits_for_the_lock_finds_the_net_trained(tmp_path, net):
    with FileLock(tmp_path / f"{SPEC.key}.lock"):
        process = multiprocessing.get_context("spawn").Process(target=train_group, args=(tmp_path, [SPEC], "cpu"))
        process.start()
        process.join(1)
        assert process.is_alive()
        write_net(tmp_path, net)
        written = json.loads((tmp_path / f"{SPEC.key}.json").read_text())
    process.join(60)
    assert process.exitcode == 0
    assert json.loads((tmp_path / f"{SPEC.key}.json").read_text()) == written


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path, net, monkeypatch):
    steps = []

    def interrupted(training, draw, rate, step=loop.step):
        steps.append(training.step)
        if len(steps) == 2:
            raise KeyboardInterrupt
        step(training, draw, rate)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "CHECKPOINT_SECONDS", 0)
        patched.setattr(loop, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Store(tmp_path).train([SPEC])
        assert (tmp_path / f"{SPEC.key}.checkpoint").exists() and not Store(tmp_path).has(SPEC)
        resumed = Store(tmp_path).trained([SPEC])[0]
    assert steps == [0, 1, 1] and not (tmp_path / f"{SPEC.key}.checkpoint").exists()
    for name, value in net.weights[1].items():
        assert torch.equal(resumed.weights[1][name], value)


def test_nets_of_one_program_are_trained_together_and_once(tmp_path, monkeypatch):
    pair = [SPEC, replace(SPEC, seed=1)]
    calls = []
    monkeypatch.setattr(
        training,
        "train_many",
        lambda specs, images, device, **rest: calls.append(specs) or [train(spec, images, device) for spec in specs],
    )
    assert train_group(tmp_path, pair, "cpu") is None and train_group(tmp_path, pair, "cpu") is None
    assert calls == [pair] and all(map(Store(tmp_path).has, pair))


class Pool(Executor):
    "Each task has the next of some outcomes: raised at once, or what its future gives or raises; `...` is never."

    def __init__(self, outcomes):
        self.outcomes, self.lost = outcomes, lambda: False

    def submit(self, *task):
        future, outcome = Future(), self.outcomes.pop(0)
        if isinstance(outcome, (OSError, EOFError)):
            raise outcome
        if outcome is ...:
            self.lost = lambda: True
        elif isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        return future


KILLED, REFUSED = BrokenExecutor("killed"), ConnectionRefusedError("no server forks")


@pytest.mark.parametrize(
    "outcomes, answers",
    [
        ([REFUSED, None, None], [None, None]),  # where workers cannot be started a new pool tries again
        ([None, EOFError(), "too small"], [None, "too small"]),  # what it took before is finished
        ([None, KILLED, None], [None, None]),  # so it does with what a worker that was killed was at
        ([None, CancelledError(), None], [None, None]),  # or what a scheduler that was lost knew of
        ([None, ..., None], [None, None]),
        ([ValueError("no pickle"), None], [died("no pickle"), None]),
        ([KILLED, KILLED, KILLED, None], [died("killed"), None]),  # two together, then the first alone
        ([KILLED] * 4, [died("killed")] * 2),
        ([REFUSED] * 3, [died("no server forks")] * 2),
    ],
)
def test_what_pools_answer(monkeypatch, tmp_path, outcomes, answers):
    monkeypatch.setattr(store_module, "wait", lambda futures, timeout, return_when: wait(futures, 0, return_when))
    groups, left = [["a net"], ["another"]], list(outcomes)
    found = list(_by_pools(tmp_path, groups, lambda: nullcontext(Pool(left))))
    assert sorted(text or "" for _, text in found) == sorted(text or "" for text in answers)
    assert sorted(group for group, _ in found) == groups and left == []


def test_a_cluster_is_given_an_absolute_folder_and_its_failures_are_told(tmp_path, monkeypatch):
    given = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store_module, "cluster_device", lambda address, folder: "cpu")
    monkeypatch.setattr(
        store_module,
        "cluster_pool",
        lambda address, folder, patience: given.append((address, folder)) or nullcontext(Pool(["too small"])),
    )
    with pytest.raises(FailedTraining, match="too small"):
        Store("store").train([SPEC], scheduler="tcp://host:8786")
    assert given == [("tcp://host:8786", tmp_path.resolve() / "store")]
