"""Resampling of examples: bootstrap intervals of a mean, and a bound that holds where resampling has nothing to say.

Random numbers are raw output of PCG64, which is the same in every version of NumPy.
"""

from functools import lru_cache

import numpy as np
from scipy import special

from rcfast.eval.statistics.intervals import tail

RESAMPLES = 10_000
FEWEST = 6  # examples below which the range of the resamples is all that a bootstrap can give
_AT_ONCE = 4_000_000  # weights in memory


def drawn_counts(n: int, resamples: int, seed: int, first: int = 0) -> np.ndarray:
    """How often each of n examples is drawn: float64 [resamples, n], rows first, first+1, … of the stream."""
    raw = np.random.PCG64(seed).advance(first * n).random_raw(resamples * n)
    places = (raw % n).astype(np.int64) + np.repeat(np.arange(resamples) * n, n)
    return np.bincount(places, minlength=resamples * n).reshape(resamples, n).astype(np.float64)


_few_counts = lru_cache(maxsize=8)(drawn_counts)


def resampled_sums(values: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """Sums [resamples, G] over examples drawn with replacement; values [N, G]. Exact for whole numbers."""
    n = len(values)
    if resamples * n <= _AT_ONCE:
        return _few_counts(n, resamples, seed) @ values
    rows = max(1, _AT_ONCE // n)
    parts = [
        drawn_counts(n, min(rows, resamples - start), seed, start) @ values
        for start in range(0, resamples, rows)
    ]
    return np.concatenate(parts)


def bca(
    values: np.ndarray, *, confidence: float, resamples: int, seed: int, expand: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Bias-corrected and accelerated bootstrap intervals of the mean of N examples: low [G], high [G].

    values [N, G], whole numbers for ties to be seen as such. expand: take the quantiles further out, from
    (1 - confidence)/2 to Φ(-sqrt(n/(n-1))·t), which makes up for the resamples' spread being too small by
    sqrt((n-1)/n) and for using z in place of t; without it ten examples cover 90% instead of 95%.

    Sources: B. Efron, Better bootstrap confidence intervals, 1987; T. C. Hesterberg, What teachers should know
    about the bootstrap, 2015 (expansion, there of the percentile interval).
    """
    n = len(values)
    total = values.sum(0)
    sums = np.sort(resampled_sums(values, resamples=resamples, seed=seed), axis=0)
    below = ((sums < total).sum(0) + (sums <= total).sum(0)) / (2 * resamples)
    bias = special.ndtri(np.clip(below, 1 / resamples, 1 - 1 / resamples))
    deviation = values - values.mean(0)
    square = (deviation**2).sum(0)
    cube = (deviation**3).sum(0)
    acceleration = np.divide(cube, 6 * square**1.5, out=np.zeros_like(square), where=square > 0)
    outside = tail(confidence)
    if expand:
        outside = float(special.ndtr(np.sqrt(n / (n - 1)) * special.stdtrit(n - 1, outside)))
    ends = []
    for level in (outside, 1 - outside):
        z = bias + special.ndtri(level)
        at = special.ndtr(bias + z / (1 - acceleration * z)) * (resamples - 1)
        left = np.floor(at).astype(np.int64)
        right = np.minimum(left + 1, resamples - 1)
        lower, upper = (np.take_along_axis(sums, i[None], 0)[0] for i in (left, right))
        ends.append((lower + (at - left) * (upper - lower)) / n)
    return ends[0], ends[1]


def bounded(
    shares: np.ndarray, *, confidence: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds low [G], high [G] on the mean of N values in [0, 1], shares [N, G], cautious for any N >= 1.

    The examples get random weights (uniform on the simplex), with one more example that is 0 for the lower and
    1 for the upper bound. For values 0 and 1 this is the exact binomial interval, and exactly so in
    `clustered_rates` where all or none succeed; for others its coverage is conjectured and simulated.

    Source: N. Gaffke, Three test statistics for a nonparametric one-sided hypothesis on the mean of a
    nonnegative variable, 2005.
    """
    n = len(shares)
    outside = tail(confidence)
    weights = _simplex(n + 1, resamples, seed)
    inner = weights[:, :n] @ shares
    low = np.quantile(inner, outside, axis=0)
    high = np.quantile(inner + weights[:, n:], 1 - outside, axis=0)
    return low, high


@lru_cache(maxsize=4)
def _simplex(n: int, resamples: int, seed: int) -> np.ndarray:
    raw = np.random.PCG64(seed).random_raw(resamples * n).reshape(resamples, n)
    uniform = (raw >> np.uint64(11)) * 2.0**-53  # in [0, 1)
    spans = -np.log1p(-uniform)
    return np.asarray(spans / spans.sum(1, keepdims=True))
