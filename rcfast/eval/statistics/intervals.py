"""Rates with their Wilson or exact intervals, means with their standard errors."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

from scipy import special

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A closed interval [low, high]; `value in interval` asks whether it holds a value."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Mean:
    """Mean of `n` values and its standard error s/sqrt(n) (s with n - 1); None where there are too few.

    clusters: how many examples the values come from; None where each value is an example of its own.
    """

    mean: float | None
    se: float | None
    n: int
    clusters: int | None = None

    def interval(self, *, confidence: float = CONFIDENCE) -> Interval | None:
        """Normal interval mean ± z·se of the given confidence, or None without a standard error."""
        return self._interval(normal_quantile(confidence))

    def t_interval(self, *, confidence: float = CONFIDENCE) -> Interval | None:
        """Student's interval mean ± t·se, with one degree of freedom less than there are examples."""
        df = (self.clusters or self.n) - 1
        return self._interval(t_quantile(confidence, df)) if df > 0 else None

    def _interval(self, quantile: float) -> Interval | None:
        if self.mean is None or self.se is None:
            return None
        return Interval(self.mean - quantile * self.se, self.mean + quantile * self.se)


def tail(confidence: float) -> float:
    """The probability (1 - confidence) / 2 left out at each end. Raises ValueError outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    return (1 - confidence) / 2


def normal_quantile(confidence: float) -> float:
    """z with P(|Z| <= z) = confidence for a standard normal Z."""
    return -NormalDist().inv_cdf(tail(confidence))


def t_quantile(confidence: float, df: float) -> float:
    """t with P(|T| <= t) = confidence for Student's T with `df` degrees of freedom."""
    return -float(special.stdtrit(df, tail(confidence)))


def _check_counts(successes: float, n: float) -> None:
    if not (n >= 0 and 0 <= successes <= n):
        raise ValueError(f"successes must lie in [0, n], got successes = {successes}, n = {n}")


def wilson(successes: float, n: float, *, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a share of `successes` among `n` independent trials.

    Unlike the textbook interval it stays inside [0, 1] and says something at 0 and n successes, which is
    where attacks end up. n = 0 gives [0, 1]. Effective numbers of trials need not be whole.

    Raises:
        ValueError: n < 0, successes outside [0, n], confidence outside (0, 1).

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    _check_counts(successes, n)
    z = normal_quantile(confidence)
    if n == 0:
        return Interval(0.0, 1.0)
    rate, z2 = successes / n, z * z
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # The ends are exact there; rounding would leave 1e-17 instead of 0.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high)


def clopper_pearson(successes: int, n: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Exact binomial interval: it holds the true share with at least the given confidence, whatever that is.

    n = 0 gives [0, 1].

    Raises:
        ValueError: n < 0, successes outside [0, n], confidence outside (0, 1).

    Source: C. J. Clopper and E. S. Pearson, The use of confidence or fiducial limits, 1934.
    """
    _check_counts(successes, n)
    outside = tail(confidence)
    low = float(special.betaincinv(successes, n - successes + 1, outside)) if successes else 0.0
    high = float(special.betaincinv(successes + 1, n - successes, 1 - outside)) if successes < n else 1.0
    return Interval(low, high)


def mean_and_error(values: Iterable[float]) -> Mean:
    """Mean and standard error of finite `values`, summed without loss so that order does not matter.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    found = [float(value) for value in values]
    for index, value in enumerate(found):
        if not math.isfinite(value):
            raise ValueError(f"values must be finite, got {value} at index {index}")
    n = len(found)
    if n == 0:
        return Mean(None, None, 0)
    mean = math.fsum(found) / n
    if n == 1:
        return Mean(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in found) / (n - 1)
    return Mean(mean, math.sqrt(variance / n), n)


def share(successes: int, n: int) -> float | None:
    """successes / n, or None when nothing was measured."""
    return successes / n if n else None
