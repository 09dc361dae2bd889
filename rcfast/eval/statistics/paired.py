"""Two classifiers on the same examples: is one labelled right, or fooled, more often than the other?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from rcfast.eval.statistics.intervals import CONFIDENCE, Interval, mean_and_error, normal_quantile
from rcfast.eval.statistics.resampling import FEWEST, RESAMPLES, bca, bounded

FEW = 2  # examples that differ, up to which the interval is widened to that of `bounded`


@dataclass(frozen=True)
class Difference:
    """Rate of the first minus rate of the second, on the same `n` examples, with its interval.

    first_only, second_only: trials in which only the one was True. p: probability of a difference at least as
    large where both are alike, by flipping signs of whole examples.
    """

    value: float
    interval: Interval
    p: float
    first_only: int
    second_only: int
    n: int


def discordant(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """How often only the first, and only the second, is True; both bool of one shape."""
    return int((first & ~second).sum()), int((second & ~first).sum())


def mcnemar(first_only: int, second_only: int) -> float:
    """McNemar's exact test: two-sided p of the discordant pairs, binomial with probability one half.

    1 where there are none. Raises ValueError for negative counts.

    Source: Q. McNemar, Note on the sampling error of the difference between correlated proportions, 1947.
    """
    if min(first_only, second_only) < 0:
        raise ValueError(f"counts must not be negative, got {first_only} and {second_only}")
    n = first_only + second_only
    return min(1.0, 2 * float(special.bdtr(min(first_only, second_only), n, 0.5)))


def tango(first_only: int, second_only: int, n: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Score interval of the difference (first_only - second_only)/n of two paired shares.

    All Δ that the score test does not reject; unlike the normal interval it keeps its coverage in small
    samples and says something without a discordant pair. n = 0 gives [-1, 1].

    Raises:
        ValueError: counts that are negative or add up to more than n, confidence outside (0, 1).

    Source: T. Tango, Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design, 1998.
    """
    if min(first_only, second_only) < 0 or first_only + second_only > n:
        raise ValueError(f"counts must lie in [0, n] together, got {first_only} and {second_only} of n = {n}")
    z = normal_quantile(confidence)
    if n == 0:
        return Interval(-1.0, 1.0)
    observed = (first_only - second_only) / n

    def beyond(delta: float) -> float:
        return abs(_score(first_only, second_only, n, delta)) - z

    ends = []
    for limit in (-1.0, 1.0):
        if observed == limit:
            ends.append(limit)
            continue
        ends.append(float(optimize.brentq(beyond, observed, limit * (1 - 1e-12), xtol=1e-14)))
    return Interval(*ends)


def _score(b: int, c: int, n: int, delta: float) -> float:
    """Tango's statistic for a difference of `delta`: (b - c - nΔ) over its standard deviation under Δ."""
    # The maximum-likelihood share of pairs (0, 1), given the difference, solves 2nq² + Bq + C = 0.
    linear = -b - c + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    q = (math.sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * q + delta * (1 - delta))
    gap = b - c - n * delta
    if gap == 0:
        return 0.0
    return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap)


