"""Our statistics against those of well-kept libraries, where they have them."""

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.api import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower, TTestPower
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from fmm_nb.errors import InputError
from fmm_nb.statistics import (
    contrast,
    correlations,
    detectable,
    effect,
    equivalent,
    holm,
    image_variance,
    interaction,
    mean_interval,
    mediation,
    power,
    rank_correlation,
    rank_test,
    share_interval,
)


@pytest.fixture(params=range(20))
def arms(request):
    chance = np.random.default_rng(request.param)
    return chance.normal(0.3, 1, chance.integers(3, 9)), chance.normal(0, 2, chance.integers(3, 9))


def test_the_difference_is_welchs(arms):
    theirs = stats.ttest_ind(*arms, equal_var=False)
    interval, ours = theirs.confidence_interval(), effect(*arms)
    assert (ours.p, ours.low, ours.high, ours.df) == pytest.approx(
        (theirs.pvalue, interval.low, interval.high, theirs.df), rel=1e-9
    )


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.999])
def test_intervals_have_the_confidence_that_is_asked_for(arms, confidence):
    a, b = arms
    assert mean_interval(a, confidence) == pytest.approx(
        (a.mean(), *stats.t.interval(confidence, len(a) - 1, a.mean(), stats.sem(a)))
    )
    theirs, n = stats.ttest_ind(a, b, equal_var=False).confidence_interval(confidence), min(len(a), len(b))
    assert [
        (found.low, found.high)
        for found in (effect(a, b, confidence=confidence), contrast([a, b], [1, -1], confidence))
    ] == [pytest.approx(tuple(theirs))] * 2
    theirs = stats.ttest_rel(a[:n], b[:n]).confidence_interval(confidence)
    ours = effect(a[:n], b[:n], paired=True, confidence=confidence)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs))
    assert interaction(a, b, b, a, confidence).high == pytest.approx(
        contrast([a, b, b, a], [1, -1, -1, 1], confidence).high
    )
    assert share_interval(3, 10, confidence)[1:] == pytest.approx(
        stats.binomtest(3, 10).proportion_ci(confidence, method="exact")
    )


def test_one_sided_questions_are_t_tests_against_a_bound(arms):
    a, b = arms
    found = effect(a, b)
    one = lambda bound, side: stats.ttest_ind(a - bound, b, equal_var=False, alternative=side).pvalue
    assert (found.p_above(0.4), found.p_below(0.4)) == pytest.approx((one(0.4, "greater"), one(0.4, "less")), rel=1e-9)
    assert found.p_within(0.4) == pytest.approx(max(one(-0.4, "greater"), one(0.4, "less")), rel=1e-9)
    beyond = (
        one(0.4, "greater") + one(-0.4, "greater") if found.difference > 0 else one(-0.4, "less") + one(0.4, "less")
    )
    assert found.p_beyond(0.4) == pytest.approx(min(1, beyond), rel=1e-9) and found.p_beyond(0.0) == pytest.approx(
        found.p
    )
    assert found.p_within(0.0) == found.p_within(-1.0) == 1.0


def test_arms_without_scatter_are_above_or_below_or_equal():
    "Three values of 99.3 have no scatter, though their mean is rounded; a hundred-millionth is one."
    apart, same = effect([1.0, 1.0], [0.5, 0.5]), effect([99.3] * 3, [99.3] * 4)
    assert (apart.difference, apart.low, apart.high, apart.error, apart.df) == (0.5, 0.5, 0.5, 0.0, 2.0)
    assert [apart.p_above(bound) for bound in (0.4, 0.5, 0.6)] == [0.0, 1.0, 1.0]
    assert [apart.p_below(bound) for bound in (0.4, 0.5, 0.6)] == [1.0, 1.0, 0.0]
    assert effect([0.5, 0.5], [1.0, 1.0]).p == apart.p == 0.0
    assert (same.p, same.p_superior, same.df, effect([99.3] * 3, [99.1] * 3).error) == (1.0, 0.5, 5.0, 0.0)
    assert effect([1.0, 1.0 + 1e-8], [0.0, 0.0]).error == pytest.approx(0.5e-8)
    assert effect([1e-9, 3e-9], [1e-9, 1e-9]).error == pytest.approx(1e-9)


