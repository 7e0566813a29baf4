"""How far a training that was interrupted ends from one that was not, beside how far two that were not end from one
another.

    python tests/resumption.py     writes data/results/torture/resumption.csv

On a CPU all distances are zero. A GPU adds numbers up in an order that can change from run to run. All runs are of
one process, and too short to be compiled.
"""

import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd
import torch

from fmm_nb import graphs, loop
from fmm_nb.batches import parts
from fmm_nb.data import load
from fmm_nb.loop import Training, arithmetic
from fmm_nb.specs import Protocol, Spec
from fmm_nb.training import usual_device

SEEDS, IMAGES = 3, 3000
RECIPE = Protocol(epochs=6, batch_size=50, learning_rate=0.03)
RECORD = Path(__file__).resolve().parents[1] / "data" / "results" / "torture" / "resumption.csv"


class Cut(Exception):
    "What interrupts a training."


def trained(specs, images, cut=None):
    """Trainings at their end, all abreast; `cut`: the epoch after which they are interrupted, to go on from what was
    written."""
    device, left = usual_device(), iter(range(1, RECIPE.epochs + 1))
    shared = parts(specs[0], images, device)

    def interrupt():
        if next(left) == cut:
            raise Cut

    with tempfile.TemporaryDirectory() as folder, arithmetic():
        files = {spec: Path(folder, spec.key) for spec in specs} if cut else None
        for attempt in range(2 if cut else 1):
            given = [Training(spec, shared, device) for spec in specs]
            try:
                graphs.run_together(given, interrupt, files)
            except Cut:
                assert attempt == 0
    assert next(left, None) is None, "an epoch was trained twice, or not at all"
    return given


def compared(one, other):
    """The relative distance of the weights, and the percentage of test images that are decided otherwise; the largest
    of all seeds."""
    weights = lambda training: torch.cat([p.detach().double().flatten().cpu() for p in training.parameters])
    pairs = [(weights(a), weights(b), a.test_correct != b.test_correct) for a, b in zip(one, other, strict=True)]
    return {
        "weights_apart": max(((a - b).norm() / a.norm()).item() for a, b, _ in pairs),
        "decisions_apart_percent": max(100 * c.double().mean().item() for *_, c in pairs),
    }


def main():
    loop.CHECKPOINT_SECONDS, rows, images = 0, [], load("mnist_mini")
    for model, precision in product(("cnn", "am"), ("bfloat16", "float32", "float64")):
        specs = [Spec(model, "mnist_mini", replace(RECIPE, precision=precision), seed, IMAGES) for seed in range(SEEDS)]
        whole = trained(specs, images)
        again = trained(specs, images)
        resumed = trained(specs, images, RECIPE.epochs // 2)
        for title, other in (("neither interrupted", again), ("one interrupted", resumed)):
            rows.append(
                {
                    "net": model,
                    "precision": precision,
                    "compared": title,
                    "seeds": SEEDS,
                    "steps": whole[0].steps * RECIPE.epochs,
                }
                | compared(whole, other)
            )
            print(rows[-1], flush=True)
    device = torch.cuda.get_device_name() if usual_device() == "cuda" else "CPU"
    pd.DataFrame(rows).assign(device=device, torch=torch.__version__).to_csv(RECORD, index=False)


if __name__ == "__main__":
    main()
