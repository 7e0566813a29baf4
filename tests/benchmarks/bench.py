"""Ours against the loop that everybody writes, in one run.     make bench

Each contender trains the same net on the same images in processes of its own, as a user would start it; contenders
take turns, and the order turns too. What counts is images a second of the whole machine: the plain loop has all
threads to itself, ours as many one-thread workers as there are cores. All must learn, else the run is void. Writes
data/results/bench/<machine>.csv with a figure, and prints the ratios. `bench.py --profile` says instead where the
time of one step goes, in the readable form and as the loop takes it.
"""

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

IMAGES, EPOCHS, BATCH, NETS = 6000, 2, 400, ("cnn", "am")
CONTENDERS = ("plain loop", "one worker", "all workers", "all workers, float32")
ROOT = Path(__file__).resolve().parents[2]


def plain(name):
    """The loop of a tutorial: a Dataset of PIL images, transforms, a DataLoader, an optimizer, a loss printed now and
    then."""
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
    return seen / (time.perf_counter() - start), statistics.mean(losses), "float32"


def under_way(name, precision):
    "A training on the shipped digits, not begun."
    from fmm_nb.batches import parts
    from fmm_nb.data import load
    from fmm_nb.loop import Training
    from fmm_nb.specs import Protocol, Spec

    spec = Spec(name, "mnist_mini", Protocol(epochs=EPOCHS + 1, batch_size=BATCH, precision=precision))
    return Training(spec, parts(spec, load("mnist_mini")))


def ours(name, precision="auto"):
    """One worker: the library's loop, one thread, the allocator told to keep its memory, as the store and the CLI start
    it."""
    from fmm_nb.loop import arithmetic, step

    with arithmetic():
        training = under_way(name, precision)
        for epoch in range(EPOCHS + 1):
            if epoch == 1:
                start = time.perf_counter()
            training.sums.zero_()
            for draw in training.draws():
                step(training, draw, training.rate())
            loss = (training.sums / len(training.parts.targets)).tolist()[0]
            training.epoch, training.step = training.epoch + 1, 0
    return IMAGES * EPOCHS / (time.perf_counter() - start), loss, training.precision


WAYS = {"plain": plain, "ours": ours, "ours-float32": lambda name: ours(name, "float32")}


