"""Intervals of rates and means whose examples share images: against other libraries, closed forms, simulations."""

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm

from rcfast.eval.statistics import (
    Interval,
    Mean,
    clopper_pearson,
    clustered_mean,
    clustered_rate,
    clustered_rates,
    design_effect,
    wilson,
)
from rcfast.eval.statistics.resampling import bca, bounded, drawn_counts, resampled_sums


def draw(seed: int, n: int, trials: int, sets: int, *, rate: float, icc: float) -> np.ndarray:
    """Successes [n, trials, sets] bool: each example has its own rate, beta with this mean and correlation."""
    rng = np.random.default_rng(seed)
    own = (
        np.full((n, sets), rate)
        if not icc
        else rng.beta(rate * (1 - icc) / icc, (1 - rate) * (1 - icc) / icc, size=(n, sets))
    )
    return rng.random((n, trials, sets)) < own[:, None]


def coverage(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.parametrize("n", [1, 2, 7, 100, 900, 10_000])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_clopper_pearson_equals_scipy(n: int, confidence: float) -> None:
    for k in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        ours = clopper_pearson(k, n, confidence=confidence)
        theirs = scipy.stats.binomtest(k, n).proportion_ci(confidence, method="exact")
        assert ours.low == pytest.approx(theirs.low, abs=1e-12)
        assert ours.high == pytest.approx(theirs.high, abs=1e-12)


def test_clopper_pearson_of_nothing_and_of_the_impossible() -> None:
    assert clopper_pearson(0, 0) == Interval(0.0, 1.0)
    with pytest.raises(ValueError, match="successes = 4, n = 3"):
        clopper_pearson(4, 3)
    with pytest.raises(ValueError, match=r"confidence must lie in \(0, 1\), got 95"):
        clopper_pearson(1, 3, confidence=95)


def test_t_interval_equals_scipy_and_counts_examples() -> None:
    values = np.random.default_rng(1).gamma(2, size=7)
    mean = Mean(float(values.mean()), float(scipy.stats.sem(values)), 7)
    found, (low, high) = mean.t_interval(), scipy.stats.t.interval(0.95, 6, values.mean(), mean.se)
    assert found == Interval(pytest.approx(low), pytest.approx(high))
    few = Mean(mean.mean, mean.se, 63, clusters=7).t_interval()
    assert few == found
    assert Mean(1.0, None, 1).t_interval() is None


def test_resampled_sums_do_not_depend_on_their_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 10, (30, 3)).astype(float)
    whole = resampled_sums(values, resamples=501, seed=3)
    monkeypatch.setattr("rcfast.eval.statistics.resampling._AT_ONCE", 1000)
    assert (resampled_sums(values, resamples=501, seed=3) == whole).all()
    counts = drawn_counts(30, 501, 3)
    assert (counts.sum(1) == 30).all()
    assert scipy.stats.chisquare(counts.sum(0)).pvalue > 1e-4


def test_bca_equals_scipy_on_the_same_resamples() -> None:
    values = np.random.default_rng(5).binomial(9, 0.2, (25, 4)).astype(float)
    low, high = bca(values, confidence=0.9, resamples=2000, seed=7, expand=False)
    sums = resampled_sums(values, resamples=2000, seed=7)
    for g in range(4):
        given = scipy.stats.bootstrap((values[:, g],), np.mean, n_resamples=9, method="percentile", rng=0)
        given.bootstrap_distribution = sums[:, g] / 25
        theirs = scipy.stats.bootstrap(
            (values[:, g],),
            np.mean,
            n_resamples=0,
            bootstrap_result=given,
            confidence_level=0.9,
            method="BCa",
        ).confidence_interval
        assert (low[g], high[g]) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


@pytest.mark.parametrize("k", [0, 1, 4, 10])
def test_the_bound_is_the_exact_binomial_for_values_of_0_and_1(k: int) -> None:
    values = (np.arange(10) < k).astype(float)[:, None]
    low, high = bounded(values, confidence=0.95, resamples=100_000, seed=0)
    exact = clopper_pearson(k, 10)
    assert low[0] == pytest.approx(exact.low, abs=0.005)
    assert high[0] == pytest.approx(exact.high, abs=0.005)


@pytest.mark.parametrize(
    ("n", "rate", "icc"),
    [
        *((10, 0.5, 0.0), (10, 0.2, 0.3), (10, 0.05, 0.7), (20, 0.1, 0.3), (20, 0.05, 0.3)),
        *((100, 0.5, 0.7), (100, 0.1, 0.1), (100, 0.02, 0.3), (100, 0.98, 0.7)),
    ],
)
def test_the_clustered_interval_covers(n: int, rate: float, icc: float) -> None:
    """2,000 simulated evaluations each: nine targets of an example agree with correlation icc."""
    success = draw(11, n, 9, 2000, rate=rate, icc=icc)
    low, high = clustered_rates(success, resamples=1000)
    assert coverage(low, high, rate) > 0.92
    if icc >= 0.3:  # what treating the targets as independent does
        naive = [wilson(int(s), 9 * n) for s in success.sum((0, 1))[:500]]
        assert coverage(np.array([i.low for i in naive]), np.array([i.high for i in naive]), rate) < 0.9


