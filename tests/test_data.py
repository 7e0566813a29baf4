"""Faults of image files: cut, altered, made to harm, missing, or lying where nothing can be written."""

import gzip
import importlib.util
import io
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fmm_nb import data, downloads, fingerprints, readers, sources
from fmm_nb.catalogue import IDX_FILES, SOURCES
from fmm_nb.data import ImageSet, available, fetch, load, unpack
from fmm_nb.errors import InputError
from fmm_nb.fingerprints import fingerprint
from fmm_nb.sources import check, find

MUTATIONS = int(os.environ.get("FMM_MUTATIONS", 80))  # of each reader's files; make torture asks for ten thousand

FULL = os.environ.get("FMM_DATA")  # where full sets are


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    "A cache of its own for each test, and no full data."
    monkeypatch.setenv("FMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FMM_DATA", "")
    return tmp_path / "cache"


@pytest.fixture
def unchecked(monkeypatch):
    "Take away the official checksums, so that small made-up sets can be read under official names."
    for name, source in list(SOURCES.items()):
        monkeypatch.setitem(SOURCES, name, replace(source, files=dict.fromkeys(source.files, "")))


# --- small sets of each layout ---------------------------------------------------------------------------------------


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def make_mnist(root, packed=False):
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(256, size=(6, 5, 4)), np.arange(6) % 3, rng.integers(256, size=(3, 5, 4)), np.arange(3)]
    for name, array in zip(IDX_FILES, arrays):
        raw = idx(array)
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(raw) if packed else raw)
    return arrays


def make_cifar(root, name="cifar10", batches=(1, 2), protocol=2):
    folder = root / SOURCES[name].folder
    folder.mkdir(parents=True)

    def dump(file, table):
        (folder / file).write_bytes(pickle.dumps(table, protocol=protocol))

    def batch(seed):
        images = np.random.default_rng(seed).integers(256, size=(4, 3072), dtype=np.uint8)
        return {"labels": [0, 1, 1, 0], "fine_labels": [0, 1, 1, 0], "coarse_labels": [0, 0, 0, 0], "data": images}

    for number in batches if name == "cifar10" else ():
        dump(f"data_batch_{number}", batch(number))
    if name == "cifar10":
        dump("test_batch", batch(9))
        dump("batches.meta", {"label_names": ["cat", "dog"]})
    else:
        dump("train", batch(1))
        dump("test", batch(9))
        dump("meta", {"fine_label_names": ["cat", "dog"], "coarse_label_names": ["animal"]})


def make_stl(root):
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        images = np.random.default_rng(0).integers(256, size=(2, 3, 96, 96), dtype=np.uint8)
        (folder / f"{part}_X.bin").write_bytes(images.tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes([1, 2]))
    (folder / "class_names.txt").write_text("airplane\nbird\n")


