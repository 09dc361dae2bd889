"""Noise with failures as infinite, and the variance of the vote's seeds beside that of the examples."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.formula.api as smf
from statsmodels.stats.anova import anova_lm

from rcfast.eval.statistics import (
    clustered_rate,
    median_noise,
    steps,
    success_curve,
    variance_components,
    wilson,
)

INF = float("inf")


def test_the_curve_is_the_share_that_needs_no_more() -> None:
    noise = np.random.default_rng(0).gamma(2, size=(30, 9))
    noise[noise > 4] = INF
    curve = success_curve(noise, steps(noise), resamples=500)
    assert curve.at.tolist() == sorted(set(noise[np.isfinite(noise)].tolist()))[::1] or len(curve.at) == 200
    plain = scipy.stats.ecdf(np.where(np.isfinite(noise), noise, 1e9).ravel()).cdf.evaluate(curve.at)
    assert curve.rate == pytest.approx(plain)
    assert curve.rate[-1] == np.isfinite(noise).mean()
    assert (curve.low <= curve.rate).all()
    assert (curve.rate <= curve.high).all()
    middle = clustered_rate(noise <= curve.at[50], resamples=500)
    assert (curve.low[50], curve.high[50]) == (middle.low, middle.high)


def test_the_curve_of_single_trials_has_wilsons_intervals() -> None:
    noise = np.array([1.0, 2.0, 3.0, INF])
    curve = success_curve(noise, np.array([2.0, 2.5]))
    assert curve.rate.tolist() == [0.5, 0.5]
    assert (curve.low[0], curve.high[0]) == (wilson(2, 4).low, wilson(2, 4).high)


def test_steps_keep_the_ends() -> None:
    noise = np.array([[3.0, 1.0], [INF, 1.0]])
    assert steps(noise).tolist() == [1.0, 3.0]
    many = steps(np.arange(1000.0), most=50)
    assert (len(many), many[0], many[-1]) == (50, 0, 999)
    assert not len(steps(np.array([INF])))


def test_the_median_counts_failures_as_infinite() -> None:
    noise = np.arange(1.0, 12)
    assert median_noise(noise).value == 6
    noise[:5] = INF  # the cheap ones are stopped: the mean over survivors would not say so
    assert median_noise(noise).value == 11
    noise[5] = INF
    found = median_noise(noise)
    assert (found.value, found.interval.high) == (INF, INF)
    assert median_noise(np.full(10, INF)).interval.low == INF
    with pytest.raises(ValueError, match="at least one example"):
        median_noise(np.zeros(0))
    with pytest.raises(ValueError, match="at least 0"):
        success_curve(np.array([-1.0]), np.array([0.0]))


def test_the_interval_of_the_median_covers() -> None:
    rng = np.random.default_rng(1)
    for shape in ((20,), (12, 9)):
        hits = 0
        for _ in range(200):
            noise = np.exp(rng.normal(size=(shape[0], *[1] * (len(shape) - 1))) + rng.normal(size=shape))
            found = median_noise(noise, resamples=200)
            assert found.value in found.interval
            hits += 1.0 in found.interval
        assert hits / 200 > 0.9


def test_components_equal_the_analysis_of_variance() -> None:
    rng = np.random.default_rng(2)
    success = (rng.random((5, 40)) < rng.beta(0.5, 0.5, 40)).astype(float)
    found = variance_components(success)
    assert found is not None
    seed, example = np.indices(success.shape)
    table = pd.DataFrame({"y": success.ravel(), "seed": seed.ravel(), "example": example.ravel()})
    square = anova_lm(smf.ols("y ~ C(seed) + C(example)", table).fit())["mean_sq"]
    assert found.residual == pytest.approx(square["Residual"])
    assert found.examples == pytest.approx((square["C(example)"] - square["Residual"]) / 5)
    assert found.seeds == pytest.approx(max(0, (square["C(seed)"] - square["Residual"]) / 40))


def test_components_separate_seeds_from_examples() -> None:
    """Votes that are sure for most examples: the examples carry the uncertainty; even votes: the seeds do."""
    rng = np.random.default_rng(3)
    sure = np.repeat(rng.random(200) < 0.4, 1)
    sticky = np.tile(sure, (6, 1))
    found = variance_components(sticky)
    assert found is not None
    assert (found.seeds, found.residual, found.seeds_share, found.seed_sd) == (0, 0, 0, 0)
    assert found.rate_se == pytest.approx(sure.std(ddof=1) / np.sqrt(200))
    even = variance_components(rng.random((6, 200)) < 0.5)
    assert even is not None
    assert even.residual == pytest.approx(0.25, rel=0.1)
    assert even.seed_sd == pytest.approx(np.sqrt(0.25 / 200), rel=0.3)
    assert even.seeds_share > 0.5
    common = rng.random((6, 1, 1)) * np.ones((6, 200, 9))  # a seed that moves all examples
    moved = variance_components(common)
    assert moved is not None
    assert moved.seeds == pytest.approx(common[:, 0, 0].var(ddof=1))
    assert variance_components(np.ones((1, 10))) is None
    assert variance_components(np.ones((3, 1))) is None