@pytest.mark.parametrize("value", [0.1, 97.92, -98.7, 1e-9])
def test_means_that_differ_by_their_rounding_alone_are_equal(value):
    for n, m in ((3, 5), (5, 6), (6, 10)):
        same = effect([value] * n, [value] * m)
        assert (same.difference, same.error, same.p) == (0.0, 0.0, 1.0)
    thirds = contrast([[0.3] * 6, [0.1] * 6, [0.2] * 6], [1, -1, -1])
    assert (thirds.difference, thirds.p) == (0.0, 1.0)


def test_a_further_variance_joins_with_its_degrees_of_freedom(arms):
    a, b = arms
    u, v, extra = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b), 0.3
    for found, parts in [
        (effect(a, b, extra=(extra, 50)), [(u, len(a) - 1), (v, len(b) - 1), (extra, 50)]),
        (contrast([a], [-2], extra=(extra, 50)), [(4 * u, len(a) - 1), (extra, 50)]),
    ]:
        assert found.error**2 == pytest.approx(sum(part for part, _ in parts))
        assert found.df == pytest.approx(found.error**4 / sum(part**2 / df for part, df in parts))
    assert np.isnan(contrast([a], [1]).p_superior) and contrast([a, b], [-2, 3]).difference == pytest.approx(
        3 * b.mean() - 2 * a.mean()
    )


def test_a_run_beats_another_as_often_as_mann_and_whitney_count():
    a, b = [1, 2, 2, 5], [0, 2, 3]
    assert effect(a, b).p_superior == pytest.approx(stats.mannwhitneyu(a, b).statistic / 12)


@pytest.mark.parametrize("seed", range(5))
def test_what_goes_through_a_mediator_is_that_of_a_linear_model(seed):
    """Slope and direct part by least squares; what is mediated by the delta method, its degrees of freedom by
    Satterthwaite's."""
    chance = np.random.default_rng(seed)
    first, second = chance.normal(1, 1, 4 + seed), chance.normal(0, 2, 6)
    a, b = 2 * first + chance.normal(0.5, 1, 4 + seed), 2 * second + chance.normal(0, 1, 6)
    found, m = mediation(a, b, first, second, confidence=0.9), np.concatenate([first, second])
    groups = np.repeat([[1, 0], [0, 1]], [4 + seed, 6], axis=0)
    model = OLS(np.concatenate([a, b]), np.column_stack([groups, m])).fit()
    direct = model.t_test([1, -1, 0])
    assert (found.slope.difference, found.slope.error, found.slope.df) == pytest.approx(
        (model.params[2], model.bse[2], model.df_resid)
    )
    assert (found.slope.low, found.slope.high) == pytest.approx(model.conf_int(0.1)[2])
    assert (found.direct.difference, found.direct.error, found.direct.p) == pytest.approx(
        (direct.effect[0], direct.sd[0, 0], float(direct.pvalue))
    )
    assert found.total == effect(a, b, confidence=0.9).__class__(
        **vars(effect(a, b, confidence=0.9)) | {"p_superior": found.total.p_superior}
    )
    parts = [
        ((first.mean() - second.mean()) * model.bse[2], model.df_resid),
        *((model.params[2] * stats.sem(values), len(values) - 1) for values in (first, second)),
    ]
    error = np.sqrt(sum(part**2 for part, _ in parts))
    assert (found.mediated.error, found.mediated.df) == pytest.approx(
        (error, error**4 / sum(part**4 / df for part, df in parts))
    )
    assert found.mediated.difference == pytest.approx(model.params[2] * (first.mean() - second.mean()))


def test_two_runs_an_arm_are_enough_for_a_mediator_that_varies():
    assert mediation([1.0, 2.0], [0.0, 0.5], [0.0, 1.0], [2.0, 2.0]).slope.difference == pytest.approx(1.0)
    for lengths in ([3, 2], [2, 3]):
        with pytest.raises(InputError, match="one number a run, got"):
            mediation([1.0, 2.0], [0.0, 0.5], range(lengths[0]), range(lengths[1]))