def make_folders(root, mode="RGB", test="test"):
    for part in ("train", test):
        for label, name in enumerate(("owl", "wren")):
            (root / part / name).mkdir(parents=True)
            for i in range(2):
                pixels = np.random.default_rng(label * 10 + i).integers(256, size=(6, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(root / part / name / f"{i}.png")


def make_tiny(root):
    folder = root / "tiny-imagenet-200"
    for name in ("n02", "n01"):
        (folder / "train" / name / "images").mkdir(parents=True)
        Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / "train" / name / "images" / f"{name}_0.JPEG")
    (folder / "val" / "images").mkdir(parents=True)
    Image.new("L", (8, 8), 7).save(folder / "val" / "images" / "val_0.JPEG")
    (folder / "test" / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "test" / "images" / "test_0.JPEG")
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t62\t62\n")


LAYOUTS = {
    "mnist": make_mnist,
    "cifar10": make_cifar,
    "cifar100": lambda root: make_cifar(root, "cifar100"),
    "cifar100_coarse": lambda root: make_cifar(root, "cifar100"),
    "stl10": make_stl,
    "tiny_imagenet": make_tiny,
}


def sound(images):
    "Whether an image set is what its docstring says."
    for x, y in ((images.train_x, images.train_y), (images.test_x, images.test_y)):
        assert x.dtype == torch.uint8 and x.ndim == 4 and len(x) == len(y) > 0
        assert y.dtype == torch.int64 and 0 <= y.min() and y.max() < len(images.classes)
    assert images.train_x.shape[1:] == images.test_x.shape[1:]
    return True


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_read_twice_alike(name, tmp_path, unchecked):
    LAYOUTS[name](tmp_path)
    first, second = load(name, tmp_path), load(name, tmp_path)
    assert sound(first) and first.fingerprint == second.fingerprint == fingerprint(name, tmp_path)
    for field in data.FIELDS:
        assert torch.equal(getattr(first, field), getattr(second, field))
    assert first.classes == second.classes and first.name == second.name


def test_a_loaded_set_can_be_changed_without_changing_the_cache():
    images = load("mnist_mini")
    load("mnist_mini").train_x.zero_()
    assert torch.equal(load("mnist_mini").train_x, images.train_x)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_values(tmp_path, unchecked, packed):
    arrays = make_mnist(tmp_path, packed)
    images = load("mnist", tmp_path)
    assert np.array_equal(images.train_x[:, 0].numpy(), arrays[0]) and images.train_y.tolist() == [0, 1, 2, 0, 1, 2]


def test_packed_and_unpacked_have_one_fingerprint(tmp_path):
    make_mnist(tmp_path / "a")
    make_mnist(tmp_path / "b", packed=True)
    assert fingerprint("mnist", tmp_path / "a") == fingerprint("mnist", tmp_path / "b")


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_values(tmp_path, unchecked, protocol):
    make_cifar(tmp_path, protocol=protocol)
    expected = np.random.default_rng(1).integers(256, size=(4, 3072), dtype=np.uint8)
    images = load("cifar10", tmp_path)
    assert np.array_equal(images.train_x[:4].numpy().reshape(4, -1), expected) and images.classes == ("cat", "dog")


def test_python2_strings_are_read():
    "The official files hold Python 2 strings: opcodes U and T."
    raw = b"\x80\x02}(U\x04dataK\x07U\x06labels]K\x01au."
    assert readers.PlainUnpickler(io.BytesIO(raw), encoding="latin1").load() == {"data": 7, "labels": [1]}


def test_coarse_labels(tmp_path, unchecked):
    make_cifar(tmp_path, "cifar100")
    assert load("cifar100_coarse", tmp_path).classes == ("animal",)
    assert load("cifar100", tmp_path).train_y.tolist() == [0, 1, 1, 0]


def test_stl_columns(tmp_path, unchecked):
    make_stl(tmp_path)
    raw = np.random.default_rng(0).integers(256, size=(2, 3, 96, 96), dtype=np.uint8)
    assert load("stl10", tmp_path).train_x[1, 2, 5, 7] == raw[1, 2, 7, 5]


@pytest.mark.parametrize("test", ["test", "val"])
def test_own_folder(tmp_path, test):
    make_folders(tmp_path, test=test)
    images = load(f"folder:{tmp_path}")
    assert images.train_x.shape == (4, 3, 6, 5) and images.classes == ("owl", "wren")
    assert images.train_y.tolist() == [0, 0, 1, 1] and images.name == f"folder:{tmp_path}"


def test_own_grey_folder_and_one_colour_image(tmp_path):
    make_folders(tmp_path, "L")
    assert load(f"folder:{tmp_path}").train_x.shape[1] == 1
    Image.new("RGB", (5, 6), (1, 2, 3)).save(tmp_path / "test" / "owl" / "colour.png")
    assert load(f"folder:{tmp_path}").train_x.shape[1] == 3


def test_tiny_imagenet_takes_val_and_its_annotations(tmp_path):
    make_tiny(tmp_path)
    images = load("tiny_imagenet", tmp_path)
    assert images.classes == ("n01", "n02") and images.test_y.tolist() == [1] and images.test_x.unique().tolist() == [7]


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda f: Image.new("RGB", (9, 9)).save(f / "train" / "wren" / "big.png"), "big.png has 9×9"),
        (
            lambda f: Image.fromarray(np.zeros((6, 5), np.uint16)).save(f / "train" / "wren" / "deep.png"),
            "8 bits a channel",
        ),
        (lambda f: (f / "train" / "wren" / "text.png").write_text("no image"), "text.png cannot be read"),
        (
            lambda f: (f / "train" / "wren" / "x.png").write_bytes(
                b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n"
            ),
            "x.png cannot be read",
        ),
        (lambda f: (f / "train" / "wren" / "gone.png").symlink_to(f / "nowhere.png"), "gone.png"),
        (lambda f: (f / "test" / "owl").rename(f / "test" / "oul"), "no training images of 'oul'"),
        (lambda f: shutil.rmtree(f / "test"), "needs train/CLASS"),
    ],
)
def test_faulty_folders(tmp_path, spoil, says):
    make_folders(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError) as error:
        load(f"folder:{tmp_path}")
    assert says in str(error.value) and "\n" not in str(error.value)


