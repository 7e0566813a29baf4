"Residual nets, their signals, and a divergence: what does not read well on a page."

import copy
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from fmm_nb.batches import parts
from fmm_nb.checkpoints import read_checkpoint, write_checkpoint
from fmm_nb.data import load
from fmm_nb.diagnostics import signals
from fmm_nb.errors import InputError
from fmm_nb.files import data_folder
from fmm_nb.gates import frozen_gates, gates_of, read_gates
from fmm_nb.judgement import judge
from fmm_nb.loop import Training, arithmetic, diverged_step, run, step
from fmm_nb.models import count_parameters, create_model
from fmm_nb.models_residual import COMBINATIONS, ORDERS, SHORTCUTS
from fmm_nb.plan import EXPERIMENTS, by_arm, sizes_of
from fmm_nb.residual_arms import ASKED, CLAIM_RATES, COMBINED, DECIDES, DEPTH_RATES, GRID, RATES, SWEPT
from fmm_nb.results import study
from fmm_nb.specs import Arm, Protocol, Spec
from fmm_nb.store import read_net, write_net
from fmm_nb.training import train


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_every_build_trains_a_step(combine, order, shortcut):
    torch.manual_seed(0)
    net = create_model("wrn10_1", image_size=12, combine=combine, order=order, shortcut=shortcut)
    x = torch.randn(8, 1, 12, 12)
    F.cross_entropy(net(x), torch.arange(8)).backward()
    gradients = [p.grad for p in net.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert net.eval()(x).shape == (8, 10)


def test_nets_of_one_seed_share_their_weights():
    weights = {}
    for combine in COMBINATIONS.keys() - {"inside"}:  # it has fewer weights
        torch.manual_seed(0)
        weights[combine] = [
            p for name, p in create_model("wrn10_1", combine=combine).named_parameters() if not name.endswith("alpha")
        ]
    assert all(torch.equal(a, b) for drawn in weights.values() for a, b in zip(drawn, weights["add"], strict=True))


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("attention", ["none", "se"])
def test_gates_that_were_read_and_are_held_give_the_same_output(combine, order, attention):
    torch.manual_seed(0)
    net = create_model("wrn10_1", image_size=12, combine=combine, order=order, attention=attention).double()
    x = torch.rand(3, 1, 12, 12).double()
    net(x)
    values = read_gates(net, x)
    with frozen_gates(net, values):
        held = net.eval()(x)
        assert len(signals(net, x, torch.arange(3))) == 3
    torch.testing.assert_close(held, net(x))


def test_signals_are_those_of_the_blocks():
    net, x = create_model("stack3_4", image_size=8, combine="normalised").double(), torch.rand(8, 1, 8, 8).double()
    found = signals(net, x, torch.arange(8))
    assert np.allclose(found.log_y, 0) and np.allclose(found.log_x[1:], 0)


def test_attention_stands_at_the_end_of_each_branch():
    plain, se = (create_model("wrn10_1", attention=attention) for attention in ("none", "se"))
    assert count_parameters(se) - count_parameters(plain) == sum(
        2 * c * max(c // 16, 4) + max(c // 16, 4) + c for c in (16, 32, 64)
    )
    assert sum(name.endswith("combined") for name in gates_of(se)) == 3


def test_a_block_with_its_branch_frozen_is_linear_in_the_map():
    net = create_model("stack2_4", image_size=8, combine="mul", batch_norm=False).double()
    x = torch.rand(3, 1, 8, 8).double()
    block = net.blocks[0].eval()
    maps = net.stem(x)
    with torch.no_grad(), frozen_gates(block, {"combined": block.combined.gate(block.before(maps))}):
        torch.testing.assert_close(block(3 * maps), 3 * block(maps))


@pytest.mark.parametrize("name", ["wrn9_1", "wrn10_0", "stack0_8", "wrn10", "stack2_8_8"])
def test_what_is_no_net_is_refused(name):
    with pytest.raises(InputError):
        create_model(name)


def test_signals_leave_nothing_behind_when_the_net_fails():
    net = create_model("stack2_4", image_size=8).eval()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(RuntimeError):
        signals(net, torch.randn(4, 3, 8, 8), torch.arange(4))
    assert not net.training and not any(module._forward_hooks for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_signals_are_those_of_float64_where_float32_is_left():
    torch.manual_seed(0)
    net = create_model("stack12_8", image_size=8, combine="mul", batch_norm=False).double()
    x = 100 * torch.randn(8, 1, 8, 8).double()
    y = torch.arange(8)
    found = signals(net, x, y)
    assert found.log_y.iloc[5] > math.log(torch.finfo(torch.float32).max)


# ---- a divergence
WILD = Spec("cnn", "mnist_mini", Protocol(epochs=2, batch_size=20, learning_rate=1e4), n_train=200)


def by_hand(spec, digits):
    "The first step (from 1) whose loss is not finite."
    training = Training(spec, parts(spec, digits))
    with arithmetic():
        for number, draw in enumerate(training.draws(), 1):
            step(training, draw, training.rate())
            if not training.sums[0].isfinite():
                return number


def test_the_step_of_a_divergence_is_found_and_kept(tmp_path):
    digits = load("mnist_mini")
    trained = train(WILD, digits, "cpu")
    assert trained.diverged_at == 1 and trained.diverged_step == by_hand(WILD, digits)
    write_net(tmp_path, trained)
    assert read_net(tmp_path, WILD.key).diverged_step == trained.diverged_step


def test_the_step_is_the_same_after_an_interruption(tmp_path):
    digits = parts(WILD, load("mnist_mini"))
    straight, stopped, resumed = (Training(WILD, digits) for _ in range(3))
    with arithmetic():
        run(straight)
        step(stopped, stopped.draws()[0], stopped.rate())
        stopped.step += 1
        write_checkpoint(stopped, tmp_path / "state")
        assert read_checkpoint(resumed, tmp_path / "state")
        run(resumed)
    assert diverged_step(resumed) == diverged_step(straight) > 1


# ---- the plan and the claims
@pytest.mark.parametrize("scale", ["smoke", "cpu", "paper"])
@pytest.mark.parametrize("page", ["07_fmmnet", "08_depth"])
def test_every_arm_is_there_at_every_scale(page, scale):
    own, sizes = EXPERIMENTS[page].own[scale], sizes_of(page, scale)
    assert {arm.part for arm in own.values()} == {
        "07_fmmnet": {"", "rates", "variants"},
        "08_depth": {"", "rates", "signals", "breaks", "widths"},
    }[page]
    for data in sizes.datasets or ("cifar10",):
        nets = by_arm(page, scale, data)
        assert set(nets) == {name for name, arm in own.items() if not arm.datasets or data in arm.datasets} and all(
            nets.values()
        )
        rates = [name for name in nets if own[name].part == "rates"]
        # equal effort: one net a rate
        assert all(len(nets[name]) == 1 and nets[name][0].protocol.validation for name in rates)


def test_a_net_that_two_parts_share_is_in_both(monkeypatch, tmp_path):
    own = {"one": Arm("stack1_4"), "the same": Arm("stack1_4", part="other"), "another": Arm("stack2_4", part="other")}
    monkeypatch.setitem(EXPERIMENTS, "08_depth", replace(EXPERIMENTS["08_depth"], own={"smoke": own}))
    page = study(
        "08_depth", {"scale": "smoke", "datasets": "mnist_mini", "seeds": 2, "store": "", "out": str(tmp_path)}
    )
    assert {part: sorted(set(arms.values())) for part, arms in page.arms.items()} == {
        "": ["one"],
        "other": ["another", "the same"],
    }
    assert page.arms[""].keys() < page.arms["other"].keys() == {spec.key for spec in page.nets}


def test_rates_are_of_the_grid():
    assert {rate for rates in DEPTH_RATES.values() for rate in rates} | set(RATES.values()) <= set(GRID)
    assert DEPTH_RATES.keys() == COMBINED.keys() and {len(rates) for rates in DEPTH_RATES.values()} == {len(SWEPT)}


def published(name):
    return pd.read_csv(data_folder() / "results" / "cpu" / "rows" / f"{name}.csv", low_memory=False)


def test_planned_rates_are_the_best_that_were_published():
    best = published("07_rates").sort_values("validation_accuracy_percent").groupby("model").learning_rate.last()
    assert best.to_dict() == RATES


def test_planned_rates_of_depths_are_the_best_that_were_published():
    for (data, arm, blocks), tried in published("08_rates").groupby(["data", "model", "blocks"]):
        best = (
            tried.loc[tried.validation_accuracy_percent.idxmax()]
            if (tried.not_converged == 0).any()
            else tried.loc[tried.learning_rate.idxmin()]
        )
        planned = (
            DEPTH_RATES[arm][SWEPT.index(blocks)] if data == "mnist_mini" else CLAIM_RATES[arm][ASKED.index(blocks)]
        )
        assert best.learning_rate == planned, (data, arm, blocks)


def test_a_repaired_net_of_64_blocks_trains_where_a_product_of_16_does_not():
    rows = published("08_depth")
    failed = lambda arm, blocks: rows[
        (rows.data == "mnist_mini") & (rows.model == arm) & (rows.blocks == blocks)
    ].not_converged.tolist()
    assert failed("fmmnet_identity", 64) == [0.0] * 5 and failed("fmmnet", 16) == [1.0] * 5


def depth_table(failing, growth, seeds):
    "Rows of page 08 as its claims see them."
    cells = [(arm, 16, seed) for arm in ("fmmnet_identity", "fmmnet_bounded", "fmmnet_normalised") for seed in range(5)]
    cells += [(arm, blocks, seed) for arm in ("resnet", "fmmnet") for blocks in (8, 16) for seed in range(seeds)]
    chance = np.random.default_rng(0)
    rows = []
    for arm, blocks, seed in cells:
        value = growth[arm] * math.exp(chance.normal(0, 0.01))
        failed = float(failing == "all" or (failing and arm == "fmmnet"))
        rows.append(
            {
                "model": arm,
                "blocks": blocks,
                "seed": seed,
                "data": "cifar10[1-2]",
                "not_converged": failed,
                "diverged_at": 1.0 if failed else np.nan,
                "gradient_growth": value,
                "gradient_growth__equal_loss": value,
            }
        )
    return pd.DataFrame(rows)


GROWTH = {"resnet": 40.0, "fmmnet": 1e12, "fmmnet_identity": 1.0, "fmmnet_bounded": 8.0, "fmmnet_normalised": 300.0}


@pytest.mark.parametrize(
    ("failing", "seeds", "words"),
    [
        (True, DECIDES, ("supported", "contradicted")),
        (False, DECIDES, ("contradicted", "supported")),
        (True, 5, ("undecided", "undecided")),
    ],
)
def test_the_planned_runs_can_say_that_most_fail_and_five_cannot(failing, seeds, words):
    judged = judge({"08_depth": depth_table(failing, GROWTH, seeds)})
    assert (judged["M63"][0], judged["M68"][0]) == words


def test_what_fails_with_addition_too_says_nothing_about_the_product():
    judged = judge({"08_depth": depth_table("all", GROWTH, DECIDES)})
    assert (judged["M63"][0], judged["M68"][0]) == ("contradicted", "contradicted")


def test_a_share_in_training_mode_can_be_another():
    rows = depth_table(True, GROWTH, DECIDES)
    evidence = judge({"08_depth": rows.assign(not_converged__in_training=0.0)})["M63"][1]
    assert evidence.depends_on == "in training (reversed)" and not judge({"08_depth": rows})["M63"][1].depends_on


@pytest.mark.parametrize(
    ("growth", "word"),
    [
        (GROWTH, "supported"),
        (GROWTH | {"fmmnet_normalised": 1e14}, "undecided"),
        (GROWTH | {"fmmnet": 1.0}, "contradicted"),
    ],
)
def test_the_product_is_the_cause_only_where_every_repair_keeps_the_gradient(growth, word):
    assert judge({"08_depth": depth_table(True, growth, DECIDES)})["M64"][0] == word


def test_counts_decide_without_three_of_the_four_image_sets():
    rows = pd.DataFrame(
        {
            "model": ["fmmnet", "resnet"] * 2,
            "seed": [0, 0, 1, 1],
            "data": "cifar10",
            "fmmnet_parameters_at_most_resnet": 1.0,
            "fmmnet_macs_at_most_resnet": [1.0, 1.0, 1.0, 0.0],
        }
    )
    judged = judge({"07_fmmnet": rows})
    assert (judged["M60"][0], judged["M61"][0], judged["M67"][0]) == ("supported", "contradicted", "not tested")


def table_iv(fmmnet, se, diverged=False):
    "Rows of page 07 on one image set."
    chance, means = np.random.default_rng(0), {"resnet": 60.0, "fmmnet": fmmnet, "se_resnet": se}
    return pd.DataFrame(
        [
            {
                "model": arm,
                "seed": seed,
                "data": "cifar10",
                "points": "test",
                "diverged_at": 1.0 if diverged and arm == "fmmnet" and not seed else np.nan,
                "test_accuracy_percent": mean + chance.normal(0, 0.1),
                "jacobian_logits": mean * math.exp(chance.normal(0, 0.02)),
            }
            for arm, mean in means.items()
            for seed in range(5)
        ]
    )


def test_table_iv_is_decided_set_by_set():
    better, worse = judge({"07_fmmnet": table_iv(62.0, 63.0)}), judge({"07_fmmnet": table_iv(50.0, 63.0)})
    assert (better["M55"][0], better["M56"][0], better["M59"][0]) == ("supported", "not tested", "undecided")
    assert (worse["M55"][0], worse["M59"][0], worse["M65"][0]) == ("contradicted", "contradicted", "contradicted")
    assert better["M62"][0] == "contradicted"  # as made: J grows with the accuracy


def test_a_diverged_run_is_compared_by_ranks():
    assert judge({"07_fmmnet": table_iv(62.0, 63.0, diverged=True)})["M55"][1].note == "ranks: a run diverged"
