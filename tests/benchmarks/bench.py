"""Ours against the loop that everybody writes, in one run.     make bench

Each contender trains the same net on the same images in processes of its own, as a user would start it; contenders take
turns, and the order turns too. What counts is images a second of the whole machine: the plain loop has all threads to
itself, ours as many one-thread workers as there are cores. Both must learn, else the run is void. Writes
data/results/bench/<machine>.csv and prints the ratios.
"""
import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

IMAGES, EPOCHS, BATCH = 6000, 2, 400
ROOT = Path(__file__).resolve().parents[2]


def plain(name):
    "The loop of a tutorial: a Dataset of PIL images, transforms, a DataLoader, an optimizer, a loss printed now and then."
    import torch
    from PIL import Image
    from torch import nn

    from fmm_nb.data import load
    from fmm_nb.models import create_model
    from fmm_nb.vision import prepare_torchvision

    prepare_torchvision()
    from torchvision import transforms

    images = load("mnist_mini")
    pictures = [Image.fromarray(x[0].numpy()) for x in images.train_x]
    prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    class Pictures(torch.utils.data.Dataset):
        def __len__(self):
            return len(pictures)

        def __getitem__(self, index):
            return prepare(pictures[index]), images.train_y[index]

    torch.manual_seed(0)
    net, loader = create_model(name), torch.utils.data.DataLoader(Pictures(), BATCH, shuffle=True)
    optimizer, start, seen = torch.optim.SGD(net.parameters(), 0.05, 0.9), None, 0
    for epoch in range(EPOCHS + 1):
        if epoch == 1:  # the first epoch warms up
            start = time.perf_counter()
        losses = []
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        seen += len(pictures) * (epoch > 0)
    return seen / (time.perf_counter() - start), statistics.mean(losses)


def ours(name):
    "One worker of the store: the library's loop, one thread, the allocator told to keep its memory."
    from fmm_nb.data import load
    from fmm_nb.specs import Protocol, Spec
    from fmm_nb.training import Training, one_thread

    with one_thread():
        training = Training(Spec(name, "mnist_mini", Protocol(epochs=EPOCHS + 2, batch_size=BATCH)), load("mnist_mini"), "cpu")
        training.run_epoch()
        start = time.perf_counter()
        for _ in range(EPOCHS):
            training.run_epoch()
    return IMAGES * EPOCHS / (time.perf_counter() - start), training.history[-1]["train_loss"]


def started(contender, name, environment=None):
    "A contender in a process of its own; (images a second, last loss)."
    command = [sys.executable, __file__, "--one", contender, "--net", name]
    done = subprocess.run(command, env=os.environ | (environment or {}), capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def rate(contender, name, workers):
    "Images a second of the machine, and the worst last loss."
    if contender == "plain loop":
        found = [started("plain", name)]
    else:
        from fmm_nb.store import WORKER_ENVIRONMENT

        count = 1 if contender == "one worker" else workers
        with ThreadPoolExecutor(count) as pool:
            found = list(pool.map(lambda _: started("ours", name, WORKER_ENVIRONMENT), range(count)))
    return sum(speed for speed, _ in found), max(loss for _, loss in found)


def roof():
    "What one core multiplies in float32, in GFLOP/s: the bound that no form of the loop can pass."
    import torch

    torch.set_num_threads(1)
    a, times = torch.randn(1024, 1024), []
    for _ in range(12):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * 1024**3 / statistics.median(times) / 1e9


def machine():
    "A name for this kind of machine, fit for a file."
    model = next((line.split(":")[1] for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor()) if os.path.exists("/proc/cpuinfo") else platform.processor()
    return re.sub(r"\W+", "-", f"{model.strip() or platform.machine()} {len(os.sched_getaffinity(0))} cores".lower()).strip("-")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=["plain", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--net", default="am", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return print(json.dumps({"plain": plain, "ours": ours}[args.one](args.net)))
    import pandas as pd
    import torch

    workers, rows = len(os.sched_getaffinity(0)), []
    contenders = ["plain loop", "one worker", "all workers"]
    for turn in range(args.rounds):
        for name in ("cnn", "am"):
            for contender in contenders[turn % 3 :] + contenders[: turn % 3]:
                speed, loss = rate(contender, name, workers)
                if not loss < 2.28:  # chance is ln 10 = 2.303
                    sys.exit(f"void: {contender} did not learn {name} (loss {loss:.2f})")
                rows.append({"net": name, "contender": contender, "round": turn, "images_per_second": speed, "last_loss": loss})
                print(f"{name} {contender}: {speed:.0f} images/s", flush=True)
    table = pd.DataFrame(rows).assign(torch=torch.__version__, cores=workers, roof_gflops_per_core=roof())
    folder = ROOT / "data" / "results" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{machine()}.csv", index=False)
    medians = table.groupby(["net", "contender"]).images_per_second.median().unstack()
    for name, row in medians.iterrows():
        print(f"{name}: {row['all workers'] / row['plain loop']:.2f} x the plain loop; all workers {row['all workers'] / row['one worker']:.2f} x one")
    print(f"am at {medians['all workers']['am'] / medians['all workers']['cnn']:.0%} of cnn")


if __name__ == "__main__":
    main()