def started(way, name, environment=None):
    "A contender in a process of its own; (images a second, last loss, precision, peak MB)."
    command = [sys.executable, __file__, "--one", way, "--net", name]
    done = subprocess.run(command, env=os.environ | (environment or {}), capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(contender, name, workers):
    "A row of the table."
    from fmm_nb.workers import WORKER_ENVIRONMENT

    if contender == "plain loop":
        found = [started("plain", name)]
    else:
        count, way = 1 if contender == "one worker" else workers, "ours-float32" if "float32" in contender else "ours"
        with ThreadPoolExecutor(count) as pool:
            found = list(pool.map(lambda _: started(way, name, WORKER_ENVIRONMENT), range(count)))
    speeds, losses, precisions, peaks = zip(*found)
    return {
        "images_per_second": sum(speeds),
        "last_loss": max(losses),
        "precision": precisions[0],
        "peak_mb": max(peaks),
    }


def roof(dtype):
    "What one core multiplies, in GFLOP/s: the bound that no form of the loop can pass."
    import torch

    torch.set_num_threads(1)
    a, times = torch.randn(1024, 1024).to(dtype), []
    for _ in range(12):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * 1024**3 / statistics.median(times) / 1e9


def machine():
    "A name for this kind of machine, fit for a file."
    from fmm_nb.workers import cores

    model = (
        next(
            (line.split(":")[1] for line in open("/proc/cpuinfo") if line.startswith("model name")),
            platform.processor(),
        )
        if os.path.exists("/proc/cpuinfo")
        else platform.processor()
    )
    return re.sub(r"\W+", "-", f"{model.strip() or platform.machine()} {cores()} cores".lower()).strip("-")


def draw(table):
    "Images a second of each contender: runs as dots, the median as a bar, with its ratio to the plain loop's."
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    from fmm_nb import figures

    figures.style()
    figure, axes = plt.subplots(
        1, len(NETS), figsize=(figures.FULL, 1.7), sharex=True, sharey=True, layout="constrained"
    )
    for name, ax in zip(NETS, axes):
        runs = table[table.net == name].groupby("contender").images_per_second
        _, colour, marker = figures.ARMS[name]
        for line, contender in enumerate(CONTENDERS):
            speeds, base = runs.get_group(contender), runs.get_group("plain loop").median()
            ax.barh(line, speeds.median(), color=colour, alpha=0.3, height=0.6)
            ax.plot(speeds, [line] * len(speeds), marker, color=colour, ms=3, mew=0)
            ax.annotate(
                f"{speeds.median() / base:.1f}×",
                (speeds.max(), line),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        ax.set_title(figures.label(name), loc="left")
        ax.set_yticks(range(len(CONTENDERS)), CONTENDERS)
        ax.yaxis.set_inverted(True)
        ax.margins(x=0.15)
        ax.xaxis.set_major_locator(ticker.MaxNLocator(4))
    figure.supxlabel("images a second, whole machine, training", fontsize=8)
    return figure


def profile():
    "Where the time of one step goes, before and after: the readable form in float32, and what the loop does."
    import torch

    from fmm_nb.loop import arithmetic, step

    for name in NETS:
        for title, precision, readable in [
            ("before: readable form, float32", "float32", True),
            ("after", "auto", False),
        ]:
            training = under_way(name, precision)
            if readable:
                training.model.quick = training.model.forward
            drawn = training.draws()
            with arithmetic():
                for one in drawn[:4]:
                    step(training, one, training.rate())
                start = time.perf_counter()
                for one in drawn[4:9]:
                    step(training, one, training.rate())
                spent = (time.perf_counter() - start) / 5
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
                    for one in drawn[9:14]:
                        step(training, one, training.rate())
            table = sorted(profiler.key_averages(), key=lambda e: -e.self_cpu_time_total)[:8]
            print(f"{name}, {title} ({training.precision}): {1e3 * spent:.0f} ms a step")
            print("".join(f"  {e.key:<45} {e.self_cpu_time_total / 5e3:6.1f} ms\n" for e in table))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--profile", action="store_true", help="where the time of one step goes")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--net", default="am", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        result = WAYS[args.one](args.net)
        return print(json.dumps([*result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
    if args.profile:
        return profile()
    import pandas as pd
    import torch

    from fmm_nb import figures
    from fmm_nb.workers import cores

    workers, rows, cases = cores(), [], [(net, contender) for net in NETS for contender in CONTENDERS]
    roofs = {
        f"roof_{str(dtype)[6:]}_gflops_per_core": round(roof(dtype), 1) for dtype in (torch.float32, torch.bfloat16)
    }
    print(f"{machine()}, torch {torch.__version__}, Python {platform.python_version()}; {roofs}", flush=True)
    for turn in range(args.rounds):
        for net, contender in cases[2 * turn :] + cases[: 2 * turn]:
            row = measured(contender, net, workers)
            if not row["last_loss"] < 2.28:  # chance is ln 10 = 2.303
                sys.exit(f"void: {contender} did not learn {net} (loss {row['last_loss']:.2f})")
            rows.append({"net": net, "contender": contender, "round": turn} | row)
            print(
                f"{net} {contender}: {row['images_per_second']:.0f} images/s,"
                f" {row['peak_mb']:.0f} MB, {row['precision']}",
                flush=True,
            )
    table = pd.DataFrame(rows).round(3).assign(torch=torch.__version__, cores=workers, **roofs)
    figures.save(draw(table), machine(), table, ROOT / "data" / "results" / "bench")
    medians = table.groupby(["net", "contender"]).images_per_second.median().unstack()
    for net, row in medians.iterrows():
        print(
            f"{net}: {row['all workers'] / row['plain loop']:.2f} x the plain loop,"
            f" {row['all workers, float32'] / row['plain loop']:.2f} x in float32;"
            f" all workers {row['all workers'] / row['one worker']:.2f} x one"
        )
    print(f"am at {medians['all workers']['am'] / medians['all workers']['cnn']:.0%} of cnn")


if __name__ == "__main__":
    main()