# --- damaged files ---------------------------------------------------------------------------------------------------


def mutate(raw, rng):
    "A copy with a few bytes changed, a piece cut out or doubled, or the end missing."
    raw, kind = bytearray(raw), rng.randrange(5)
    where = rng.randrange(min(len(raw), 400) if rng.random() < 0.7 else len(raw))
    if kind == 0:
        return bytes(raw[:where])
    if kind == 1:
        del raw[where : where + rng.randrange(1, 9)]
    elif kind == 2:
        raw[where:where] = raw[where : where + rng.randrange(1, 9)]
    else:
        for _ in range(rng.randrange(1, 6)):
            raw[rng.randrange(min(len(raw), 400))] = rng.choice([0, 1, 255, 128, rng.randrange(256)])
    return bytes(raw)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*LAYOUTS, "folder", "mnist_gz", "mini"])
def test_mutated_files_are_read_soundly_or_refused(name, tmp_path, unchecked):
    """Whatever a file holds, the reader gives sound arrays or raises InputError in one line."""
    rng = random.Random(name)
    if name in LAYOUTS:
        LAYOUTS[name](tmp_path)
    elif name == "folder":
        make_folders(tmp_path)
        name = f"folder:{tmp_path}"
    elif name == "mnist_gz":
        make_mnist(tmp_path, packed=True)
        name = "mnist"
    found = find("mnist_mini" if name == "mini" else name, tmp_path)
    if name == "mini":
        small = io.BytesIO()
        x, y = np.zeros((3, 2, 2), np.uint8), np.arange(3, dtype=np.uint8)
        np.savez_compressed(small, train_x=x, train_y=y, test_x=x, test_y=y)
        (tmp_path / "mnist_mini.npz").write_bytes(small.getvalue())
        found = replace(found, files={"mnist_mini.npz": tmp_path / "mnist_mini.npz"})
    refused = 0
    for _ in range(MUTATIONS):
        path = rng.choice(list(found.files.values()))
        whole = path.read_bytes()
        path.write_bytes(mutate(whole, rng))
        try:
            arrays = readers.read(found)
            assert sound(
                ImageSet(
                    *map(torch.tensor, (arrays.train_x, arrays.train_y, arrays.test_x, arrays.test_y)),
                    arrays.classes,
                    "",
                    "",
                )
            )
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
        path.write_bytes(whole)
    assert refused and sound(load(found.name, tmp_path) if name != "mini" else load("mnist_mini"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_truncated_files_are_named(name, tmp_path, unchecked):
    LAYOUTS[name](tmp_path)
    path = next(p for p in find(name, tmp_path).files.values() if p.suffix != ".txt")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=path.name):
        load(name, tmp_path)


def test_truncated_idx_says_both_sizes(tmp_path, unchecked):
    make_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / IDX_FILES[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte has 135 bytes, expected 136"):
        load("mnist", tmp_path)


def test_a_packed_file_that_never_ends_is_refused(tmp_path):
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(2**22)))
    with pytest.raises(InputError, match="more than 1000 bytes"):
        readers.contents(tmp_path / "bomb.gz", most=1000)


HUGE = {
    "idx": ("train-images-idx3-ubyte", lambda: struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 28) + b"few"),
    "pickle": ("batch", lambda: b"\x80\x02}U\x04dataT\xff\xff\xff\x7ffews."),
    "long string": ("batch", lambda: b"\x80\x04}U\x04data\x8e" + struct.pack("<Q", 10**12) + b"fews."),
    "npz": ("mnist_mini.npz", lambda: npz_that_promises(10**12)),
}


def npz_that_promises(images):
    "A table whose header states more images than follow."
    packed, array = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": (images, 28, 28)})
    with zipfile.ZipFile(packed, "w") as table:
        for name in ("train_x", "train_y", "test_x", "test_y"):
            table.writestr(f"{name}.npy", array.getvalue() + b"few")
    return packed.getvalue()


