"""Rates with their Wilson intervals, means with their standard errors: what every printed number carries."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

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
    """Mean of `n` values and its standard error s/sqrt(n) (s with n - 1); None where there are too few."""

    mean: float | None
    se: float | None
    n: int

    def interval(self, *, confidence: float = CONFIDENCE) -> Interval | None:
        """Normal interval mean ± z·se of the given confidence, or None without a standard error."""
        if self.mean is None or self.se is None:
            return None
        half = _quantile(confidence) * self.se
        return Interval(self.mean - half, self.mean + half)


@lru_cache
def _quantile(confidence: float) -> float:
    """z with P(|Z| <= z) = confidence for a standard normal Z."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(successes: int, n: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a share of `successes` among `n` independent trials.

    Unlike the textbook interval it stays inside [0, 1] and says something at 0 and n successes, which is
    where attacks end up. n = 0 gives [0, 1].

    Raises:
        ValueError: n < 0, successes outside [0, n], confidence outside (0, 1).

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"successes must lie in [0, n], got successes = {successes}, n = {n}")
    z = _quantile(confidence)
    if n == 0:
        return Interval(0.0, 1.0)
    share, z2 = successes / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # The ends are exact there; rounding would leave 1e-17 instead of 0.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
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
