"The GPU's first layer on a CPU: Triton interprets its kernels and compiles them for a GPU without one."

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", "3.7", reason="Triton is there for Linux alone; older ones interpret otherwise")

CASES = [
    ((images, inputs, side, side), channels, relu, half)
    for images, inputs, side in ((3, 1, 28), (2, 3, 10))
    for channels in (5, 33)
    for relu in (True, False)
    for half in (False, True)
]

INTERPRETED = """
import json, sys, torch, triton.language as tl
from torch.nn import functional as F
from triton.runtime.interpreter import InterpreterBuilder

dot = InterpreterBuilder.create_dot  # it takes the bits of bfloat16 for whole numbers
as_float32 = lambda self, one: self.cast_impl(one, tl.float32) if one.dtype.scalar == tl.bfloat16 else one
InterpreterBuilder.create_dot = lambda self, a, b, *rest: dot(self, as_float32(self, a), as_float32(self, b), *rest)

from fmm_nb.first_layer import distances, first_layer

def library(x, weight, bias, relu):
    y = F.conv2d(x, weight, bias, padding=1)
    y = y.relu() if relu else y
    return F.max_pool2d(y, 2), y.mean((2, 3))

def differ(images, channels, relu, half):
    # whole numbers need no rounding, and many of them are equal
    "How many of pooled maps, means and gradients are not the library's, bit for bit."
    whole = lambda most, *size: torch.randint(-most, most + 1, size).float()
    n, inputs, side, _ = images
    x, weight, bias = whole(2, *images), whole(1, channels, inputs, 3, 3), whole(1, channels)
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    ours, theirs = first_layer(x, *parameters, relu, half), library(x, *parameters, relu)
    flow = whole(3, n, channels, side // 2, side // 2), side**2 * whole(3, n, channels)
    pull = lambda ends: torch.autograd.grad(ends, parameters, [one.to(end.dtype) for one, end in zip(flow, ends)])
    pairs = zip((*ours, *pull(ours)), (*theirs, *pull(theirs)), strict=True)
    return sum(not torch.equal(one.float(), other) for one, other in pairs)

for relu in (True, False):
    weight, bias = torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    torch.library.opcheck(first_layer, (torch.randn(2, 3, 8, 8), weight, bias, relu, False))
far = lambda *case: [values.tolist() for values in distances(*case, device="cpu")]
print(json.dumps([[differ(*case), *far(*case)] for case in json.loads(sys.argv[1])]))
"""

COMPILED = """
import json, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fmm_nb import first_layer

def shared(kernel, numbers, half, **fixed):
    "Bytes of a block's shared memory."
    named = [name for name in kernel.arg_names if name not in (*numbers, *fixed)]
    pointers = {name: "*bf16" if name == "pooled" and half else "*fp32" for name in named}
    source = ASTSource(kernel, pointers | dict.fromkeys(numbers, "i32") | dict.fromkeys(fixed, "constexpr"), fixed)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).metadata.shared

found = []
for taps, side in ((9, 28), (27, 32)):
    for wide in (32, 64):
        for half in (False, True):
            fixed = {"SIDE": side, "RELU": True} | first_layer.tiles(taps, wide)
            found.append(shared(first_layer._forward, ["channels"], half, **fixed))
            found.append(shared(first_layer._backward, ["images", "channels"], half, **fixed))
print(json.dumps(found))
"""


def said(script, *given, **environment):
    "What a script prints, in a process of its own: Triton decides when it is imported whether it interprets."
    done = subprocess.run(
        [sys.executable, "-c", script, *given], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_interpreted_kernels_are_convolution_activation_mean_and_pooling():
    for case, (wrong, ours, library) in zip(
        CASES, said(INTERPRETED, json.dumps(CASES), TRITON_INTERPRET="1"), strict=True
    ):
        assert not wrong, case
        # the interpreter cuts bfloat16 off where a GPU rounds
        assert case[-1] or all(one < 1.5 * other + 1e-5 for one, other in zip(ours, library)), (case, ours, library)


def test_kernels_compile_for_hopper_and_fit_there():
    found = said(COMPILED)
    assert len(found) == 16 and max(found) <= 227 * 1024  # what a block may have
