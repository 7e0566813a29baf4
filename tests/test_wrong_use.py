"""Whatever is given: the right answer, or our error in one line. Never another exception."""
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmm_nb import statistics
from fmm_nb.cli import main
from fmm_nb.errors import InputError
from fmm_nb.results import append_rows, packed, read_rows, unpacked
from fmm_nb.specs import Protocol, Spec, from_dict, to_dict

LETTERS = "am03_-[]:é中\n\0 '/."
few = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
anything = st.one_of(st.none(), st.booleans(), st.integers(-3, 400), st.integers(), st.floats(), st.text(LETTERS, max_size=5), st.just([]), st.just(()), st.lists(st.floats(), max_size=2))
numbers = st.lists(st.floats(width=32) | st.sampled_from([0.0, 1.0, float("nan"), float("inf"), 1e308, -1e308]), max_size=6)


def answer(call):
    "What a call gives, or None where it refuses in one line."
    try:
        return call()
    except InputError as error:
        assert str(error) and "\n" not in str(error)


@few
@given(st.dictionaries(st.sampled_from([*Protocol.__dataclass_fields__]), anything, max_size=3))
def test_protocols(fields):
    protocol = answer(lambda: Protocol(**fields))
    if protocol is not None:
        assert from_dict(json.loads(json.dumps(to_dict(Spec("cnn", "mnist_mini", protocol))))) == Spec("cnn", "mnist_mini", protocol)


@few
@given(st.sampled_from(["cnn", "am", "wrn16_4", "", "cn", "wrn16_", "resnet_b0_atac"]) | st.text(LETTERS, max_size=8), st.sampled_from(["mnist_mini", "mnits", "cifar10[9]"]) | anything, anything, anything)
def test_specs(model, data, seed, n_train):
    spec = answer(lambda: Spec(model, data, Protocol(), seed, n_train))
    assert spec is None or (spec.seed >= 0 and (spec.n_train is None or spec.n_train > 0))


@few
@given(numbers, numbers, st.booleans())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_effects(a, b, paired):
    found = answer(lambda: statistics.effect(a, b, paired=paired))
    if found is not None and math.isfinite(found.low + found.high):
        assert found.low <= found.difference <= found.high and 0 <= found.p <= 1


@few
@given(st.lists(st.floats(0, 1), max_size=6))
def test_holm(ps):
    found = answer(lambda: statistics.holm(ps))
    assert found is None or all(0 <= p <= q <= 1 for p, q in zip(ps, found))


@few
@given(st.lists(st.booleans(), max_size=40))
def test_bits(bits):
    assert unpacked(packed(np.array(bits, bool))).tolist() == bits


@few
@given(st.lists(st.floats(), min_size=1, max_size=4), st.text(LETTERS, min_size=1, max_size=5))
def test_rows_come_back_bit_for_bit(tmp_path_factory, values, name):
    path = tmp_path_factory.mktemp("rows") / "table.csv"
    new = pd.DataFrame([{"key": f"{i:016x}", "measure_version": 1, "model": "am", "data": "mnist", "seed": i, "precision": "float32", "value": value} for i, value in enumerate(values)])
    append_rows(path, new)
    assert np.array_equal(read_rows(path).value.to_numpy(float), np.array(values), equal_nan=True)


@few
@given(st.sampled_from(["list", "why", "claims", "data check", "run --dry-run", "run --scale", "why --scale"]), st.text(LETTERS, max_size=6))
def test_the_command_line(capsys, command, word):
    try:
        code = main([*command.split(), word])
    except SystemExit as stop:  # the parser's own, which shows the usage
        code = stop.code
    said = capsys.readouterr().err
    assert code in (0, 2) and "Traceback" not in said
