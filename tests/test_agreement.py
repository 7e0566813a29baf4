"""Agreement of channel scorings: scipy row by row, odd inputs, and what a null must keep."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from fmm_nb import agreement
from fmm_nb.agreement import (
    agreement_matrix,
    agreement_parts,
    channel_means,
    cosine,
    cosine_null,
    deviations,
    gate_agreement,
    kendall_tau,
    mean_agreement,
    permutation_null,
    permutation_p,
)
from fmm_nb.errors import InputError
from fmm_nb.gates import unit
from fmm_nb.saliency import attention_weights, channel_importance
from fmm_nb.vision import prepare_torchvision


def by_rows(statistic, a, b):
    "scipy's statistic, one row at a time."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array([statistic(x, y).statistic for x, y in zip(a, b)])


def two(samples, channels, seed=0, ties=True):
    "Two related scorings, with ties in both and dead channels in the second."
    chance = np.random.default_rng(seed)
    a = chance.normal(size=(samples, channels))
    b = a + chance.normal(size=a.shape)
    return (np.round(a, 1), np.maximum(b, 0)) if ties else (a, b)


@pytest.mark.parametrize("channels", [2, 3, 32, 64, 127, 128, 129, 255, 256, 257, 400])
def test_tau_is_scipys_for_any_number_of_channels(channels):
    "At 128 and 256 a signed and an unsigned byte end."
    for ties in (True, False):
        a, b = two(8, channels, channels, ties)
        b[0] = -a[0]  # every pair discordant: the largest counts
        np.testing.assert_array_equal(kendall_tau(a, b), by_rows(stats.kendalltau, a, b))


def test_tau_of_very_many_channels_is_the_same_on_both_ways(monkeypatch):
    a, b = two(4, 600)
    a[1, 3], b[2] = np.nan, 0
    pairwise = kendall_tau(a, b)
    monkeypatch.setattr(agreement, "PAIRWISE", 100)
    monkeypatch.setattr(agreement, "_tau", None)  # must not be called
    np.testing.assert_array_equal(kendall_tau(a, b), pairwise)
    assert list(np.isnan(pairwise)) == [False, True, True, False]


@pytest.mark.filterwarnings("ignore")
def test_tau_is_that_of_torchmetrics():
    prepare_torchvision()
    from torchmetrics.functional import kendall_rank_corrcoef

    a, b = (torch.from_numpy(scores) for scores in two(20, 16))
    # it correlates columns
    torch.testing.assert_close(
        kendall_tau(a, b), kendall_rank_corrcoef(a.T, b.T, variant="b").double(), rtol=1e-5, atol=1e-6
    )


values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-320, 1e308, np.inf, -np.inf, np.nan])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7).flatmap(lambda c: st.tuples(*[arrays(float, (5, c), elements=values)] * 2)))
def test_tau_is_scipys_with_ties_infinities_and_nan(pair):
    np.testing.assert_array_equal(kendall_tau(*pair), by_rows(stats.kendalltau, *pair))


def test_chunks_change_nothing(monkeypatch):
    a, b = two(50, 16)
    a[7] = np.nan
    whole, null = kendall_tau(a, b), permutation_null(a, b, permutations=7)
    for chunk in (1, 33, 16 * 49):
        monkeypatch.setattr(agreement, "CHUNK", chunk)
        np.testing.assert_array_equal(kendall_tau(a, b), whole)
        np.testing.assert_array_equal(permutation_null(a, b, permutations=7), null)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64, torch.uint8]
)
def test_tensors_give_tensors_and_each_dtype_its_own_ties(dtype):
    a, b = (torch.from_numpy(x) for x in two(20, 32, ties=False))
    a = (a * 10).abs().to(dtype) if not dtype.is_floating_point else a.to(dtype)
    tau = kendall_tau(a.requires_grad_() if dtype.is_floating_point else a, b)
    assert tau.dtype == torch.float64 and not tau.requires_grad and tau.shape == (20,)
    plain = a.detach().double().numpy()
    np.testing.assert_array_equal(tau.numpy(), by_rows(stats.kendalltau, plain, b.numpy()))
    np.testing.assert_allclose(cosine(a, b, center=True).numpy(), by_rows(stats.pearsonr, plain, b.numpy()), atol=1e-12)
    assert isinstance(cosine(a, b.numpy()), torch.Tensor) and isinstance(cosine(plain, b.numpy()), np.ndarray)
    assert all(isinstance(x, torch.Tensor) for x in (*cosine_null(a, b), channel_means(b), deviations(b)))


def test_large_integers_and_booleans_are_not_rounded():
    a = 2**60 + np.array([[0, 1, 2, 3]])
    assert kendall_tau(a, a[:, ::-1])[0] == -1
    on = np.array([[True, False, True]])
    assert kendall_tau(on, np.array([[2, 1, 3]]))[0] == by_rows(stats.kendalltau, on.astype(int), [[2, 1, 3]])[0]


def test_memory_order_does_not_matter_and_nothing_is_written():
    a, b = two(40, 32)
    want, kept = kendall_tau(a, b), (a.copy(), b.copy())
    for turned in (np.asfortranarray(a), np.repeat(a, 2, axis=1)[:, ::2], a[::-1][::-1]):
        np.testing.assert_array_equal(kendall_tau(turned, b), want)
        np.testing.assert_array_equal(cosine(turned, b), cosine(a, b))
    a.flags.writeable = b.flags.writeable = False
    agreement_parts(a, b), permutation_null(a, b, permutations=2), cosine_null(a, b)
    np.testing.assert_array_equal((a, b), kept)


def test_nothing_to_compare_is_nan_and_silent():
    one, none, empty = np.ones((3, 1)), np.ones((3, 0)), np.ones((0, 4))
    for few in (one, none):
        assert np.isnan(kendall_tau(few, few)).all() and np.isnan(cosine(few, few, center=True)).all()
    assert (cosine(one, -one) == -1).all() and np.isnan(cosine(none, none)).all()
    for statistic in (kendall_tau, cosine):
        assert statistic(empty, empty).shape == (0,) and statistic(empty, empty).dtype == np.float64
    assert np.isnan(mean_agreement(empty, empty)) and np.isnan(permutation_null(empty, empty, permutations=2)).all()
    assert np.isnan(cosine(np.zeros((1, 3)), np.ones((1, 3)))).all()
    assert np.isnan(agreement_parts(one, one)["static"]) and channel_means(empty).shape == (1, 4)
    np.testing.assert_array_equal(cosine_null(one, one), [[1] * 3, [0] * 3])


def test_a_constant_is_constant_whatever_its_mean_is_rounded_to():
    a = np.full((1, 10), 0.1)
    b = two(1, 10)[0]
    assert (
        np.isnan(cosine(a, b, center=True)).all() and np.isnan(cosine(a.astype(np.float32) * 3, b, center=True)).all()
    )
    rows = np.tile(np.random.default_rng(0).random(16), (999, 1))
    assert (rows - rows.mean(0)).any() and not deviations(rows).any()


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1, 1e170, 1e300])
def test_cosine_stands_any_scale(scale):
    a, b = two(6, 12)
    for center in (False, True):
        np.testing.assert_allclose(cosine(a * scale, b * scale, center), cosine(a, b, center), rtol=1e-10)
    np.testing.assert_allclose(cosine_null(a * scale, b), cosine_null(a, b), rtol=1e-10)


def test_cosine_is_nan_only_where_its_own_row_is_bad():
    a, b = two(5, 8)
    good = cosine(a, b)
    a[1, 2], b[3, 0] = np.nan, np.inf
    np.testing.assert_array_equal(np.isnan(cosine(a, b)), [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(cosine(a, b)[[0, 2, 4]], good[[0, 2, 4]])


@pytest.mark.parametrize("seed", range(3))
def test_the_cosine_null_is_what_permutations_give(seed):
    a, b = np.random.default_rng(seed).exponential(size=(2, 1, 24))
    mean, deviation = cosine_null(a, b)
    null = permutation_null(a, b, cosine, permutations=4000, seed=seed)
    assert abs(null.mean() - mean[0]) < 4 * deviation[0] / 4000**0.5
    assert null.std() == pytest.approx(deviation[0], rel=0.06)


def test_the_permutation_is_shared_by_all_samples_and_moves_only_b():
    a = np.tile(np.arange(12.0), (30, 1))
    kept = []

    def watched(first, second):
        kept.append((first, second))
        return kendall_tau(first, second)

    null = permutation_null(a, a * 2, watched, permutations=50, seed=3)
    firsts, seconds = (np.concatenate(x).reshape(50, 30, 12) for x in zip(*kept))
    assert (firsts == a).all() and (seconds == seconds[:, :1]).all()
    assert (np.sort(seconds) == a * 2).all() and len(np.unique(seconds[:, 0], axis=0)) == 50
    assert null.std() == pytest.approx((2 * 29 / (9 * 12 * 11)) ** 0.5, rel=0.3)  # that of a single sample
    np.testing.assert_array_equal(null, permutation_null(a, a * 2, permutations=50, seed=3))
    assert (null != permutation_null(a, a * 2, permutations=50, seed=4)).any()


def test_a_null_leaves_the_global_generators_alone():
    a, b = two(5, 8)
    torch.manual_seed(1), np.random.seed(1)
    want = torch.rand(1), np.random.rand()
    torch.manual_seed(1), np.random.seed(1)
    permutation_null(a, b, permutations=5)
    assert (torch.rand(1), np.random.rand()) == want


def test_samples_without_a_score_are_left_out_of_the_mean():
    a, b = two(6, 16)
    rest = mean_agreement(a[1:], b[1:]), permutation_null(a[1:], b[1:], permutations=9)
    a[0] = 0.5
    assert mean_agreement(a, b) == pytest.approx(rest[0])
    np.testing.assert_allclose(permutation_null(a, b, permutations=9), rest[1])


def test_p_counts_the_score_itself_and_both_sides():
    null = np.arange(1, 100)
    assert permutation_p(1000, null) == permutation_p(-1000, null) == 2 / 100
    assert permutation_p(98.5, null) == permutation_p(1.5, null) == 4 / 100
    assert permutation_p(50, null) == 1 and permutation_p(99, null) == 4 / 100  # a tie counts against
    assert np.isnan(permutation_p(np.nan, null)) and np.isnan(permutation_p(1, [np.nan, 0.0]))


def test_parts_are_those_of_means_and_deviations():
    a, b = two(25, 12, ties=False)
    parts = agreement_parts(torch.from_numpy(a), b, lambda x, y: cosine(x, y, center=True))
    assert parts["static"] == pytest.approx(np.corrcoef(a.mean(0), b.mean(0))[0, 1])
    own = by_rows(stats.pearsonr, a - a.mean(0), b - b.mean(0))
    assert parts["specific"] == pytest.approx(own.mean()) and parts["whole"] == pytest.approx(
        by_rows(stats.pearsonr, a, b).mean()
    )
    np.testing.assert_allclose(channel_means(a) + deviations(a), a, atol=1e-14)


def test_a_matrix_has_a_row_a_scoring_and_a_column_one_of_the_others():
    a, b = two(9, 8)
    found = agreement_matrix({"a": a, "c": torch.from_numpy(-a)}, {0: b, 1: a, 2: np.ones_like(a)})
    assert list(found.index) == ["a", "c"] and list(found.columns) == [0, 1, 2]
    assert found.loc["c", 0] == -mean_agreement(a, b) and found.loc["c", 1] == -1 and np.isnan(found.loc["a", 2])
    assert agreement_matrix({}).empty
    with pytest.raises(InputError, match=r"got \[9, 4\] for 'short' and \[9, 8\] for 'a'"):
        agreement_matrix({"a": a}, {"short": b[:, :4]})


@pytest.mark.parametrize(
    "function", [kendall_tau, cosine, cosine_null, permutation_null, agreement_parts, mean_agreement]
)
def test_errors_say_what_was_given(function):
    a, b = two(4, 8)
    with pytest.raises(InputError, match=r"got \[N, C\] = \[4, 8\] and \[1, 8\]"):
        function(a, b[:1])  # would broadcast
    with pytest.raises(InputError, match=r"shape \[N, C\], samples and channels, got float64 \[8\]"):
        function(a[0], b[0])
    with pytest.raises(InputError, match="real numbers .* got complex128"):
        function(a + 0j, b)
    with pytest.raises(InputError, match="real numbers .* got object"):
        function([[None, 1.0]], [[1.0, 2.0]])


def test_errors_of_a_null():
    a, b = two(4, 8)
    with pytest.raises(InputError, match="permutations must be a whole number of at least 1, got 0"):
        permutation_null(a, b, permutations=0)
    with pytest.raises(InputError, match=r"one number a sample, \[4\], got \[\]; try kendall_tau or cosine"):
        mean_agreement(a, b, lambda x, y: kendall_tau(x, y).mean())


def test_a_gate_that_is_the_same_for_all_channels_ranks_none():
    torch.manual_seed(0)
    rest = lambda gate: torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), gate, torch.nn.Flatten(), torch.nn.Linear(8 * 36, 10)
    )
    net, x = rest(unit("cbam", 8)), torch.rand(4, 1, 8, 8)
    found = gate_agreement(net, x)
    assert (
        np.isfinite(found["tau"])
        and found["tau"] == kendall_tau(attention_weights(net, x)["1.0"], channel_importance(net, x)["1.0"]).nanmean()
    )
    assert np.isnan(gate_agreement(rest(net[1][1]), x)["tau"])