@pytest.mark.parametrize("kind", HUGE)
def test_a_header_that_promises_a_million_million_images_takes_no_memory(kind, tmp_path):
    name, content = HUGE[kind]
    path = tmp_path / name
    path.write_bytes(content())
    read = {
        "idx": lambda: readers.read_idx(path, 3),
        "npz": lambda: readers.read_mini_set(SimpleNamespace(files={"": path})),
    }
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=name):
            read.get(kind, lambda: readers.read_batch(path, "labels"))()
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_altered_official_files_are_named_with_both_checksums(tmp_path):
    make_mnist(tmp_path)
    with pytest.raises(InputError) as error:
        load("mnist", tmp_path)
    assert all(
        word in str(error.value) for word in (*IDX_FILES, "6bbc9ace898e44ae57da46a324031adb", "fmm data get mnist")
    )
    assert len(check("mnist", tmp_path)) == 4 and "expected 6bbc9ace" in check("mnist", tmp_path)[0]


class Call:
    "A pickle of this calls a function when it is read."

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "harm",
    [
        lambda mark: pickle.dumps({"data": Call(os.system, f"touch {mark}")}, protocol=2),
        lambda mark: pickle.dumps({"data": Call(open, mark, "w")}, protocol=2),
        lambda mark: pickle.dumps({"data": Call(eval, f"open({mark!r}, 'w')")}, protocol=4),
        lambda mark: pickle.dumps({"data": Call(np.save, mark, 1)}, protocol=2),
        lambda mark: b"cposix\nsystem\n(S'touch " + mark.encode() + b"'\ntR.",
        lambda mark: b"(S'touch " + mark.encode() + b"'\nios\nsystem\n.",
        lambda mark: b"\x80\x02cnumpy\ndtype\n}U\x06x\x00\x00\x00\x00\x00U\x01bsb.",
        lambda mark: b"\x80\x02}r\xff\xff\xff\xff.",
        lambda mark: b"\x80\x02" + b"(" * 100000 + b".",
        lambda mark: b"\x80\x02]" + b"\x85" * 100000 + b".",
    ],
)
def test_evil_pickles_do_nothing(tmp_path, harm):
    mark = tmp_path / "harm"
    (tmp_path / "batch").write_bytes(harm(str(mark)))
    with pytest.raises(InputError, match="batch"):
        readers.read_batch(tmp_path / "batch", "labels")
    assert not mark.exists() and readers.PickledKind("u1").code == "u1"


# --- finding ---------------------------------------------------------------------------------------------------------


def test_partial_cifar_has_a_name_of_its_own(tmp_path, unchecked):
    make_cifar(tmp_path, batches=(1, 2, 4))
    assert find("cifar10", tmp_path).name == "cifar10[1-2,4]" == load("cifar10", tmp_path).name
    assert find("cifar10[2,1]", tmp_path).name == "cifar10[1-2]" and "cifar10[1-2,4]" in available(tmp_path)
    assert len(load("cifar10[2]", tmp_path).train_x) == 4
    assert fingerprint("cifar10[1-2]", tmp_path) != fingerprint("cifar10", tmp_path)
    with pytest.raises(InputError, match="data_batch_3"):
        find("cifar10[1-5]", tmp_path)


def test_a_part_of_the_full_set_is_the_partial_set(tmp_path):
    make_cifar(tmp_path / "full", batches=range(1, 6))
    make_cifar(tmp_path / "part", batches=(1, 2))
    assert find("cifar10", tmp_path / "full").name == "cifar10" == find("cifar10[1-5]", tmp_path / "full").name
    assert fingerprint("cifar10[1-2]", tmp_path / "full") == fingerprint("cifar10", tmp_path / "part")


@pytest.mark.parametrize("name", ["mnits", "", "folder:", "mnist[1]", "cifar10[]", 7, None, ["mnist"], "../mnist"])
def test_unknown_names(name):
    for function in (find, fingerprint, load, check):
        with pytest.raises(InputError, match="unknown data set"):
            function(name)


@pytest.mark.parametrize("name", ["cifar10[0]", "cifar10[1-9]", "cifar10[1 2]", "cifar10[x]"])
def test_impossible_batches(name):
    with pytest.raises(InputError, match="batches 1 to 5"):
        find(name)


