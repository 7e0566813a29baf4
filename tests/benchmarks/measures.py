"""Our measures against the plain way to take them, and against their floor of bare passes, in one run.     make bench

One process, one thread; contenders take turns. Every pair is first checked to say the same. Writes
data/results/bench/<machine>-measures.csv with a figure, and prints the ratios of medians. `peak_mb` is the most
that the process has held so far, theirs included.
"""

import resource
import statistics
import sys
import textwrap
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from bench import ROOT, machine

ROUNDS = 5


def hook_by_hook(net, x):
    "FullGrad as it was published: hooks on every layer with a bias, and every channel resized."
    import torch
    from torch import nn
    from torch.nn import functional as F

    outputs, hooks = [], []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            hooks.append(
                layer.register_forward_hook(lambda layer, inputs, output: outputs.append((layer.bias, output)))
            )
    image = x.clone().requires_grad_()
    logits = net(image)
    for hook in hooks:
        hook.remove()
    gradients = torch.autograd.grad(logits.amax(1).sum(), [image, *[output for _, output in outputs]])

    def processed(term):
        term = term.abs()
        term = term - term.amin((1, 2, 3), keepdim=True)
        return F.interpolate(
            term / (term.amax((1, 2, 3), keepdim=True) + 1e-6), x.shape[2:], mode="bilinear", align_corners=True
        ).sum(1, keepdim=True)

    return (
        processed(gradients[0] * x)
        + sum(processed(g * bias[:, None, None]) for (bias, _), g in zip(outputs, gradients[1:]))
    ).detach()


def cases():
    "name → (ours, theirs, how far they may lie apart); floors compare time alone."
    import numpy as np
    import torch
    from scipy import stats
    from torch.func import jacrev, vmap

    from fmm_nb.agreement import cosine, kendall_tau
    from fmm_nb.fullgrad import fullgrad_terms
    from fmm_nb.models import create_model
    from fmm_nb.saliency import FullGrad, attention_weights, channel_importance
    from fmm_nb.sensitivity import jacobian_norm, output_sensitivity
    from fmm_nb.trajectories import Paths, curves, ellipse_weights
    from fmm_nb.vision import prepare_torchvision

    prepare_torchvision()
    from torchmetrics.functional import kendall_rank_corrcoef

    torch.manual_seed(0)
    net, x = create_model("cnn").eval(), torch.randn(200, 1, 28, 28)
    am, few, many = create_model("am").eval(), torch.randn(100, 1, 28, 28), torch.randn(1000, 1, 28, 28)
    ten = [create_model("cnn").eval() for _ in range(10)]
    scores = np.round(np.random.default_rng(0).random((2, 10_000, 64)), 2)
    columns = [torch.from_numpy(values[:1000].T.copy()).float() for values in scores]
    ways, more = (Paths(ellipse_weights(256), torch.randn(paths, 3, 1, 28, 28)) for paths in (8, 20))
    points = torch.cat([ways[slice(start, start + 50)] for start in range(0, 2048, 50)])

    def forwards(images, times):
        with torch.no_grad():
            for _ in range(times):
                for part in images.split(50):
                    net(part)

    def in_turn(images, batch):
        "The Jacobian's norm by one backward pass a class."
        norms = []
        for part in images.split(batch):
            image = part.clone().requires_grad_()
            logits = net(image)
            rows = [torch.autograd.grad(logits[:, k].sum(), image, retain_graph=True)[0].flatten(1) for k in range(10)]
            norms.append(torch.stack(rows, 1).flatten(1).norm(dim=1))
        return torch.cat(norms).detach()

    def path_by_path():
        with torch.no_grad():
            return torch.stack(
                [
                    torch.stack([one(more[slice(start, start + 256)]) for start in range(0, len(more), 256)])
                    for one in ten
                ]
            )

    best = min((25, 50, 100, 200), key=lambda batch: min(seconds(lambda: in_turn(x, batch)) for _ in range(3)))

    def passes(images, times):
        for _ in range(times):
            for part in images.split(50):
                image = part.clone().requires_grad_()
                torch.autograd.grad(am(image).amax(1).sum(), image)

    def figure_2():
        weights = attention_weights(am, few)
        for method in ("gate_grad", "smooth_gate_grad"):
            for gate, importance in channel_importance(am, few, method).items():
                kendall_tau(weights[gate], importance), cosine(weights[gate], importance)

    def by_captum():
        from captum.attr import LayerFeatureAblation

        gate, mask = am.features[2].gate, torch.arange(64)[None, :, None, None].expand(1, 64, 7, 7)
        return (
            LayerFeatureAblation(am, gate)
            .attribute(few, target=0, layer_baselines=0, layer_mask=mask, perturbations_per_eval=1)[:, :, 0, 0]
            .abs()
        )

    return {
        "FullGrad map, against hook by hook": (lambda: FullGrad(net).attribute(x), lambda: hook_by_hook(net, x), 1e-4),
        "Kendall 10,000 × 64, against scipy's loop": (
            lambda: kendall_tau(*scores),
            lambda: [stats.kendalltau(a, b).statistic for a, b in zip(*scores)],
            1e-12,
        ),
        "Kendall 1000 × 64, against torchmetrics": (
            lambda: kendall_tau(*scores[:, :1000]),
            lambda: kendall_rank_corrcoef(*columns),
            1e-5,
        ),
        "Figure 2 of one net, against its floor of 26 forward and backward passes": (
            figure_2,
            lambda: passes(few, 26),
            None,
        ),
        "Jacobian norm, against vmap(jacrev)": (
            lambda: jacobian_norm(net, few),
            lambda: vmap(jacrev(lambda image: net(image[None])[0]))(few).flatten(1).norm(dim=1).detach(),
            1e-4,
        ),
        "Jacobian norm of 1,000 images, against a backward pass a class in its best batches": (
            lambda: jacobian_norm(net, many),
            lambda: in_turn(many, best),
            1e-4,
        ),
        "Jacobian norm, against its floor of 11 forwards": (
            lambda: jacobian_norm(net, few),
            lambda: forwards(few, 11),
            None,
        ),
        "ablation of all 160 channels, against captum's of 64": (
            lambda: channel_importance(am, few, "ablation", 0)["features.2.gate"].numpy(),
            by_captum,
            1e-4,
        ),
        "S with 10 draws, against 11 forwards": (
            lambda: output_sensitivity(net, x, draws=10),
            lambda: forwards(x, 11),
            None,
        ),
        "curves of 8 paths, against bare forwards": (lambda: curves(net, ways), lambda: forwards(points, 1), None),
        "curves of ten nets on 20 paths of 256 points, against one forward a path": (
            lambda: curves(ten, more),
            path_by_path,
            1e-4,
        ),
        "FullGrad terms of attention, against 26 forwards": (
            lambda: fullgrad_terms(am, few),
            lambda: forwards(few, 26),
            None,
        ),
    }


