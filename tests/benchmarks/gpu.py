"""Training on one GPU: recorded steps of several nets abreast against one step after another.

    python tests/benchmarks/gpu.py

Images of chance, 32×32 with three channels, resident on the device. Prints images a second and the milliseconds of
one net's step, and beside them what the card copies and multiplies; then how much faster each measure is than two
cores of the same machine. Writes data/results/bench/<card>.csv and <card>-measures.csv. `gpu.py --only WAY` runs
one way and replaces its rows; `gpu.py --profile` says instead where the time of one step goes.
"""

import argparse
import re
import statistics
import sys
import time
from copy import deepcopy
from itertools import product
from pathlib import Path

import pandas as pd
import torch

from fmm_nb.batches import Parts
from fmm_nb.graphs import LONG, Program, advance, begin, in_turn
from fmm_nb.loop import Training, arithmetic, step
from fmm_nb.models import create_model
from fmm_nb.specs import Protocol, Spec

ROOT = Path(__file__).resolve().parents[2]
STEPS = 50
# recipes
NETS = {
    "cnn": {"batch_size": 400},
    "am": {"batch_size": 400},
    "wrn16_4": {"batch_size": 128, "augmentation": "crop_flip"},
}
WAYS = {  # title: trainings side by side, epochs of the recipe (long ones are fused)
    "step after step": (0, 1),
    "recorded": (1, 1),
    "recorded, 10 abreast": (10, 1),
    "fused and recorded": (1, LONG),
    "fused, 10 abreast": (10, LONG),
    "fused, 16 abreast": (16, LONG),
}


def images(channels=3, size=32, count=400 * STEPS):
    "Parts of a training on images of chance."
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, device="cuda", generator=generator)
    y = torch.randint(0, 10, (count,), device="cuda", generator=generator)
    mean_std = (torch.full((channels,), 0.5, device="cuda"), torch.full((channels,), 0.25, device="cuda"))
    shape = {"in_channels": channels, "image_size": size, "num_classes": 10}
    return Parts(
        {"train": (x, y), "test": (x[:10], y[:10])},
        torch.nn.functional.one_hot(y, 10).float(),
        mean_std,
        shape,
        "chance",
        "",
    )


def trainings(net, precision, count, epochs, parts):
    "Trainings that differ in their seed."
    protocol = Protocol(epochs=epochs, learning_rate=0.01, precision=precision, **NETS[net])
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
    print(
        f"{net}, {'fused' if epochs == LONG else 'as written'}:"
        f" {sum(e.self_device_time_total for e in events) / 10:.0f} µs of kernels a step,"
        f" {sum(e.count for e in events) / 10:.0f} kernels"
    )
    print(
        "".join(
            f"  {e.self_device_time_total / 10:7.1f} µs {e.count / 10:4.0f} × {e.key[:110]}\n" for e in events[:16]
        ),
        flush=True,
    )


def measures():
    "name → what one net takes of 2,000 images, as a function of net, images and classes."
    from fmm_nb.landscapes import landscape
    from fmm_nb.saliency import FullGrad, channel_importance
    from fmm_nb.sensitivity import jacobian_norm, output_sensitivity

    return {
        "Jacobian norm": lambda net, x, y: jacobian_norm(net, x),
        "S with 10 draws": lambda net, x, y: output_sensitivity(net, x, draws=10),
        "curves and roughness of 20 paths": lambda net, x, y: landscape(net, x, y, "cross_class", 20, 256),
        "FullGrad maps": lambda net, x, y: FullGrad(net).attribute(x),
        "importance of channels, smoothed": lambda net, x, y: channel_importance(net, x[:500], "smooth_gate_grad"),
    }


def measured(card, folder):
    "How long each measure takes on the GPU and on two cores beside it."
    generator, rows = torch.Generator().manual_seed(0), []
    x, y = torch.randn(2000, 3, 32, 32, generator=generator), torch.arange(2000) % 10
    torch.manual_seed(0)
    net = create_model("am", in_channels=3, image_size=32).eval()
    for name, measure in measures().items():
        torch.set_num_threads(2)
        start = time.perf_counter()
        measure(net, x, y)
        cores = time.perf_counter() - start
        there = deepcopy(net).to("cuda", memory_format=torch.channels_last), x.cuda(), y.cuda()
        card_takes = timed(lambda given: measure(*given), there)
        rows.append(
            {
                "measure": name,
                "two_cores": round(cores, 4),
                "gpu": round(card_takes, 4),
                "times_as_fast": round(cores / card_takes, 1),
            }
        )
        print(rows[-1], flush=True)
    pd.DataFrame(rows).assign(torch=torch.__version__).to_csv(folder / f"{card}-measures.csv", index=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", action="store_true", help="where the time of one step goes")
    parser.add_argument("--only", choices=WAYS, help="one way, in bfloat16")
    parser.add_argument("--out", help="folder of the tables; default: data/results/bench")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU here")
    if args.profile:
        with arithmetic():
            for net, epochs in product(NETS, (1, LONG)):
                profile(net, epochs, images(count=NETS[net]["batch_size"] * STEPS))
        return
    copy, multiply = roof()
    rows, card = [], re.sub(r"\W+", "-", torch.cuda.get_device_name().lower())
    folder = Path(args.out or ROOT / "data" / "results" / "bench")
    table = folder / f"{card}.csv"
    known = pd.read_csv(table) if table.exists() else pd.DataFrame({"net": [], "precision": [], "way": []})
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}:"
        f" copies {copy:.0f} GB/s, multiplies {multiply:.0f} TFLOP/s in bfloat16",
        flush=True,
    )
    cases = product(("bfloat16",) if args.only else ("bfloat16", "float32"), NETS, [args.only] if args.only else WAYS)
    for precision, net, way in cases:
        count, epochs = WAYS[way]
        size = NETS[net]["batch_size"]
        torch.compiler.reset()  # it keeps only some forms at a time
        with arithmetic():
            given = trainings(net, precision, max(count, 1), epochs, images(count=size * STEPS))
            seconds = timed(abreast, [Program(training) for training in given]) if count else timed(eager, given)
        rate = len(given) * size * STEPS / seconds
        rows.append(
            {
                "net": net,
                "precision": precision,
                "way": way,
                "images_per_second": round(rate),
                "ms_per_step": round(1e3 * size / rate, 4),
            }
        )
        print(rows[-1], flush=True)
        new = pd.DataFrame(rows).assign(torch=torch.__version__, copy_gb_s=round(copy), bfloat16_tflops=round(multiply))
        pd.concat([known, new]).drop_duplicates(["net", "precision", "way"], keep="last").to_csv(table, index=False)
    with arithmetic():  # as pages measure
        measured(card, folder)


if __name__ == "__main__":
    main()