@pytest.mark.parametrize("name", [n for n, s in SOURCES.items() if s.layout != "mini"])
def test_missing_sets_say_how_to_get_them(name, tmp_path, monkeypatch):
    for root in (None, tmp_path, tmp_path / "none", "/dev/null", "x" * 5000):
        with pytest.raises(InputError) as error:
            load(name, root)
        assert "fmm data get" in str(error.value) or "train/CLASS" in str(error.value)
    monkeypatch.setenv("FMM_DATA", str(tmp_path))
    with pytest.raises(InputError, match=str(tmp_path)):
        load(name)
    assert available() == ["mnist_mini", "fashion_mini"]


def test_missing_own_folder_or_file(tmp_path):
    with pytest.raises(InputError, match="needs train/CLASS"):
        load(f"folder:{tmp_path}/nothing")
    with pytest.raises(InputError):
        load("folder:a\0b")


def test_environment_names_the_root_and_the_argument_wins(tmp_path, monkeypatch, unchecked):
    make_mnist(tmp_path / "a")
    make_cifar(tmp_path / "b")
    monkeypatch.setenv("FMM_DATA", str(tmp_path / "a"))
    assert "mnist" in available() and "mnist" not in available(tmp_path / "b")


# --- fingerprints ----------------------------------------------------------------------------------------------------


def age(root, seconds=100):
    for path in root.rglob("*"):
        if path.is_file():
            stat = path.stat()
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - seconds * 10**9))


def test_fingerprint_is_remembered_until_a_file_changes(tmp_path, monkeypatch):
    make_mnist(tmp_path / "root")
    age(tmp_path / "root")
    mark, read = fingerprint("mnist", tmp_path / "root"), []
    monkeypatch.setattr(sources, "pieces", lambda path, old=sources.pieces: read.append(path) or old(path))
    assert fingerprint("mnist", tmp_path / "root") == mark and not read
    path = tmp_path / "root" / "MNIST" / "raw" / IDX_FILES[0]
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert fingerprint("mnist", tmp_path / "root") != mark and len(read) == 4


def test_young_files_are_not_remembered(tmp_path, cache):
    make_mnist(tmp_path / "root")
    fingerprint("mnist", tmp_path / "root")
    assert not (cache / "fingerprints").exists()


@pytest.mark.parametrize("junk", [b"", b"\xff\xfe", b"0123456789abcde", b"0123456789abcdef\n"])
def test_a_damaged_memory_is_not_believed(tmp_path, cache, junk):
    make_mnist(tmp_path / "root")
    age(tmp_path / "root")
    mark = fingerprint("mnist", tmp_path / "root")
    [memory] = (cache / "fingerprints").iterdir()
    memory.write_bytes(junk)
    assert fingerprint("mnist", tmp_path / "root") == mark == memory.read_text()