def draw(table):
    "How many times as fast ours is, for each measure: a dot a round, the median as a tick with its number."
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    from fmm_nb import figures

    figures.style()
    names, colour = list(dict.fromkeys(table.measure)), figures.ARMS["am"][1]
    figure, ax = plt.subplots(figsize=(figures.FULL, 0.7 + 0.3 * len(names)), layout="constrained")
    for line, name in enumerate(names):
        ratios = (table.theirs / table.ours)[table.measure == name]
        ax.plot(ratios, [line] * len(ratios), "o", color=colour, ms=3, mew=0, alpha=0.5)
        ax.plot(ratios.median(), line, "|", color=colour, ms=10)
        ax.annotate(
            f"{ratios.median():.1f}×", (ratios.max(), line), xytext=(6, 0), textcoords="offset points", va="center"
        )
    ax.axvline(1, color=figures.INK, lw=0.6)
    ax.set(xscale="log", xlabel="times as fast as the other way, or share of the floor")
    ax.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    ax.set_yticks(range(len(names)), [textwrap.fill(name, 48) for name in names])
    ax.yaxis.set_inverted(True)
    ax.margins(x=0.12)
    return figure


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main():
    import numpy as np
    import pandas as pd
    import torch

    from fmm_nb import figures
    from fmm_nb.workers import cores

    torch.set_num_threads(1)
    rows = []
    for name, (ours, theirs, apart) in cases().items():
        if apart is not None:
            np.testing.assert_allclose(
                np.asarray(ours()), np.asarray(theirs()), atol=apart * float(np.nanmax(np.abs(np.asarray(theirs()))))
            )
        for turn in range(ROUNDS):
            pair = [("ours", ours), ("theirs", theirs)]
            times = {which: seconds(call) for which, call in (pair if turn % 2 else pair[::-1])}
            rows.append(
                {"measure": name, "round": turn}
                | times
                | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
            )
        ratio = statistics.median(row["theirs"] / row["ours"] for row in rows if row["measure"] == name)
        print(f"{name}: {ratio:.2f} x as fast", flush=True)
    table = pd.DataFrame(rows).round(5).assign(torch=torch.__version__, cores=cores())
    figures.save(draw(table), f"{machine()}-measures", table, ROOT / "data" / "results" / "bench")


if __name__ == "__main__":
    main()
