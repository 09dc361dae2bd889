"""Lower bounds of a share from votes: at a number of votes fixed beforehand, and at any time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Values = int | float | NDArray[np.float64] | NDArray[np.int64]
PRIOR = 0.5  # of the anytime bound: Beta(1/2, 1/2), which loses little at shares near 1


def clopper_pearson(votes: Values, samples: Values, alpha: float) -> NDArray[np.float64]:
    """The largest p such that ``votes`` or more of ``samples`` have a probability of at most alpha below it.

    Exact, for a number of samples fixed beforehand: above the true share with probability at most alpha (Clopper and
    Pearson, 1934).
    """
    votes, samples = np.asarray(votes, float), np.asarray(samples, float)
    with np.errstate(invalid="ignore"):
        return np.where(votes > 0, stats.beta.ppf(alpha, votes, samples - votes + 1), 0.0)


def clopper_pearson_upper(votes: Values, samples: Values, alpha: float) -> NDArray[np.float64]:
    """The same from above: below the true share with probability at most alpha."""
    votes, samples = np.asarray(votes, float), np.asarray(samples, float)
    return 1 - clopper_pearson(samples - votes, samples, alpha)


def log_wealth(votes: Values, samples: Values, p: Values) -> NDArray[np.float64]:
    """log of what bets against the share ``p`` have made of 1: a mixture over all other shares, Beta(1/2, 1/2).

    ∫ (θ/p)^k ((1-θ)/(1-p))^(t-k) dBeta(θ) after k votes of t. Its mean is 1 at any time where the share is p.
    """
    k, t, p = (np.asarray(a, float) for a in (votes, samples, p))
    mixture = special.betaln(k + PRIOR, t - k + PRIOR) - special.betaln(PRIOR, PRIOR)
    return mixture - special.xlogy(k, p) - special.xlog1py(t - k, -p)


def anytime(votes: Values, samples: Values, alpha: float) -> NDArray[np.float64]:
    """The least share that :func:`log_wealth` leaves standing: the end of a confidence sequence.

    Valid at every number of samples at once: the probability that it is *ever* above the true share is at most alpha,
    by Ville's inequality, since the wealth falls in p up to votes/samples. (Robbins, 1970; Voráček, 2024.)
    """
    k, t = np.broadcast_arrays(np.asarray(votes, float), np.asarray(samples, float))
    low, high = np.zeros(k.shape), np.divide(k, t, out=np.zeros(k.shape), where=t > 0)
    for _ in range(60):
        middle = (low + high) / 2
        with np.errstate(divide="ignore"):
            refuted = log_wealth(k, t, middle) >= -np.log(alpha)
        low, high = np.where(refuted, middle, low), np.where(refuted, high, middle)
    return low