def test_rank_correlations_are_spearmans_and_leave_out_what_has_no_value():
    chance = np.random.default_rng(0)
    a, b, arms = chance.integers(0, 6, 24).astype(float), chance.normal(0, 1, 24), np.repeat(["x", "y", "z"], 8)
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    whole = correlations(np.append(a, [np.nan, 9]), np.append(b, [0, np.inf]), [*arms, "x", "y"])
    means = [[values[arms == arm].mean() for arm in "xyz"] for values in (a, b)]
    apart = [values - np.repeat(mean, 8) for values, mean in zip((a, b), means)]
    theirs = [stats.spearmanr(*pair).statistic for pair in ((a, b), means, apart)]
    assert list(whole.values()) == pytest.approx(theirs)


def test_equivalence_is_two_one_sided_tests(arms):
    a, b = arms
    assert equivalent(a, b, 0.8) == pytest.approx(ttost_ind(a, b, -0.8, 0.8, usevar="unequal")[0], rel=1e-9)
    n = min(len(a), len(b))
    assert equivalent(a[:n], b[:n], 0.8, paired=True) == pytest.approx(
        ttost_paired(a[:n], b[:n], -0.8, 0.8)[0], rel=1e-9
    )


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
    assert power(1.0, 1 / np.sqrt(n), n - 1) == pytest.approx(
        TTestPower().power(1.0, n, 0.025, alternative="larger"), abs=1e-6
    )


def test_a_level_and_a_power_of_ones_own():
    theirs = TTestIndPower().solve_power(nobs1=5, alpha=0.005, power=0.6, alternative="larger")
    assert detectable(np.sqrt(2 / 5), 8, wanted=0.6, alpha=0.01) == pytest.approx(theirs, rel=1e-5)
    assert power(-1.0, np.sqrt(2 / 5), 8) == power(1.0, np.sqrt(2 / 5), 8) < power(1.0, np.sqrt(2 / 5), 8, alpha=0.2)
    assert power(1e9, 1.0, 8) == pytest.approx(1.0)


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
    return [
        np.stack([chance.random(images) < np.clip(easy + sign * lean / 2, 0, 1) for _ in range(seeds)])
        for sign in (1, -1)
    ]


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


@pytest.mark.parametrize("seed", range(6))
def test_ranks_with_ties_are_as_far_apart_as_in_so_many_of_all_deals(seed):
    a = np.random.default_rng(seed).choice([0, 1, 2, 2, 3, 3, 9], 5)
    b = np.random.default_rng(100 + seed).choice([0, 1, 1, 2, 2, 3], 4)
    ranks = stats.rankdata([*a, *b])
    far = [abs(sum(deal) - 5 * ranks.mean()) for deal in itertools.combinations(ranks, 5)]
    assert rank_test(a, b) == pytest.approx(np.mean(np.array(far) >= far[0] - 1e-9))


def test_the_part_of_the_images_is_what_the_seeds_leave_of_their_scatter():
    chance = np.random.default_rng(0)
    easy = chance.beta(3, 1, 40)
    arms = [chance.random((seeds, 40)) < easy**power for seeds, power in ((3, 1), (1, 2), (2, 3))]
    weights = [1.0, 0.5, -1.5]
    shares = sum(w * arm.mean(0) for w, arm in zip(weights, arms))
    seeds = sum(
        w**2 * np.mean([arm[:, image].var(ddof=1) for image in range(40)]) / len(arm)
        for w, arm in zip(weights, arms)
        if len(arm) > 1
    )
    assert image_variance(arms, weights) == pytest.approx(((shares.var(ddof=1) - seeds) / 40, 39))
    noise = [np.array([[1, 0], [0, 1]]), np.array([[0, 1], [1, 0]])]
    assert image_variance(noise, [1, -1]) == (0.0, 1.0)  # never below none


