"""A disk that fails, or a process that dies, at the n-th thing done to a file; and a small batch that must survive it.

    python tests/faults.py FOLDER TRIAL …     the trials of `TRIALS`, by name; prints what each found, as JSON

A process that has torch loaded forks one child a run: a death is a real one, no clause of any `finally` runs.
"""

import builtins
import errno
import io
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

KILL, SHORT = "kill", "short write"
FAULTS = {
    "killed": KILL,
    "disk full": errno.ENOSPC,
    "input or output error": errno.EIO,
    "read-only": errno.EROFS,
    "short write": SHORT,
}


# --- the disk --------------------------------------------------------------------------------------------------------


class Disk:
    "Counts what is done to files (made, written, flushed, renamed, removed) and fails at one, or from one on."

    def __init__(self, fail_at=0, fault=KILL, for_good=False):
        self.fail_at, self.fault, self.for_good, self.done = fail_at, fault, for_good, []
        self.real = {(module, name): getattr(module, name) for module, name in self.places()}

    @staticmethod
    def places():
        "What is replaced while the disk is in use."
        return [
            (builtins, "open"),
            (io, "open"),
            *((os, name) for name in ("open", "fsync", "replace", "rename", "unlink", "remove", "mkdir")),
        ]

    def __enter__(self):
        for (module, name), real in self.real.items():
            setattr(module, name, self.opened if name == "open" and module is not os else self.counted(name, real))
        return self

    def __exit__(self, *error):
        for (module, name), real in self.real.items():
            setattr(module, name, real)

    @property
    def fired(self):
        "Whether the fault has come."
        return 0 < self.fail_at <= len(self.done)

    def step(self, what):
        "One thing is about to be done."
        self.done.append(what)
        if self.fault != SHORT:
            self.fail(what)

    def fail(self, what):
        "Fail, if it is time."
        if self.fail_at and (len(self.done) == self.fail_at or self.for_good and len(self.done) > self.fail_at):
            if self.fault == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            code = errno.ENOSPC if self.fault == SHORT else self.fault
            raise OSError(code, os.strerror(code), what)

    def counted(self, name, real):
        "A function of `os` that counts, where it changes something."

        def function(*args, **kwargs):
            nothing = {
                "open": lambda: not args[1] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR),
                "mkdir": lambda: os.path.isdir(args[0]),
            }
            nothing |= dict.fromkeys(("unlink", "remove"), lambda: not os.path.lexists(args[0]))
            if not nothing.get(name, bool)() and self.fault != SHORT:
                self.step(f"{name} {args[0]}")
            return real(*args, **kwargs)

        return function

    def opened(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        "`open`, whose files count each write."
        if not set(mode) & set("wax+") or isinstance(file, int) or "r" in mode:
            return self.real[io, "open"](file, mode, buffering, encoding, errors, newline, closefd, opener)
        if self.fault != SHORT:
            self.step(f"open {file}")
        disk = self

        class Raw(io.FileIO):
            def write(self, data):
                disk.done.append(f"write {file}")
                if disk.fault == SHORT and disk.fail_at and len(disk.done) >= disk.fail_at:
                    super().write(memoryview(data)[: len(data) // 2])
                disk.fail(f"write {file}")
                return super().write(data)

        raw = io.BufferedWriter(Raw(file, mode.replace("b", "").replace("t", ""), closefd, opener))
        return raw if "b" in mode else io.TextIOWrapper(raw, encoding or "utf-8", errors, newline)


# --- the batch -------------------------------------------------------------------------------------------------------


def prepare():
    "Load what every run needs, once: torch, and a few images."
    import torch

    from fmm_nb import loop, store
    from fmm_nb.data import load

    torch.set_num_threads(1)
    images = load("mnist_mini").subset(60, 30)
    store._images = lambda name: images
    loop.CHECKPOINT_SECONDS = -1  # a checkpoint at every step
    warnings.simplefilter("ignore")


MODELS = ["cnn"]


def batch(folder):
    "Nets of two steps, trained, measured and written down."
    from fmm_nb.measures import last_epoch
    from fmm_nb.results import rows
    from fmm_nb.specs import Protocol, Spec

    nets = [Spec(model, "mnist_mini", Protocol(epochs=1, batch_size=20), n_train=40) for model in MODELS]
    rows("tiny", nets, last_epoch, "smoke", folder / "store", folder)


def kept(folder):
    "What a batch leaves, by name: all but locks, and the times in the records."
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: b"" if name.endswith(".json") else content
        for name, content in found.items()
        if not name.endswith(".lock") and "/failed/" not in name
    }


def forked(run):
    "The exit code of a child that does something: 0 done, 3 our named error, 1 any other, −9 killed."
    from fmm_nb.errors import InputError
    from fmm_nb.store import FailedTraining

    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        os._exit(run() or 0)
    except (InputError, FailedTraining):
        os._exit(3)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def right(folder, whole):
    "Run the batch again, as a user would; what is wrong afterwards, as text, or None."
    from fmm_nb.store import Store

    code = forked(lambda: batch(folder))
    found = kept(folder)
    different = sorted(name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name))
    if code or different or Store(folder / "store").verify():
        return f"exit {code}, different: {different}, damaged: {Store(folder / 'store').verify()}"


# --- trials ----------------------------------------------------------------------------------------------------------


def sweep(base, whole, name, for_good=False, every=1):
    """Fail at the first thing done to a file, at the second (or each third, …), … until a run is clean; what was met,
    and what was wrong."""
    met, wrong = [], []
    for n in range(1, 1000, every):
        folder = base / f"{name} {n}"

        def run():
            with Disk(n, FAULTS[name], for_good) as disk:
                batch(folder)
            return 10 if disk.fired else 0

        code = forked(run)
        if code == 0:
            break
        met.append(code)
        if code not in ((-9,) if FAULTS[name] == KILL else (3, 10)):
            wrong.append(f"{name} at {n}: exit {code}")
        if text := right(folder, whole):
            wrong.append(f"{name} at {n}: {text}")
        shutil.rmtree(folder, ignore_errors=True)
    return {"runs": len(met), "wrong": wrong}


def on_pictures(base, whole, every=1):
    """Kill a training on a folder of pictures at each (or each third, …) thing done to a file, within its state too.

    The same command goes on and ends with the same weights and log.
    """
    import accelerate  # noqa: F401  # once for all children
    import torch

    from fmm_nb.data import load
    from fmm_nb.imagenet import Recipe, train
    from fmm_nb.pictures import write_pictures

    pictures, save, wrong, runs = base / "pictures", torch.save, [], 0
    write_pictures(load("fashion_mini").subset(60, 20), pictures)

    def run(out):
        train("wrn10_1", pictures, out, Recipe(epochs=2, batch_size=20, image_size=8), workers=0)

    def in_halves(state, path):
        content = io.BytesIO()
        save(state, content)
        with open(path, "wb", buffering=0) as file:
            file.write(content.getbuffer()[: content.tell() // 2])
            file.write(content.getbuffer()[content.tell() // 2 :])

    def dying(out, n):
        torch.save = in_halves
        with Disk(n) as disk:
            run(out)
        return 10 if disk.fired else 0

    def ends(out):
        if sorted(path.name for path in out.iterdir()) != ["log.csv", "state.pt"]:
            return sorted(path.name for path in out.iterdir())
        state = torch.load(out / "state.pt", weights_only=True)
        for row in state["history"]:
            row.pop("images_per_second")
        return (
            state["history"],
            [weight.tolist() for weight in state["net"].values()],
            len((out / "log.csv").read_text().splitlines()),
        )

    forked(lambda: run(base / "trained"))
    for n in range(1, 1000, every):
        out = base / f"trained {n}"
        if (code := forked(lambda: dying(out, n))) == 0:
            break
        runs, again = runs + 1, forked(lambda: run(out))
        if code != -9 or again or ends(out) != ends(base / "trained"):
            wrong.append(f"killed at {n}: exit {code}, then {again}")
    return {"runs": runs, "wrong": wrong}


def at_random(base, whole, kills, seed=0):
    """Kill the batch at random moments, again and again; each time it is done, hold it against the whole one and begin
    anew."""
    chance, folder, done, wrong, ended = random.Random(seed), base / "random", 0, [], 0
    start = time.monotonic()
    forked(lambda: batch(base / "timed"))
    usual = time.monotonic() - start
    while done < kills:
        child = os.fork()
        if not child:
            try:
                batch(folder)
                os._exit(0)
            finally:
                os._exit(1)
        time.sleep(chance.uniform(0, usual))
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        done += code == -9
        if code == 1:
            wrong.append(f"after {done} kills: exit 1")
        if code == 0 or done == kills:
            ended += 1
            if text := right(folder, whole):
                wrong.append(f"after {done} kills: {text}")
            shutil.rmtree(folder)
    return {"runs": done, "finished": ended, "wrong": wrong}


def flips(base, whole, per_file=1, seed=0):
    "Flip a byte of each file that a batch leaves: the next run says so once, by the file's name, and makes it anew."
    chance, wrong, runs = random.Random(seed), [], 0
    for name in (name for name in whole if not name.endswith(".sha256")):
        for _ in range(per_file):
            folder, runs = base / "flipped", runs + 1
            forked(lambda: batch(folder))
            path = folder / name
            content = bytearray(path.read_bytes())
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            path.write_bytes(content)
            if name.startswith("store"):
                shutil.rmtree(folder / "rows")  # else nobody asks for the nets

            def run():
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    batch(folder)
                return 0 if [path.name in str(warning.message) for warning in said] == [True] else 4

            code = forked(run)
            found = {name: content for name, content in kept(folder).items() if not name.endswith(".damaged")}
            if code or found != whole:
                wrong.append(f"{name}: exit {code}, different: {[n for n in whole if found.get(n) != whole[n]]}")
            shutil.rmtree(folder)
    return {"runs": runs, "wrong": wrong}


def together(base, whole, processes=8, rounds=12):
    "Processes that want the same nets and rows at once: each net is trained once, nothing is lost, all is sound."
    import pandas as pd

    from fmm_nb import training
    from fmm_nb.specs import Protocol, Spec
    from fmm_nb.store import Store, _images, read_net, train_group
    from fmm_nb.tables import append_rows, read_rows, whole_rows

    real, store, log, table = training.train, base / "shared", base / "log", base / "rows" / "shared.csv"
    nets = [Spec("cnn", "mnist_mini", Protocol(epochs=0), seed, n_train=20) for seed in range(rounds)]
    one = real(nets[0], _images("mnist_mini"), "cpu")

    def quick(spec, *rest):
        with open(log, "a") as file:
            file.write(f"{spec.seed}\n")
        return training.Trained(spec, one.history, None, one.test_correct, one.weights, one.shape, one.record)

    def order(process):  # every other one goes its own way
        return random.Random(process).sample(nets, rounds) if process % 2 else nets

    def work(process):
        training.train = quick
        for turn, spec in enumerate(order(process)):
            assert train_group(store, [spec], "cpu") is None
            assert read_net(store, spec.key).spec == spec
            if turn % 10 == process:
                append_rows(
                    table,
                    pd.DataFrame(
                        [
                            {
                                "key": spec.key,
                                "measure_version": 1,
                                "model": "cnn",
                                "data": "mnist_mini",
                                "seed": spec.seed,
                                "precision": "float32",
                                "by": process,
                            }
                        ]
                    ),
                )
                assert spec.key in set(whole_rows(table).key)

    children = []
    for process in range(processes):
        if not (child := os.fork()):
            try:
                work(process)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    trained = log.read_text().split()
    wrong = [f"exit {code}" for code in codes if code] + Store(store).verify()
    wrong += (
        [f"{len(trained)} trainings of {len(set(trained))} nets, expected {rounds}"]
        if not len(trained) == len(set(trained)) == rounds
        else []
    )
    rows = read_rows(table)
    expected = {spec.key for process in range(processes) for spec in order(process)[process::10]}
    wrong += ["rows lost or doubled"] if sorted(rows.key) != sorted(expected) else []
    return {"runs": processes * rounds, "wrong": wrong}


TRIALS = {
    **{name: lambda base, whole, name=name: sweep(base, whole, name) for name in ("killed", "short write")},
    **{
        name: lambda base, whole, name=name: sweep(base, whole, name, name == "read-only", every=6)
        for name in ("disk full", "input or output error", "read-only")
    },
    "training on pictures": lambda base, whole: on_pictures(base, whole, every=3),
    "random kills": lambda base, whole: at_random(base, whole, 8),
    "flipped bytes": flips,
    "together": together,
}


def main(folder, names):
    "Run some trials in a folder whose name is not a plain one."
    prepare()
    found, base = {}, Path(folder) / "a folder of år 2026, 测试"
    forked(lambda: batch(base / "whole"))
    whole = kept(base / "whole")
    for name in names:
        start = time.monotonic()
        found[name] = TRIALS[name](base, whole) | {"seconds": round(time.monotonic() - start, 1)}
    print(json.dumps({"files": list(whole)} | found, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or list(TRIALS))