def test_fingerprint_of_a_folder_depends_on_names_and_contents(tmp_path):
    make_folders(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    marks = [fingerprint(f"folder:{tmp_path / name}") for name in "ab"]
    assert marks[0] == marks[1]
    (tmp_path / "b" / "train" / "owl" / "0.png").rename(tmp_path / "b" / "train" / "owl" / "9.png")
    assert fingerprint(f"folder:{tmp_path / 'b'}") != marks[0]


def test_published_fingerprints_stand_in_and_must_agree(tmp_path, monkeypatch):
    rows = tmp_path / "results" / "cpu" / "rows"
    rows.mkdir(parents=True)
    (rows / "a.csv").write_text("data,fingerprint\nstl10,aaaaaaaaaaaaaaaa\nmnist,bbbbbbbbbbbbbbbb\n")
    (rows / "b.csv").write_text("x,y\n1,2\n")
    (rows / "empty.csv").write_text("")
    monkeypatch.setattr(fingerprints, "data_folder", lambda: tmp_path)
    with pytest.warns(UserWarning, match="not on this machine"):
        assert fingerprint("stl10") == "aaaaaaaaaaaaaaaa"
    (rows / "c.csv").write_text("data,fingerprint\nstl10,cccccccccccccccc\n")
    with pytest.raises(InputError, match="fmm data get stl10"):
        fingerprint("stl10")
    with pytest.raises(InputError, match="fmm data get cifar10"):
        fingerprint("cifar10")


# --- the cache of decoded sets ---------------------------------------------------------------------------------------


def test_the_second_load_reads_one_file(monkeypatch):
    load("mnist_mini")
    monkeypatch.setattr(data, "read", None)
    assert len(load("mnist_mini").train_x) == 6000


def test_damaged_cache_is_made_again_with_one_warning(cache):
    good = load("mnist_mini")
    [path] = (cache / "images").iterdir()
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(12):
        path.write_bytes(mutate(whole, rng))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            again = load("mnist_mini")
        assert torch.equal(again.train_x, good.train_x) and again.classes == good.classes
        assert len(said) <= 1 and all("decoded again" in str(w.message) for w in said)
    assert len(list((cache / "images").iterdir())) == 1


def test_unwritable_cache_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FMM_CACHE", str(tmp_path / "file" / "below"))
    assert len(load("mnist_mini").train_x) == 6000


def test_no_part_is_left_when_the_cache_disk_is_full(cache, monkeypatch):
    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(data, "save_file", full)
    assert len(load("mnist_mini").train_x) == 6000 and not list((cache / "images").iterdir())


def test_two_processes_load_at_once(cache):
    code = """if True:
        import os, time, warnings  # one import of torch serves both
        from fmm_nb.data import load
        warnings.simplefilter("error")
        start, parent = time.time() + 0.2, os.fork()
        time.sleep(max(0, start - time.time()))
        os.write(1, b"%d\\n" % load("fashion_mini").train_x.numpy().sum())  # whole: the two share a pipe
        if not parent:
            os._exit(0)
        raise SystemExit(os.waitpid(parent, 0)[1])"""
    both = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert both.returncode == 0
    assert both.stdout.split() == [str(load("fashion_mini").train_x.sum().item())] * 2
    assert len(list((cache / "images").iterdir())) == 1


# --- parts of a set --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_train, n_test", [(1, 1), (7, 3), (1000, 999), (5999, None), (None, None), (6000, 1000)])
def test_subsets_are_exact_and_stratified(n_train, n_test):
    full = load("mnist_mini")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    part = full.subset(n_train, n_test, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    for y, all_y, n in ((part.train_y, full.train_y, n_train), (part.test_y, full.test_y, n_test)):
        n = len(all_y) if n is None else n
        expected = torch.bincount(all_y, minlength=10) * n / len(all_y)
        assert len(y) == n and (torch.bincount(y, minlength=10) - expected).abs().max() < 1
    torch.manual_seed(99)
    assert torch.equal(part.train_x, full.subset(n_train, n_test, seed=5).train_x)


def test_parts_keep_images_with_their_labels():
    full = load("mnist_mini")
    index = torch.arange(6000)
    numbered = replace(full, train_x=index.view(-1, 1, 1, 1))
    rest, held = numbered.split(0.1, seed=0)
    assert torch.equal(torch.cat([rest.train_x, held.train_x]).flatten().sort().values, index)
    for part in (rest, held, numbered.subset(500)):
        assert torch.equal(part.train_y, full.train_y[part.train_x.flatten()])
    assert len(held.train_y) == 600 and torch.equal(held.test_x, full.test_x)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.subset(6001),
        lambda s: s.subset(0),
        lambda s: s.subset(-1),
        lambda s: s.subset(2.0),
        lambda s: s.subset("10"),
        lambda s: s.subset(True),
        lambda s: s.subset(n_test=1001),
        lambda s: s.subset(10, 10, seed=-1),
        lambda s: s.subset(10, seed=2**63),
        lambda s: s.subset(10, seed=None),
        lambda s: s.split(0),
        lambda s: s.split(1),
        lambda s: s.split(float("nan")),
        lambda s: s.split(-0.5),
        lambda s: s.split("0.5"),
        lambda s: s.split(1e-9),
        lambda s: s.split(True),
        lambda s: s.split(0.5, -1),
    ],
)
def test_impossible_parts(call):
    with pytest.raises(InputError):
        call(load("mnist_mini"))


def test_mean_and_std_equal_the_direct_computation(tmp_path):
    make_folders(tmp_path)
    images = load(f"folder:{tmp_path}")
    x = images.train_x.double() / 255
    mean, std = images.mean_std()
    assert mean.dtype == std.dtype == torch.float64
    assert torch.allclose(mean, x.mean((0, 2, 3)), rtol=1e-12)
    assert torch.allclose(std, x.std((0, 2, 3), correction=0), rtol=1e-12)


# --- archives and downloads ------------------------------------------------------------------------------------------


def tar_with(path, *members):
    with tarfile.open(path, "w:gz") as file:
        file.addfile(tarfile.TarInfo("fine.txt"), io.BytesIO())
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            file.addfile(member, io.BytesIO())


