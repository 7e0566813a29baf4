"The study on a machine without a network: bundle, slice, archive."

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from fmm_nb.cli import main
from fmm_nb.errors import InputError
from fmm_nb.files import build_folder, data_folder
from fmm_nb.offline import bundle, fetched_wheels, pack, run_slice, take_in
from fmm_nb.tables import append_rows, read_rows


def test_a_bundle_runs_a_slice_and_its_archive_is_taken_in(tmp_path, monkeypatch):
    wheels, there = tmp_path / "wheels", tmp_path / "there"
    for folder in (wheels, there):
        folder.mkdir()
    (wheels / "one-1-py3-none-any.whl").write_bytes(b"a wheel")
    parts = bundle("smoke", tmp_path / "bundle", wheels, most=1)
    assert len(parts) > 3 and all(part.stat().st_size <= 10**6 for part in parts)
    with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.12 to 3.14 ask for one
        archive.extractall(there)
    assert (there / "wheels" / "one-1-py3-none-any.whl").read_bytes() == b"a wheel" and not list(
        there.rglob("__pycache__")
    )
    environment = os.environ | {"PYTHONPATH": str(there), "FMM_DATA": str(there / "images")}
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from fmm_nb.cli import main; sys.exit(main())",
            "slice",
            "01",
            "--minutes",
            "0.02",
        ],
        env=environment,
        cwd=there,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "the same command goes on; build/smoke.tar.gz" in run.stdout, run.stdout + run.stderr
    with tarfile.open(there / "build" / "smoke.tar.gz") as archive:
        # what was measured before time was up; no page
        assert all(name.startswith("smoke/rows/") for name in archive.getnames())


def test_what_comes_back_twice_is_taken_in_once(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    rows = data_folder() / "results" / "cpu" / "rows" / "10_precision.csv"
    append_rows(there / "cpu" / "rows" / rows.name, read_rows(rows))  # as a page does, with a checksum beside
    (there / "cpu" / "answers").mkdir()
    (there / "cpu" / "answers" / "10_precision.json").write_text("{}")
    for _ in range(2):
        take_in(pack("cpu", tmp_path / "cpu.tar.gz", there), here)
        assert len(read_rows(here / "cpu" / "rows" / "10_precision.csv")) == len(read_rows(rows))
    assert (here / "cpu" / "answers" / "10_precision.json").read_text() == "{}"


def test_time_that_is_up_stops_a_slice(capfd):
    assert not run_slice(["03", "05"], "smoke", minutes=1e-9)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"minutes": 0}, "minutes"),
        ({"minutes": float("nan")}, "minutes"),
        ({"workers": 0}, "workers"),
        ({"scale": "tiny"}, "unknown scale"),
        ({"names": ["99"]}, "unknown experiment"),
    ],
)
def test_a_slice_that_no_call_can_run_is_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        run_slice(**{"names": [], "scale": "smoke"} | wrong)


def test_who_stops_a_slice_stops_what_it_runs(tmp_path):
    child = (
        "import os, time; open('pid.part', 'w').write(str(os.getpid())); os.replace('pid.part', 'pid'); time.sleep(600)"
    )
    code = (
        "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from fmm_nb.offline import _stopped_at\n"
        f"_stopped_at(time.monotonic() + 600, [sys.executable, '-c', {child!r}])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL)
    while not (tmp_path / "pid").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait() != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize("name", ["../escaped.csv", "/tmp/escaped.csv"])
def test_an_archive_cannot_write_outside(name, tmp_path):
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    build = tmp_path / "deep" / "build"
    with pytest.raises(InputError, match="escaped.csv', which is (outside the folder|an absolute)"):
        take_in(tmp_path / "evil.tar.gz", build)
    assert not list(tmp_path.rglob("escaped.csv")) and not Path("/tmp/escaped.csv").exists()


@pytest.mark.parametrize("text", [b"", b"no archive", b"\x1f\x8b half"])
def test_what_is_no_archive_is_named(text, tmp_path, capsys):
    (tmp_path / "x.tar.gz").write_bytes(text)
    assert main(["publish", "03", "--archive", str(tmp_path / "x.tar.gz")]) == 2
    said = capsys.readouterr().err
    assert "x.tar.gz: it is damaged" in said and said.count("\n") == 1 and not list(build_folder().glob(".unfinished*"))


def test_unfinished_pages_bring_their_nets(tmp_path):
    from fmm_nb.plan import specs

    store = tmp_path / "store"
    store.mkdir()
    ours, begun = (spec.key for spec in specs("10_precision", "smoke")[:2])
    for name in (
        f"{ours}.json",
        f"{ours}.safetensors",
        f"{ours}.lock",
        f"{begun}.checkpoint",
        "other.json",
        "other.checkpoint",
    ):
        (store / name).touch()
    with tarfile.open(pack("smoke", tmp_path / "a.tar.gz", tmp_path)) as archive:
        assert sorted(archive.getnames()) == sorted(
            [f"store/{ours}.json", f"store/{ours}.safetensors", f"store/{begun}.checkpoint"]
        )


def test_a_bundle_of_no_scale_fetches_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("fmm_nb.offline.fetched_wheels", lambda folder: pytest.fail("wheels were fetched"))
    with pytest.raises(InputError, match="unknown scale"):
        bundle("tiny", tmp_path)


def test_a_bundle_replaces_its_parts_and_nothing_else(tmp_path):
    for name in ("part-99", "letter.txt"):
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / name).touch()
    (tmp_path / "wheels").mkdir()
    parts = bundle("smoke", tmp_path / "out", tmp_path / "wheels")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"letter.txt", *(part.name for part in parts)}


def test_a_wheel_that_cannot_be_had_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(InputError, match="could not be fetched: ERROR: No matching distribution"):
        fetched_wheels(tmp_path)