def sign_flip(differences: Sequence[int] | np.ndarray) -> float:
    """Two-sided p of the sum of whole differences [N], each as likely with the other sign: exact.

    Examples are flipped as wholes, so their targets need not be independent. For differences of -1, 0 and 1
    this is McNemar's exact test. The distribution of the sum is built up example by example.
    """
    sizes = np.abs(np.asarray(differences, np.int64))
    observed, sizes = abs(int(np.sum(differences))), sizes[sizes > 0]
    reach = int(sizes.sum())
    chances = np.ones(1)
    for size in sizes.tolist():
        wider = np.zeros(len(chances) + 2 * size)
        wider[: len(chances)] += chances / 2
        wider[2 * size :] += chances / 2
        chances = wider
    # Index reach + s is the sum s.
    upper = float(chances[reach + observed :].sum())
    return min(1.0, 2 * upper) if observed else 1.0


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Compare the shares of True in first and second, both [N, ...] bool on the same N examples.

    One trial an example: Tango's interval and McNemar's exact test. Several: the bootstrap over examples of the
    difference (expanded BCa; where at most two examples differ or there are fewer than six, not narrower
    than `resampling.bounded`), and the test that flips the signs of whole examples.

    Raises:
        ValueError: the shapes differ, or there is no example.
    """
    if first.shape != second.shape or not first.size:
        raise ValueError(
            f"first and second must have one shape with examples, got {first.shape} and {second.shape}"
        )
    n = len(first)
    a, b = first.reshape(n, -1), second.reshape(n, -1)
    trials = a.shape[1]
    only = discordant(a, b)
    differences = a.sum(1) - b.sum(1)
    value = int(differences.sum()) / (n * trials)
    if trials == 1:
        return Difference(value, tango(*only, n, confidence=confidence), mcnemar(*only), *only, n)
    values = differences[:, None].astype(np.float64)
    low, high = np.full(1, np.inf), np.full(1, -np.inf)
    flat = n < FEWEST or bool((differences == differences[0]).all())
    if not flat:
        low, high = bca(values, confidence=confidence, resamples=resamples, seed=seed)
        low, high = low / trials, high / trials
    if flat or int((differences != 0).sum()) <= FEW:
        shares = (values / trials + 1) / 2
        outer = bounded(shares, confidence=confidence, resamples=resamples, seed=seed)
        low, high = np.minimum(low, 2 * outer[0] - 1), np.maximum(high, 2 * outer[1] - 1)
    interval = Interval(float(max(low[0], -1.0)), float(min(high[0], 1.0)))
    return Difference(value, interval, sign_flip(differences), *only, n)


@dataclass(frozen=True)
class Ratio:
    """Geometric mean over n examples of the noise of one attack by that of another; pairs: how many were compared.

    value and interval are NaN where no pair is left, the interval runs from 0 to inf for a single example.
    """

    value: float
    interval: Interval
    n: int
    pairs: int


def paired_ratio(first: np.ndarray, second: np.ndarray, *, confidence: float = CONFIDENCE) -> Ratio:
    """Compare noise, first by second, both [N, ...] on the same N examples, inf where an attack failed.

    Only pairs of which both succeeded with some noise count. Their logarithms are averaged over each example, and the t
    interval is that of these averages: the trials of one example need not be independent.

    Raises:
        ValueError: the shapes differ, there is no example, or noise is negative or NaN.
    """
    if first.shape != second.shape or not first.size:
        raise ValueError(
            f"first and second must have one shape with examples, got {first.shape} and {second.shape}"
        )
    if not ((first >= 0) & (second >= 0)).all():
        raise ValueError("first and second must be at least 0, inf for failures")
    n = len(first)
    a, b = first.reshape(n, -1).astype(np.float64), second.reshape(n, -1).astype(np.float64)
    both = np.isfinite(a) & np.isfinite(b) & (a > 0) & (b > 0)
    pairs = both.sum(1)
    logs = np.log(np.divide(a, b, out=np.ones_like(a), where=both)).sum(1)
    found = mean_and_error(logs[pairs > 0] / pairs[pairs > 0])
    if found.mean is None:
        return Ratio(math.nan, Interval(math.nan, math.nan), 0, 0)
    ends = found.t_interval(confidence=confidence) or Interval(-math.inf, math.inf)
    return Ratio(
        math.exp(found.mean), Interval(math.exp(ends.low), math.exp(ends.high)), found.n, int(pairs.sum())
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of several comparisons, in their order: rejecting those below alpha errs with at most alpha.

    Raises ValueError for a value outside [0, 1].

    Source: S. Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    for index, p in enumerate(p_values):
        if not 0 <= p <= 1:
            raise ValueError(f"p_values must lie in [0, 1], got {p} at index {index}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
