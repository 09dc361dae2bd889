"""Our value beside a printed one, whose examples were drawn by chance as well."""

import math
from dataclasses import dataclass

from rcfast.eval.statistics.intervals import CONFIDENCE, Interval, Mean, t_quantile, wilson


@dataclass(frozen=True)
class Comparison:
    """Ours minus the printed value, its interval, and whether chance and rounding can explain the difference."""

    difference: float
    interval: Interval
    agrees: bool


def compare_rates(
    rate: float,
    interval: Interval,
    printed: float,
    n: int,
    *,
    effect: float = 1.0,
    rounding: float = 0.0,
    confidence: float = CONFIDENCE,
) -> Comparison:
    """Compare a rate that has an interval with a printed one of n trials.

    The printed rate gets Wilson's interval of n/effect trials; effect: the design effect of trials that share
    examples, taken from our own. Both intervals make one of the difference (square-and-add, which keeps the
    coverage of its parts). rounding: half a unit of the last printed digit.

    Raises:
        ValueError: printed outside [0, 1], n < 1, effect < 1.

    Source: R. G. Newcombe, Interval estimation for the difference between independent proportions, 1998, method
    10; G. Y. Zou and A. Donner, Construction of confidence limits about effect measures, 2008.
    """
    if not 0 <= printed <= 1 or n < 1 or effect < 1:
        raise ValueError(
            "printed must lie in [0, 1], n and effect be at least 1, "
            f"got printed = {printed}, n = {n}, effect = {effect}"
        )
    theirs = wilson(printed * n / effect, n / effect, confidence=confidence)
    difference = rate - printed
    low = difference - math.hypot(rate - interval.low, theirs.high - printed)
    high = difference + math.hypot(interval.high - rate, printed - theirs.low)
    return _compared(difference, Interval(low, high), rounding)


def compare_means(
    ours: Mean, printed: float, n: int, *, rounding: float = 0.0, confidence: float = CONFIDENCE
) -> Comparison | None:
    """Compare a mean with a printed one over n successful trials whose spread was not printed.

    The printed mean's standard error is taken from ours, scaled to n trials; t with our degrees of freedom, which
    are the only ones known. None without a standard error of ours or without trials of theirs.
    """
    df = (ours.clusters or ours.n) - 1
    if ours.mean is None or ours.se is None or df < 1 or n < 1:
        return None
    half = t_quantile(confidence, df) * ours.se * math.sqrt(1 + ours.n / n)
    difference = ours.mean - printed
    return _compared(difference, Interval(difference - half, difference + half), rounding)


def _compared(difference: float, interval: Interval, rounding: float) -> Comparison:
    agrees = interval.low - rounding <= 0 <= interval.high + rounding
    return Comparison(difference, interval, agrees)
