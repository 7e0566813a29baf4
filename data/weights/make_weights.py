"""Make this folder from stores of trained nets.

    python data/weights/make_weights.py mnist:paper:STORE fashion_mnist:cpu:STORE

Nets of Table I, in half precision, five seeds in a file; `weights.csv` says of each which net it is and how it was
trained.
"""

import csv
import sys
from pathlib import Path

import torch
from safetensors.torch import save

from fmm_nb.batches import parts
from fmm_nb.data import load
from fmm_nb.loop import evaluate
from fmm_nb.plan import by_arm
from fmm_nb.store import read_net

HERE, MODELS, SEEDS = Path(__file__).parent, ("cnn", "am"), 5


def main():
    rows = []
    for data, scale, store in (word.split(":") for word in sys.argv[1:]):
        images = load(data)
        for model in MODELS:
            tensors = {}
            for spec in by_arm("03_multiplication", scale, data)[model][:SEEDS]:
                net = read_net(Path(store), spec.key).model().half().float()  # as it will be read
                seen = parts(spec, images)
                mean, std = (value.item() for value in seen.mean_std)
                _, correct = evaluate(net, *seen.pairs["test"], seen.mean_std)
                rows.append(
                    {
                        "model": model,
                        "data": data,
                        "seed": spec.seed,
                        "scale": scale,
                        "key": spec.key,
                        "mean": mean,
                        "std": std,
                        "test_accuracy_percent": round(100 * correct.double().mean().item(), 2),
                    }
                )
                tensors |= {
                    f"{spec.seed}/{name}": value.half().contiguous() for name, value in net.state_dict().items()
                }
                print(rows[-1], flush=True)
            (HERE / f"{model}-{data}.safetensors").write_bytes(save(tensors))
    with open(HERE / "weights.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
