"""Our statistics against those of well-kept libraries, where they have them."""
import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower, TTestPower
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from fmm_nb.errors import InputError
from fmm_nb.statistics import contrast, detectable, effect, equivalent, holm, image_variance, interaction, power, rank_test, share_interval


@pytest.fixture(params=range(20))
def arms(request):
    chance = np.random.default_rng(request.param)
    return chance.normal(0.3, 1, chance.integers(3, 9)), chance.normal(0, 2, chance.integers(3, 9))


def test_the_difference_is_welchs(arms):
    theirs = stats.ttest_ind(*arms, equal_var=False)
    interval, ours = theirs.confidence_interval(), effect(*arms)
    assert (ours.p, ours.low, ours.high, ours.df) == pytest.approx((theirs.pvalue, interval.low, interval.high, theirs.df), rel=1e-9)


def test_equivalence_is_two_one_sided_tests(arms):
    a, b = arms
    assert equivalent(a, b, 0.8) == pytest.approx(ttost_ind(a, b, -0.8, 0.8, usevar="unequal")[0], rel=1e-9)
    n = min(len(a), len(b))
    assert equivalent(a[:n], b[:n], 0.8, paired=True) == pytest.approx(ttost_paired(a[:n], b[:n], -0.8, 0.8)[0], rel=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_holm(seed):
    chance = np.random.default_rng(seed)
    p = chance.choice([0, 0.001, 0.01, 0.02, 0.04, 0.05, 0.3, 1], chance.integers(1, 12))
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_power_is_that_of_a_t_test(n):
    "One-sided at half the level: we count only what is found on the right side."
    error, df = np.sqrt(2 / n), 2 * n - 2
    for difference in (0.5, 1.0, 2.0):
        theirs = TTestIndPower().power(difference, n, 0.025, alternative="larger")
        assert power(difference, error, df) == pytest.approx(theirs, abs=1e-6)
    theirs = TTestIndPower().solve_power(nobs1=n, alpha=0.025, power=0.8, alternative="larger")
    assert detectable(error, df) == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_power_of_paired_runs(n):
    assert power(1.0, 1 / np.sqrt(n), n - 1) == pytest.approx(TTestPower().power(1.0, n, 0.025, alternative="larger"), abs=1e-6)


def test_an_interaction_covers_the_truth_as_often_as_promised():
    chance, hits = np.random.default_rng(0), 0
    for _ in range(4000):
        a, b, c, d = (chance.normal(mean, spread, 5) for mean, spread in [(2, 1), (1, 2), (0.5, 1), (0, 0.5)])
        found = interaction(a, b, c, d)
        hits += found.low <= 0.5 <= found.high
    assert 0.94 <= hits / 4000 <= 0.965


def simulated_study(chance, spread, seeds=5, images=400):
    "Two arms that are equally good, and differ by `spread` from image to image; a fresh test set each time."
    easy, lean = chance.beta(8, 1, images), chance.normal(0, spread, images)
    return [np.stack([chance.random(images) < np.clip(easy + sign * lean / 2, 0, 1) for _ in range(seeds)]) for sign in (1, -1)]


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_both_chances_together_keep_the_promise(spread):
    "Seeds and test images: neither is left out, and the seeds are not counted twice."
    chance, both, seeds_alone = np.random.default_rng(0), 0, 0
    for _ in range(1000):
        a, b = simulated_study(chance, spread)
        together = effect(a.mean(1), b.mean(1), extra=image_variance([a, b], [1, -1]))
        both += together.p < 0.05
        seeds_alone += effect(a.mean(1), b.mean(1)).p < 0.05
    assert 0.025 <= both / 1000 <= 0.065
    assert spread == 0 or seeds_alone / 1000 > 0.08


@pytest.mark.parametrize("seed", range(10))
def test_ranks_without_ties_are_mann_and_whitneys(seed):
    chance = np.random.default_rng(seed)
    a, b = chance.normal(0.5, 1, 6), chance.normal(0, 1, 4)
    assert rank_test(a, b) == pytest.approx(stats.mannwhitneyu(a, b, method="exact").pvalue)


def test_ranks_with_ties_are_an_exact_permutation_test():
    a, b = [1, 2, 2, 3, 9], [0, 1, 2, 2, 2]
    sums = lambda x, y, axis: stats.rankdata(np.concatenate([x, y], axis), axis=axis)[..., : x.shape[axis]].sum(axis)
    theirs = stats.permutation_test((np.array(a), np.array(b)), sums, vectorized=True, n_resamples=np.inf)
    assert rank_test(a, b) == pytest.approx(theirs.pvalue)


def test_a_share_has_its_exact_interval():
    assert share_interval(3, 10)[1:] == pytest.approx(stats.binomtest(3, 10).proportion_ci(method="exact"))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: effect([1.0], [1.0, 2.0]), "at least 2 finite values"),
        (lambda: effect([1.0, np.nan], [1.0, 2.0]), "at least 2 finite values"),
        (lambda: effect([1, 2, 3], [1, 2], paired=True), "as many seeds each"),
        (lambda: effect([1, 2], [1, 2], confidence=95), "between 0 and 1"),
        (lambda: equivalent([1, 2], [1, 2], -0.1), "positive margin"),
        (lambda: contrast([[1, 2], [3]], [1, -1]), "at least 2 finite values"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
