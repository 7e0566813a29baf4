"""Training on one GPU: recorded steps of several nets abreast against one step after another.     python tests/benchmarks/gpu.py

Images of chance, 32×32 with three channels, resident on the device. Prints images a second and the milliseconds of one
net's step, and beside them what the card copies and multiplies. Writes data/results/bench/<card>.csv. `gpu.py --profile`
says instead where the time of one step goes.
"""
import argparse
import re
import statistics
import sys
import time
from itertools import product
from pathlib import Path

import pandas as pd
import torch

from fmm_nb.batches import Parts
from fmm_nb.graphs import LONG, Program, advance, begin, in_turn
from fmm_nb.loop import Training, arithmetic, step
from fmm_nb.specs import Protocol, Spec

ROOT = Path(__file__).resolve().parents[2]
BATCH, STEPS = 400, 50
WAYS = {  # title: trainings side by side, epochs of the recipe (long ones are fused)
    "step after step": (0, 1),
    "recorded": (1, 1),
    "recorded, 10 abreast": (10, 1),
    "fused and recorded": (1, LONG),
    "fused, 10 abreast": (10, LONG),
    "fused, 16 abreast": (16, LONG),
}


def images(channels=3, size=32, count=BATCH * STEPS):
    "Parts of a training on images of chance."
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, device="cuda", generator=generator)
    y = torch.randint(0, 10, (count,), device="cuda", generator=generator)
    mean_std = (torch.full((channels,), 0.5, device="cuda"), torch.full((channels,), 0.25, device="cuda"))
    shape = {"in_channels": channels, "image_size": size, "num_classes": 10}
    return Parts({"train": (x, y), "test": (x[:10], y[:10])}, torch.nn.functional.one_hot(y, 10).float(), mean_std, shape, "chance", "")


def trainings(net, precision, count, epochs, parts):
    "Trainings that differ in their seed."
    protocol = Protocol(epochs=epochs, batch_size=BATCH, learning_rate=0.01, precision=precision)
    return [Training(Spec(net, "cifar10", protocol, seed), parts, "cuda") for seed in range(count)]


def eager(given):
    "An epoch of each, a step after another."
    for training in given:
        for draw in training.draws():
            step(training, draw, training.rate())


def abreast(programs):
    "An epoch of all, replayed."
    in_turn(programs, begin)
    for _ in range(STEPS):
        in_turn(programs, advance)
    for program in programs:
        program.training.step = 0


def timed(act, given, repeats=3):
    "Seconds of an epoch, the median; once before, to warm up."
    act(given)
    torch.cuda.synchronize()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        act(given)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def roof():
    "What the card copies, in GB/s read and written, and multiplies, in TFLOP/s of bfloat16."
    x, a = torch.empty(2**31, dtype=torch.uint8, device="cuda"), torch.randn(8192, 8192, device="cuda").bfloat16()
    return 2 * x.numel() / timed(torch.clone, x) / 1e9, 2 * 8192**3 / timed(lambda a: a @ a, a) / 1e12


def profile(net, epochs, parts):
    "Where the time of one recorded step goes."
    programs = [Program(training) for training in trainings(net, "bfloat16", 1, epochs, parts)]
    abreast(programs)
    in_turn(programs, begin)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(10):
            in_turn(programs, advance)
        torch.cuda.synchronize()
    events = sorted(profiler.key_averages(), key=lambda e: -e.self_device_time_total)
    print(f"{net}, {'fused' if epochs == LONG else 'as written'}: {sum(e.self_device_time_total for e in events) / 10:.0f} µs of kernels a step, {sum(e.count for e in events) / 10:.0f} kernels")
    print("".join(f"  {e.self_device_time_total / 10:7.1f} µs {e.count / 10:4.0f} × {e.key[:110]}\n" for e in events[:16]), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", action="store_true", help="where the time of one step goes")
    parser.add_argument("--out", help="folder of the table; default: data/results/bench")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU here")
    parts = images()
    if args.profile:
        with arithmetic():
            for net, epochs in product(("cnn", "am"), (1, LONG)):
                profile(net, epochs, parts)
        return
    copy, multiply = roof()
    rows, card = [], re.sub(r"\W+", "-", torch.cuda.get_device_name().lower())
    table = Path(args.out or ROOT / "data" / "results" / "bench") / f"{card}.csv"
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: copies {copy:.0f} GB/s, multiplies {multiply:.0f} TFLOP/s in bfloat16", flush=True)
    for precision, net, (way, (count, epochs)) in product(("bfloat16", "float32"), ("cnn", "am"), WAYS.items()):
        torch.compiler.reset()  # it keeps only some forms at a time
        with arithmetic():
            given = trainings(net, precision, max(count, 1), epochs, parts)
            seconds = timed(abreast, [Program(training) for training in given]) if count else timed(eager, given)
        rate = len(given) * BATCH * STEPS / seconds
        rows.append({"net": net, "precision": precision, "way": way, "images_per_second": round(rate), "ms_per_step": round(1e3 * BATCH / rate, 4)})
        print(rows[-1], flush=True)
        pd.DataFrame(rows).assign(torch=torch.__version__, copy_gb_s=round(copy), bfloat16_tflops=round(multiply)).to_csv(table, index=False)


if __name__ == "__main__":
    main()
