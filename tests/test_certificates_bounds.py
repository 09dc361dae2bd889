"""Bounds of a share: closed forms, and the error they promise over 100,000 simulated certificates at hard shares."""

import numpy as np
import pytest
from scipy import stats

from rcfast.certificates import Question, bounds

HARD = (0.5, 0.51, 0.7, 0.99, 0.999)
RUNS = 100_000


def allowed(alpha: float) -> int:
    """Errors that 100,000 runs may show: the mean and five standard deviations."""
    return int(RUNS * alpha + 5 * np.sqrt(RUNS * alpha))


def test_clopper_pearson_is_the_share_of_that_tail():
    for votes, samples, alpha in ((7, 10, 0.05), (999, 1000, 1e-3), (10, 10, 0.01)):
        p = float(bounds.clopper_pearson(votes, samples, alpha))
        assert stats.binom.sf(votes - 1, samples, p) == pytest.approx(alpha)
    assert bounds.clopper_pearson(0, 10, 0.05) == 0
    assert bounds.clopper_pearson_upper(3, 10, 0.05) == pytest.approx(1 - bounds.clopper_pearson(7, 10, 0.05))
    assert bounds.clopper_pearson(1000, 1000, 1e-3) == pytest.approx(1e-3 ** (1 / 1000))


@pytest.mark.parametrize("alpha", [0.05, 1e-3])
@pytest.mark.parametrize("share", HARD)
def test_fixed_bound_errs_as_often_as_it_may(share, alpha):
    votes = np.random.default_rng(1).binomial(1000, share, RUNS)
    table = bounds.clopper_pearson(np.arange(1001), 1000, alpha)
    assert (table[votes] > share).sum() <= allowed(alpha)


@pytest.mark.parametrize("alpha", [0.05, 1e-3])
@pytest.mark.parametrize("share", HARD)
def test_anytime_bound_errs_at_any_look_as_often_as_it_may(share, alpha):
    """One error counts if the bound is above the share at any of the looks that a certificate may take."""
    rng = np.random.default_rng(2)
    votes, before = np.zeros(RUNS, np.int64), 0
    wrong = np.zeros(RUNS, bool)
    for t in Question(n=2000, n0=10, alpha=alpha, radius=0.1, gain=None, sides=1, norm=None).looks():
        votes += rng.binomial(t - before, share, RUNS)
        before = t
        table = bounds.anytime(np.arange(t + 1), t, alpha)
        wrong |= table[votes] > share
    assert wrong.sum() <= allowed(alpha)


def test_wealth_is_a_martingale():
    """Its mean after t votes, over the binomial distribution, is 1."""
    for share in HARD:
        for t in (1, 5, 60):
            k = np.arange(t + 1)
            mean = (stats.binom.pmf(k, t, share) * np.exp(bounds.log_wealth(k, t, share))).sum()
            assert mean == pytest.approx(1)


def test_anytime_bound_is_where_the_wealth_crosses():
    for votes, samples in ((900, 1000), (1000, 1000), (60, 100)):
        p = float(bounds.anytime(votes, samples, 1e-3))
        assert bounds.log_wealth(votes, samples, p) == pytest.approx(-np.log(1e-3), abs=1e-6)
        assert p < bounds.clopper_pearson(votes, samples, 1e-3)
    assert bounds.anytime(0, 10, 0.05) == 0