def zip_with(path, name, mode=0o100644, text="x"):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("fine.txt", "fine")
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        file.writestr(member, text)


EVIL = {
    "symlink": lambda p: tar_with(p, ("link", tarfile.SYMTYPE, "/etc")),
    "hardlink": lambda p: tar_with(p, ("link", tarfile.LNKTYPE, "fine.txt")),
    "through a link": lambda p: tar_with(p, ("link", tarfile.SYMTYPE, ".."), ("link/out", tarfile.REGTYPE, "")),
    "device": lambda p: tar_with(p, ("device", tarfile.CHRTYPE, "")),
    "pipe": lambda p: tar_with(p, ("pipe", tarfile.FIFOTYPE, "")),
    "absolute": lambda p: tar_with(p, ("/tmp/out", tarfile.REGTYPE, "")),
    "outside": lambda p: tar_with(p, ("a/../../out", tarfile.REGTYPE, "")),
    "zip link": lambda p: zip_with(p, "link", 0o120777, "/etc/passwd"),
    "zip absolute": lambda p: zip_with(p, "/tmp/out"),
    "zip outside": lambda p: zip_with(p, "../out"),
    "zip drive": lambda p: zip_with(p, "C:out"),
    "zip backslash": lambda p: zip_with(p, "..\\out"),
}


@pytest.mark.parametrize("kind", EVIL)
def test_evil_archives_leave_nothing(tmp_path, kind):
    EVIL[kind](tmp_path / "archive")
    with pytest.raises(InputError, match="out|link|device|pipe") as error:
        unpack(tmp_path / "archive", tmp_path / "deep" / "target")
    assert "nothing was unpacked" in str(error.value) and [p.name for p in tmp_path.rglob("*")] in (
        ["archive"],
        ["deep", "archive"],
        ["archive", "deep"],
    )


@pytest.mark.parametrize("make", ["tar", "zip"])
def test_damaged_archives_leave_nothing(tmp_path, make):
    for name in "abc":
        (tmp_path / "good" / name).mkdir(parents=True)
        (tmp_path / "good" / name / "image").write_bytes(random.Random(name).randbytes(3000))
    whole = Path(
        shutil.make_archive(str(tmp_path / "archive"), "gztar" if make == "tar" else "zip", tmp_path / "good")
    ).read_bytes()
    archive, target, rng, refused = tmp_path / "one", tmp_path / "out" / "target", random.Random(0), 0
    for _ in range(MUTATIONS):
        archive.write_bytes(mutate(whole, rng))
        try:
            unpack(archive, target)
            shutil.rmtree(target)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    archive.write_bytes(whole)
    assert refused > 5 and sorted(p.name for p in unpack(archive, target).iterdir()) == ["a", "b", "c"]


def test_unpack_needs_a_new_writable_place_with_room(tmp_path, monkeypatch):
    zip_with(tmp_path / "good.zip", "a.txt")
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="already exists"):
        unpack(tmp_path / "good.zip", tmp_path / "there")
    with pytest.raises(InputError, match="cannot write"):
        unpack(tmp_path / "good.zip", tmp_path / "good.zip" / "below" / "target")
    with pytest.raises(InputError, match="cannot unpack"):
        unpack(tmp_path / "missing.zip", tmp_path / "target")
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(InputError, match="choose another folder"):
        unpack(tmp_path / "good.zip", tmp_path / "target")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good.zip", "there"]