def test_a_share_has_its_exact_interval():
    assert share_interval(3, 10) == pytest.approx((0.3, *stats.binomtest(3, 10).proportion_ci(method="exact")))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: effect([1.0], [1.0, 2.0]), "at least 2 finite values"),
        (lambda: effect([1.0, np.nan], [1.0, 2.0]), "at least 2 finite values"),
        (lambda: effect([1, 2, 3], [1, 2], paired=True), "as many seeds each"),
        *((lambda c=c: effect([1, 2], [1, 2], confidence=c), "between 0 and 1") for c in (95, 1, 0, -0.5, np.nan)),
        (lambda: equivalent([1, 2], [1, 2], -0.1), "positive margin"),
        (lambda: contrast([[1, 2], [3]], [1, -1]), "at least 2 finite values"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


TWO = [[0, 1], [1, 1]]  # decisions of two seeds on two images


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: effect(["a", "b"], [1, 2]), "numbers are needed, got \\['a', 'b'\\]"),
        (lambda: effect([[1, 2], [3, 4]], [1, 2]), "a needs at least 2 finite values"),
        (lambda: effect([1, 2], [[1], [2]]), "b needs at least 2 finite values"),
        (lambda: contrast([], []), "a weight for each arm, got 0 for 0"),
        (lambda: contrast([[1, 2], [3, 4]], [1]), "a weight for each arm, got 1 for 2"),
        (lambda: contrast([[1, 2]], [1, 1]), "a weight for each arm, got 2 for 1"),
        (lambda: rank_correlation([1, 2], [1, 2, 3]), "got 2 and 3"),
        (lambda: correlations([1, 2], [1, 2], ["a"]), "an arm a run, got \\[2\\], \\[2\\] and \\[1\\]"),
        (lambda: correlations([1, 2, 3], [1, 2], ["a"] * 3), "got \\[3\\], \\[2\\] and"),
        (lambda: correlations([[1, 2]], [[1, 2]], [["a", "b"]]), "got \\[1, 2\\]"),
        (lambda: holm([0.5, 1.01]), "between 0 and 1"),
        (lambda: holm([-0.01, 0.5]), "between 0 and 1"),
        (lambda: holm([[0.5, 0.5]]), "between 0 and 1"),
        (lambda: detectable(-1.0, 5), "no difference is found"),
        (lambda: detectable(1.0, 5, wanted=1.0), "no difference is found"),
        (lambda: detectable(1.0, 5, wanted=0.02), "no difference is found"),
        (lambda: detectable(1.0, 1, wanted=0.99), "no difference is found"),
        (lambda: detectable(float("nan"), 5), "no difference is found"),
        (lambda: share_interval(3, 2), "successes must be a whole number of at most 2"),
        (lambda: share_interval(-1, 2), "successes must be a whole number of at least 0"),
        (lambda: share_interval(0, 0), "trials must be a whole number of at least 1"),
        (lambda: share_interval(1, 2, "x"), "confidence must lie between 0 and 1"),
        (lambda: image_variance([], []), "a weight and decisions"),
        (lambda: image_variance([TWO], [1, 1]), "got 2 for"),
        (lambda: image_variance([TWO, TWO], [1]), "got 1 for"),
        (lambda: image_variance([TWO, [[0, 1, 1]]], [1, 1]), "on the same images"),
        (lambda: image_variance([[0, 1]], [1]), "on the same images"),
        (lambda: image_variance([[[0], [1]]], [1]), "at least two"),
        (lambda: image_variance([np.zeros((0, 2))], [1]), "on the same images"),
        (lambda: image_variance([[[0, float("nan")], [1, 1]]], [1]), "needs a weight and decisions"),
    ],
)
def test_what_cannot_be_asked_is_told(call, said):
    with pytest.raises(InputError, match=said) as told:
        call()
    assert "\n" not in str(told.value)


def test_the_least_that_can_be_asked_is_answered():
    assert (
        share_interval(0, 1)[0] == 0.0
        and share_interval(1, 1)[0] == 1.0
        and holm([0.0, 1.0]).tolist() == [0.0, 1.0]
        and holm([]).size == 0
    )
    assert (
        image_variance([TWO], [1])[1] == 1.0
        and image_variance([[[0, 1]]], [1])[1] == 1.0
        and contrast([[1, 2]], [1]).df == 1
    )
    assert 0 < detectable(1.0, 5, wanted=0.03) < detectable(1.0, 5, wanted=0.999) and np.isnan(rank_correlation([], []))