def test_the_clustered_interval_is_as_wide_as_wilsons_without_clustering_and_wider_with() -> None:
    for icc, least, most in ((0.0, 0.95, 1.08), (0.3, 1.7, 1.95), (0.9, 2.6, 3.1)):
        success = draw(2, 100, 9, 200, rate=0.4, icc=icc)
        low, high = clustered_rates(success, resamples=1000)
        naive = [wilson(int(s), 900) for s in success.sum((0, 1))]
        ratio = (high - low).mean() / np.mean([i.high - i.low for i in naive])
        assert least < ratio < most
        assert np.mean([design_effect(success[..., g]) for g in range(200)]) == pytest.approx(
            1 + 8 * icc, rel=0.12
        )


def test_rates_at_the_ends_are_exact_over_examples() -> None:
    none, all_ = np.zeros((10, 9), bool), np.ones((10, 9), bool)
    assert clustered_rate(none) == clopper_pearson(0, 10)
    assert clustered_rate(all_) == clopper_pearson(10, 10)
    assert clustered_rate(none).high == pytest.approx(0.3085, abs=1e-4)
    assert clustered_rate(none[:, :1]) == clopper_pearson(0, 10)
    assert clustered_rate(np.zeros((0, 9), bool)) == Interval(0.0, 1.0)
    one = none.copy()
    one[3, 2] = True
    assert clustered_rate(one).high > clustered_rate(none).high  # one success says no less than none
    assert clustered_rate(~one).low < clustered_rate(all_).low
    assert clustered_rate(~one).high == pytest.approx(1 - clustered_rate(one).low)


def test_single_trials_have_wilsons_interval() -> None:
    success = np.arange(30) % 3 == 0
    assert clustered_rate(success) == wilson(10, 30)


def test_the_clustered_interval_says_something_where_resampling_cannot() -> None:
    same = np.tile(np.arange(9) < 4, (20, 1))  # every example 4 of 9: resamples never differ
    assert clustered_rate(same).high - clustered_rate(same).low > 0.05
    few = np.random.default_rng(0).random((2, 9)) < 0.5
    assert clustered_rate(few).high - clustered_rate(few).low > 0.5
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        clustered_rate(few, resamples=0)


def test_the_clustered_interval_repeats() -> None:
    success = draw(0, 15, 9, 1, rate=0.3, icc=0.2)[..., 0]
    assert clustered_rate(success, seed=4) == clustered_rate(success, seed=4)
    other = clustered_rate(success, seed=5)
    assert other == Interval(
        pytest.approx(clustered_rate(success).low, abs=0.01),
        pytest.approx(clustered_rate(success).high, abs=0.01),
    )


def test_the_clustered_mean_equals_statsmodels() -> None:
    rng = np.random.default_rng(3)
    values = rng.gamma(3, size=(12, 9)) + rng.normal(2, 1, (12, 1))
    counted = rng.random((12, 9)) < 0.6
    counted[4] = False
    values[~counted] = np.inf
    found = clustered_mean(values, counted)
    example = np.nonzero(counted)[0]
    fit = sm.OLS(values[counted], np.ones(counted.sum())).fit(
        cov_type="cluster", cov_kwds={"groups": example, "use_correction": True}
    )
    assert found.mean == pytest.approx(fit.params[0])
    assert found.se == pytest.approx(fit.bse[0])
    assert (found.n, found.clusters) == (counted.sum(), 11)


def test_the_clustered_mean_of_single_values_is_the_plain_one() -> None:
    values = np.random.default_rng(0).gamma(2, size=31)
    found = clustered_mean(values, np.ones(31, bool))
    assert found.se == pytest.approx(scipy.stats.sem(values))
    assert clustered_mean(values, np.zeros(31, bool)) == Mean(None, None, 0, 0)
    assert clustered_mean(values, np.arange(31) == 3).se is None
    with pytest.raises(ValueError, match="counted values must be finite"):
        clustered_mean(np.array([1.0, np.inf]), np.ones(2, bool))
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        clustered_mean(np.ones(2), np.ones(3, bool))


def test_the_t_interval_of_the_clustered_mean_covers() -> None:
    rng = np.random.default_rng(9)
    hits = 0
    for _ in range(1000):
        values = rng.normal(2, 0.5, (10, 1)) + rng.normal(0, 0.5, (10, 9))
        interval = clustered_mean(values, rng.random((10, 9)) < 0.7).t_interval()
        assert interval is not None
        hits += 2 in interval
    assert 0.92 < hits / 1000 < 0.98


def test_the_design_effect_at_its_limits() -> None:
    rows = np.repeat(np.arange(20)[:, None] % 2 == 0, 9, axis=1)  # all targets of an example agree
    assert design_effect(rows) == pytest.approx(9)
    assert design_effect(np.zeros((10, 9), bool)) == 9
    assert design_effect(np.ones((1, 9), bool)) == 9
    assert design_effect(rows[:, :1]) == 1