def test_fetch_puts_a_whole_set_in_place(tmp_path, monkeypatch, unchecked):
    calls = []
    monkeypatch.setattr(downloads, "download", lambda name, folder: (calls.append(name), make_mnist(folder)))
    assert fetch("mnist", tmp_path) == tmp_path / "MNIST" / "raw" and sound(load("mnist", tmp_path))
    fetch("mnist", tmp_path)
    assert calls == ["mnist"] and [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["MNIST"]


def test_fetch_completes_a_partial_set(tmp_path, monkeypatch, unchecked):
    make_cifar(tmp_path, batches=(1, 2))
    monkeypatch.setattr(downloads, "download", lambda name, folder: make_cifar(folder, batches=range(1, 6)))
    fetch("cifar10", tmp_path)
    assert find("cifar10", tmp_path).name == "cifar10"


def test_fetch_without_a_network_says_what_to_do(tmp_path, monkeypatch):
    def offline(name, folder):
        (folder / "half").write_bytes(b"half")
        raise RuntimeError("Error downloading\n train")

    monkeypatch.setattr(downloads, "download", offline)
    for name in ("mnist", "cifar100_coarse", "tiny_imagenet"):
        with pytest.raises(InputError) as error:
            fetch(name, tmp_path / "root")
        assert f"cannot download {name}" in str(error.value) and "\n" not in str(error.value)
        assert str(tmp_path / "root" / SOURCES[name].folder) in str(error.value)
    assert not list((tmp_path / "root").iterdir())


def test_fetch_tiny_imagenet_unpacks_its_zip(tmp_path, monkeypatch):
    make_tiny(tmp_path / "source")
    packed = shutil.make_archive(str(tmp_path / "tiny"), "zip", tmp_path / "source")

    def copy(url, root, filename, md5):
        assert md5 == "90528d7ca1a48142e341f4ef8d21d0de"
        shutil.copy(packed, Path(root) / filename)

    datasets = SimpleNamespace(utils=SimpleNamespace(download_url=copy))
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=datasets))
    fetch("tiny_imagenet", tmp_path / "root")
    assert sound(load("tiny_imagenet", tmp_path / "root")) and len(list((tmp_path / "root").iterdir())) == 1


@pytest.mark.parametrize("name", ["mnist_mini", "folder:x", "mnits"])
def test_fetch_refuses_what_cannot_be_had(name, tmp_path):
    with pytest.raises(InputError):
        fetch(name, tmp_path)
    with pytest.raises(InputError, match="set FMM_DATA"):
        fetch("mnist")


# --- facts -----------------------------------------------------------------------------------------------------------


def test_official_checksums_are_those_of_torchvision():
    "Read in torchvision's source: to import it takes seconds."
    folder = Path(importlib.util.find_spec("torchvision").submodule_search_locations[0]) / "datasets"
    for name, module in (("cifar10", "cifar"), ("cifar100", "cifar"), ("stl10", "stl10")):
        text = (folder / f"{module}.py").read_text()
        assert all(md5 in text and file in text for file, md5 in SOURCES[name].files.items())
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    assert all(f"class {name}(" in text for name in downloads.CLASSES.values())


def test_sources_import_neither_torch_nor_numpy():
    code = "import sys, fmm_nb.sources; sys.exit(bool({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_shipped_sets_are_small_and_as_committed():
    files = [*find("mnist_mini").files.values(), *find("fashion_mini").files.values()]
    assert sum(path.stat().st_size for path in files) < 5_000_000
    assert check("mnist_mini") == check("fashion_mini") == []


@pytest.mark.parametrize("mini, full", [("mnist_mini", "mnist"), ("fashion_mini", "fashion_mnist")])
def test_shipped_indices_are_distinct(mini, full):
    with np.load(find(mini).files[f"{mini}.npz"], allow_pickle=False) as table:
        for part, total, n in (("train", 60000, 6000), ("test", 10000, 1000)):
            index = table[f"{part}_index"]
            assert len(index) == n and np.all(np.diff(index) > 0) and 0 <= index[0] and index[-1] < total


@pytest.mark.full_data
@pytest.mark.parametrize("mini, full", [("mnist_mini", "mnist"), ("fashion_mini", "fashion_mnist")])
def test_shipped_images_are_the_official_ones(mini, full):
    try:
        official = readers.read(find(full, FULL))
    except InputError as error:
        pytest.skip(str(error))
    assert check(full, FULL) == []
    shipped = readers.read(find(mini))
    with np.load(find(mini).files[f"{mini}.npz"], allow_pickle=False) as table:
        for part in ("train", "test"):
            index = table[f"{part}_index"]
            assert np.array_equal(getattr(shipped, f"{part}_x"), getattr(official, f"{part}_x")[index])
            assert np.array_equal(getattr(shipped, f"{part}_y"), getattr(official, f"{part}_y")[index])


@pytest.mark.full_data
def test_full_sets_have_their_class_counts():
    there = [name for name in available(FULL) if not name.endswith("_mini")]
    if not there:
        pytest.skip("no full sets: set FMM_DATA")
    for name in there:
        assert check(name, FULL) == []
    if "mnist" in there:
        images = load("mnist", FULL)
        assert torch.bincount(images.train_y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert torch.bincount(images.test_y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    for name in there:
        if name.startswith("cifar10["):
            assert len(load(name, FULL).train_x) == 10000 * sum("data_batch" in role for role in find(name, FULL).files)
