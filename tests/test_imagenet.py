"""Training on a folder of pictures in two processes, as torchrun starts them on several GPUs: either is killed, and the
same command goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch

from fmm_nb.cli import main, parser
from fmm_nb.data import load
from fmm_nb.imagenet import Recipe, finished, keep_log
from fmm_nb.judgement import CLAIMS, evidence
from fmm_nb.pictures import loaders, write_pictures
from fmm_nb.rules import decide

EPOCHS = 6
NETS = ("resnet50", "se_resnet50", "aa_resnet50", "fa_resnet50", "ge_resnet50", "atac_resnet50")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    "A folder with train/CLASS/ and val/CLASS/: trousers and bags."
    folder, images = tmp_path_factory.mktemp("pictures"), load("fashion_mini").subset(1000, 200)
    train, test = (torch.isin(y, torch.tensor([1, 8])) for y in (images.train_y, images.test_y))
    write_pictures(
        replace(
            images,
            train_x=images.train_x[train],
            train_y=images.train_y[train],
            test_x=images.test_x[test],
            test_y=images.test_y[test],
        ),
        folder,
    )
    return folder


@pytest.fixture
def started(pictures):
    "Starts a training of two processes; what is left of it ends with the test."
    processes = []

    def start(out, workers=0):
        command = ["imagenet", "resnet_b1_atac", "--data", pictures, "--out", out, "--workers", workers]
        command += ["--epochs", EPOCHS, "--batch-size", 20, "--image-size", 32]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        fmm = [*TORCHRUN, Path(sys.executable).parent / "fmm", *command]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen([str(part) for part in fmm], env=environment, **pipes))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                child.kill()
        process.wait()


def end(process):
    "Exit code, output and errors of a process that must end soon."
    out, errors = process.communicate(timeout=300)
    return process.returncode, out, errors


@pytest.mark.skipif(sys.platform != "linux", reason="other systems start processes afresh")
def test_who_reads_pictures_is_forked_from_no_process_with_threads(pictures):
    for batches in loaders(pictures, Recipe(batch_size=20, image_size=32), 1, 0, 1, pinned=False):
        assert batches.multiprocessing_context.get_start_method() == "forkserver"


def epochs_in(log):
    "How many epochs a log has; 0 where there is none."
    return len(pd.read_csv(log)) if log.exists() else 0


def kill_one(process, rank, log):
    "Kill one of the two processes once an epoch is over; both of them."
    limit, before = time.monotonic() + 300, epochs_in(log)
    while epochs_in(log) == before:
        assert process.poll() is None and time.monotonic() < limit, end(process)
        time.sleep(0.01)
    pair = {child.environ()["RANK"]: child for child in psutil.Process(process.pid).children()}
    pair[rank].kill()
    return list(pair.values())


def test_killed_training_ends_and_goes_on_to_the_same_weights(started, tmp_path):
    code, out, errors = end(started(tmp_path / "whole", workers=1))
    assert code == 0 and f"{EPOCHS} epochs are done" in out, errors
    whole = pd.read_csv(tmp_path / "whole" / "log.csv")
    assert whole.epoch.tolist() == [*range(1, EPOCHS + 1)] and (whole.processes == 2).all()
    assert whole.train_loss.iloc[-1] < 0.8 * whole.train_loss.iloc[0] and whole.top1.iloc[-1] > 0.8

    for rank, other in (("1", "0"), ("0", "1")):
        process = started(tmp_path / "killed")
        pair = kill_one(process, rank, tmp_path / "killed" / "log.csv")
        code, out, errors = end(process)
        assert code == 1 and not [child for child in pair if child.is_running()]
        assert re.search(
            rf"^fmm: (process {other} of 2 lost another process|stopped; what was finished is kept)", errors, re.M
        ), errors
        assert 1 <= epochs_in(tmp_path / "killed" / "log.csv") < EPOCHS

    code, out, errors = end(started(tmp_path / "killed"))
    assert code == 0 and not out.startswith("epoch 1 "), out + errors
    resumed = pd.read_csv(tmp_path / "killed" / "log.csv")
    pd.testing.assert_frame_equal(
        resumed.drop(columns="images_per_second"), whole.drop(columns="images_per_second"), check_exact=True
    )
    states = [torch.load(tmp_path / run / "state.pt", weights_only=True) for run in ("whole", "killed")]
    assert states[0]["net"].keys() == states[1]["net"].keys()
    assert not [name for name, weight in states[0]["net"].items() if not torch.equal(weight, states[1]["net"][name])]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"name": "resnet_b1_atak"}, "unknown model 'resnet_b1_atak'; did you mean 'resnet_b1_atac'"),
        (
            {"--data": "nowhere"},
            "there is no folder nowhere/train: --data names a folder with train/CLASS/ and val/CLASS/",
        ),
        ({"--batch-size": "1000"}, "has 200 pictures, fewer than a batch of 1000: choose a smaller --batch-size"),
        ({"--epochs": "0"}, "epochs must be a whole number of at least 1, got 0"),
        ({"--workers": "-1"}, "workers must be a whole number of at least 0, got -1"),
        ({"--batch-size": "1"}, "leaves each of 1 processes one picture, and BatchNorm needs two"),
    ],
    ids=lambda value: next(iter(value)).strip("-") if isinstance(value, dict) else "",
)
def test_mistakes_are_told_in_one_line(change, said, pictures, tmp_path, capsys):
    given = {"--data": str(pictures), "--out": str(tmp_path), "--workers": "0"} | change
    name = given.pop("name", "wrn10_1")
    assert main(["imagenet", name, *(word for pair in given.items() for word in pair)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("fmm: ") and said in lines[0]


def test_defaults_of_the_command_are_the_recipe():
    given = parser().parse_args(["imagenet", "resnet50", "--data", "folder"])
    assert (
        Recipe(epochs=given.epochs, batch_size=given.batch_size, image_size=given.image_size, seed=given.seed)
        == Recipe()
    )


def test_a_command_leaves_the_process_as_it_was(pictures, tmp_path):
    before = signal.getsignal(signal.SIGTERM), torch.backends.cudnn.benchmark
    for given in (["--batch-size", "20"], ["--batch-size", "1000"]):
        code = main(
            [
                "imagenet",
                "wrn10_1",
                "--data",
                str(pictures),
                "--out",
                str(tmp_path),
                "--epochs",
                "1",
                "--image-size",
                "8",
                "--workers",
                "0",
                *given,
            ]
        )
        assert (code, signal.getsignal(signal.SIGTERM), torch.backends.cudnn.benchmark) == (
            0 if given[1] == "20" else 2,
            *before,
        )


@pytest.mark.parametrize("better, word", [("atac_resnet50", "supported"), ("resnet50", "contradicted")])
def test_logs_of_trainings_test_the_claim_of_errors(better, word, tmp_path):
    origin = {"epochs": 160, "batch_size": 256, "image_size": 224, "classes": 1000, "pictures": 1_281_167}
    for name, seed in product(NETS, range(2)):
        history = [{"epoch": 160, "top1": 0.78 + 0.01 * (name == better) + 0.0002 * seed, "top5": 0.94}]
        out = tmp_path / "imagenet" / f"{name}-seed{seed}"
        out.mkdir(parents=True)
        keep_log(out, {"origin": json.dumps(origin | {"model": name, "seed": seed}), "history": history})
    # of the same nets, in the same table
    counts = pd.DataFrame([{"data": "imagenet", "model": name, "seed": 0, "parameters": 1} for name in NETS])
    trained = pd.DataFrame(finished(tmp_path / "imagenet")).assign(data="imagenet")
    verdict = lambda rows: decide({"A10": evidence(CLAIMS["A10"], rows)})["A10"]
    assert (verdict(counts), verdict(pd.concat([counts, trained]))) == ("not tested", word)


def test_without_the_extra_the_command_that_installs_it_is_named(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert main(["imagenet", "wrn10_1", "--data", str(pictures), "--out", str(tmp_path)]) == 2
    assert "pip install 'fmm_nb[imagenet]'" in capsys.readouterr().err
