"""`fmm run` killed in the middle, here and on a real Dask cluster in processes of its own: the table is the same, byte
for byte."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("distributed", reason="the extra cluster is not installed: pip install 'fmm_nb[cluster]'")
HERE = Path(__file__).resolve().parent
EPOCHS = "3"
LIMIT = 550  # seconds for anything that should happen soon


@pytest.fixture
def started():
    "Starts processes in sessions of their own; whatever is left of them ends with the test."
    processes = []

    def start(*arguments, **variables):
        environment = os.environ | {"TINY_EPOCHS": EPOCHS, "OMP_NUM_THREADS": "1"} | variables
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(
            subprocess.Popen([sys.executable, *map(str, arguments)], env=environment, start_new_session=True, **pipes)
        )
        return processes[-1]

    yield start
    for process in processes:
        for left in [*family(process), process]:
            left.kill()
        process.wait()
        process.stdout.close()


def family(process):
    "The processes below a process."
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def until(condition, process):
    "Wait for something that a process brings about."
    end = time.monotonic() + LIMIT
    while not (found := condition()):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.01)
    return found


def those(process, *words):
    "The processes below a process whose command line has some words."
    found = []
    for each in family(process):
        try:
            if all(word in " ".join(each.cmdline()) for word in words):
                found.append(each)
        except psutil.Error:  # it ended meanwhile
            pass
    return found


@pytest.fixture(scope="session")
def whole(built_once):
    "The table of a run that nothing befell, as bytes."

    def make(folder):
        done = subprocess.run(
            [sys.executable, HERE / "tiny_run.py", folder, "--workers", "1"],
            env=os.environ | {"TINY_EPOCHS": EPOCHS},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return (built_once("tiny", make) / "smoke" / "rows" / "tiny.csv").read_bytes()


def test_a_run_that_is_killed_needs_nothing_but_the_same_command(started, tmp_path, whole):
    folder = tmp_path / "a folder, año"
    run = started(HERE / "tiny_run.py", folder)
    until(lambda: any(folder.glob("store/*.checkpoint")), run)
    for process in [run, *family(run)]:
        process.kill()
    run.wait()

    held = tmp_path / "held"
    run = started(HERE / "tiny_run.py", folder, TINY_HELD=str(held))
    until(lambda: any(folder.glob("store/*.json")), run)
    number = int(until(lambda: held.exists() and held.read_text(), run))
    [worker] = [process for process in family(run) if process.pid == number]
    assert len(list(folder.glob("store/*.json"))) < 4
    worker.kill()  # in the middle of its training
    kernel = until(lambda: those(run, "ipykernel"), run)
    kernel[0].kill()
    said = run.communicate(timeout=LIMIT)[0]
    assert run.returncode == 1 and "1 failed" in said and "not trained" not in said, said

    run = started(HERE / "tiny_run.py", folder)
    said = run.communicate(timeout=LIMIT)[0]
    assert run.returncode == 0 and "0 nets to train" in said, said
    assert (folder / "smoke" / "rows" / "tiny.csv").read_bytes() == whole


def test_a_cluster_that_loses_a_worker_and_its_scheduler_ends_the_run(started, tmp_path, whole):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"

    def cluster(workers):
        scheduler = started("-m", "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard")
        return scheduler, started(
            "-m",
            "distributed.cli.dask_worker",
            address,
            "--nthreads",
            "1",
            "--nworkers",
            workers,
            "--no-dashboard",
            "--local-directory",
            tmp_path,
        )

    scheduler, workers = cluster(2)
    run = started(HERE / "tiny_run.py", tmp_path / "run", "--scheduler", address)
    until(lambda: any((tmp_path / "run").glob("store/*.checkpoint")), run)
    those(workers, "spawn_main")[0].kill()
    until(lambda: any((tmp_path / "run").glob("store/*.json")), run)
    for process in [scheduler, *family(workers), workers]:
        process.kill()
    cluster(1)
    said = run.communicate(timeout=LIMIT)[0]
    assert run.returncode == 0 and "page paper: done" in said, said
    assert (tmp_path / "run" / "smoke" / "rows" / "tiny.csv").read_bytes() == whole

    run = started(HERE / "tiny_run.py", tmp_path / "stopped", "--scheduler", address)
    until(lambda: any((tmp_path / "stopped").glob("store/*.checkpoint")), run)
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=LIMIT)[0]
    assert run.returncode == 130 and "fmm: stopped; what was finished is kept" in said and "Traceback" not in said, said


@pytest.mark.parametrize(
    "address, said",
    [
        ("tcp://127.0.0.1:9", "no scheduler answers at 'tcp://127.0.0.1:9'"),
        ("nonsense://x", "'nonsense://x' is no address of a scheduler"),
    ],
)
def test_a_scheduler_that_is_none_is_told_in_one_line(started, tmp_path, address, said):
    run = started(HERE / "tiny_run.py", tmp_path / "run", "--scheduler", address)
    text = run.communicate(timeout=LIMIT)[0]
    assert run.returncode == 2 and said in text.splitlines()[-1], text
