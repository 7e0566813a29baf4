"""Measures in the hands of others: nets that are compiled, threads, torch.inference_mode, one image at a time. The
numbers are the same."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from threading import Barrier

import pytest
import torch
from torch import nn

from fmm_nb.diagnostics import signals
from fmm_nb.evaluation import evaluation
from fmm_nb.fullgrad import decomposed, fullgrad_terms
from fmm_nb.gates import read_gates, unit
from fmm_nb.models import count_macs
from fmm_nb.saliency import FullGrad, SmoothFullGrad, attention_weights, channel_importance, channels_removed
from fmm_nb.sensitivity import jacobian_norm, output_sensitivity
from fmm_nb.trajectories import curves, transitions


def removed(net, x):
    "The outputs of a net without the first channel of its last gate."
    (*_, name) = attention_weights(net, x)
    with channels_removed(net, {name: torch.arange(8)[None] == 0}), torch.no_grad():
        return net(x)


MEASURES = {
    "terms": lambda net, x: [getattr(fullgrad_terms(net, x), part) for part in ("output", "input", "bias", "gate")],
    "of a class": lambda net, x: [fullgrad_terms(net, x, target=torch.tensor([1, 2])).input],
    "map": lambda net, x: [FullGrad(net).attribute(x)],
    "smooth map": lambda net, x: [SmoothFullGrad(net).attribute(x, samples=2)],
    "gates": lambda net, x: read_gates(net, x).values(),
    "weights": lambda net, x: attention_weights(net, x).values(),
    **{
        method: lambda net, x, method=method: channel_importance(net, x, method).values()
        for method in ("gate_grad", "smooth_gxa_in", "bias_grad", "ablation", "conductance")
    },
    "jacobian": lambda net, x: [jacobian_norm(net, x)],
    "spread": lambda net, x: [torch.tensor(output_sensitivity(net, x))],
    "curves": lambda net, x: [curves(net, x)],
    "transitions": lambda net, x: [torch.tensor([*transitions(net, x).values()])],
    "without a channel": lambda net, x: [removed(net, x)],
    "products": lambda net, x: [torch.tensor(count_macs(net, (3, 8, 8)))],
    "signals": lambda net, x: [torch.tensor(signals(net, x, torch.tensor([0, 1])).iloc[:, 2:].to_numpy())],
}


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        unit("se", 8),
        nn.Flatten(),
        nn.Linear(128, 4),
    )
    return net.double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)


def same(found, expected):
    found, expected = [*found], [*expected]
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other)


def wrapped(net):
    return torch.compile(net, backend="aot_eager")


def within(net):
    net[5].compile(backend="aot_eager")
    return net


@pytest.mark.parametrize("compiled", [wrapped, within])
@pytest.mark.parametrize("measure", MEASURES)
def test_a_compiled_net_is_measured_as_it_was_written(case, measure, compiled):
    net, x = case
    of = compiled(deepcopy(net))
    with torch.no_grad():
        before = of(x)
    same(MEASURES[measure](of, x), MEASURES[measure](net, x))
    with torch.no_grad():
        assert torch.equal(of(x), before)


def calls_compiled(net, x):
    "Whether a compiled net runs as it was compiled."
    calls = []
    of = torch.compile(net, backend=lambda graph, inputs: calls.append(1) or graph.forward)
    of(x)
    return bool(calls)


def test_measures_in_several_threads_leave_the_compiler_as_it_was(case):
    net, x = case
    first, second = Barrier(2), Barrier(2)

    def overlapping(begins_first):
        with evaluation(deepcopy(net)):
            first.wait()  # both are within
            if begins_first:
                return
            second.wait()  # the other has left, and we are still within

    torch.compile(nn.ReLU(), backend="eager")(x)  # the compiler is there
    with ThreadPoolExecutor(2) as pool:
        early, late = pool.submit(overlapping, True), pool.submit(overlapping, False)
        early.result(10)
        second.wait(10)
        late.result(10)
    torch._dynamo.reset()
    assert calls_compiled(nn.Linear(8, 2).double(), x)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at it
def test_a_compiled_function_may_measure(case):
    net, x = case

    def step(images):
        return net(images).sum() + sum(value.sum() for value in attention_weights(net, images).values())

    torch.testing.assert_close(torch.compile(step, backend="eager")(x), step(x))


def test_measures_leave_warnings_that_were_given_once_alone(case):
    net, x = case
    code = compile("warnings.warn('once a place')", "place.py", "exec")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            exec(code, globals())
            attention_weights(net, x)
    assert len(said) == 1


@pytest.mark.parametrize("measure", MEASURES)
def test_inference_mode_changes_nothing(case, measure):
    net, x = case
    with torch.inference_mode():
        found = [*MEASURES[measure](net, x.clone())]
    same(found, MEASURES[measure](net, x))
    same(MEASURES[measure](net, inference(x)), MEASURES[measure](net, x))


@torch.inference_mode()
def inference(x):
    return x.clone()


class Tokens(nn.Module):
    "What a normalisation gives, taken place by place as transformers do; or a map of such places, normalised."

    def __init__(self, norm, last):
        super().__init__()
        self.stem, self.norm, self.head, self.last = nn.Conv2d(3, 8, 3), norm, nn.Linear(8, 4), last

    def forward(self, x):
        x = self.stem(x)
        if self.last:
            x = self.norm(x).flatten(2).transpose(1, 2).tanh()
        else:
            x = (
                self.norm(x.flatten(2).transpose(1, 2).tanh().transpose(1, 2).unflatten(2, (6, 6)))
                .flatten(2)
                .transpose(1, 2)
            )
        return self.head(x.square()).mean(1)


def stirred(norm):
    "A normalisation whose running statistics are not those of a new one."
    if isinstance(norm, nn.BatchNorm2d):
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    return norm


def slopes(net, x):
    "How the first logit moves along some directions, by finite differences."
    steps = 1e-5 * torch.randn(3, *x.shape, dtype=x.dtype)
    with torch.no_grad():
        return steps, torch.stack([(net(x + step) - net(x - step))[0, 0] / 2 for step in steps])


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("norm", [lambda: stirred(nn.BatchNorm2d(8)), lambda: nn.InstanceNorm2d(8, affine=True)])
def test_gradients_of_one_image_are_those_of_the_net(norm, last):
    torch.manual_seed(0)
    net, x = Tokens(norm(), last).double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    *_, gradient, _ = decomposed(net, x[:1], 0, "full")
    steps, expected = slopes(net, x[:1])
    torch.testing.assert_close((steps * gradient).flatten(1).sum(1), expected, rtol=1e-6, atol=1e-12)
    terms = fullgrad_terms(net, x[:1], 0)
    assert terms.residual.abs() < 1e-12 * max(term.abs() for term in (terms.output, terms.input, *terms.terms.values()))
    torch.testing.assert_close(jacobian_norm(net, x[:1]), jacobian_norm(net, x)[:1])
    torch.testing.assert_close(jacobian_norm(net, x, batch_size=1), jacobian_norm(net, x))


class Narrow(nn.Module):
    "Maps of one column, normalised and taken row by row."

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, (3, 8))
        self.norm = stirred(nn.BatchNorm2d(8))
        self.gate = unit("se", 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.norm(self.gate(self.stem(x))).squeeze(-1).transpose(1, 2)).square().mean(1)


@pytest.mark.parametrize("named", [False, True])
def test_gradients_of_narrow_maps_are_those_of_the_net(named, monkeypatch):
    torch.manual_seed(0)
    net, x = Narrow().double().eval(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    if named:  # arguments, as some write them
        plain = nn.functional.batch_norm
        monkeypatch.setattr(
            net.norm,
            "forward",
            lambda maps: plain(
                input=maps,
                running_mean=net.norm.running_mean,
                running_var=net.norm.running_var,
                weight=net.norm.weight,
                bias=net.norm.bias,
            ),
        )
    expected = torch.func.vmap(torch.func.jacfwd(lambda one: net(one[None])[0]))(x)
    torch.testing.assert_close(jacobian_norm(net, x), expected.flatten(1).norm(dim=1))
    together, alone = (channel_importance(net, part, "gate_grad")["gate"] for part in (x, x[1:2]))
    torch.testing.assert_close(together[1:2], alone)
