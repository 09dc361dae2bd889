"""What a number of examples can show, known before anything is measured."""

from math import ceil, log2

import numpy as np
from scipy import special

from rcfast.eval.statistics.intervals import CONFIDENCE, clopper_pearson, wilson


def compatible_with(n: int, *, confidence: float = CONFIDENCE) -> float:
    """The largest true rate that 0 successes among n examples are compatible with (exact binomial): 0.31 for 10."""
    return clopper_pearson(0, n, confidence=confidence).high


def examples_needed(half_width: float, *, rate: float = 0.5, confidence: float = CONFIDENCE) -> int:
    """The fewest independent examples whose Wilson interval around `rate` is at most ± half_width wide.

    Raises ValueError unless half_width lies in (0, 0.5) and rate in [0, 1].
    """
    if not 0 < half_width < 0.5 or not 0 <= rate <= 1:
        raise ValueError(f"half_width must lie in (0, 0.5) and rate in [0, 1], got {half_width} and {rate}")

    def wide(n: int) -> bool:
        interval = wilson(rate * n, n, confidence=confidence)
        return interval.high - interval.low > 2 * half_width

    high = 1
    while wide(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if wide(middle) else (low, middle)
    return high


def fewest_discordant(comparisons: int = 1, *, confidence: float = CONFIDENCE) -> int:
    """How many examples must differ, all in one direction, for a paired test to say so beside other comparisons.

    McNemar's (or the sign-flip) test gives 2^(1-k) for k such examples; among `comparisons`, Holm's correction asks
    the smallest p to be at most (1 - confidence)/comparisons. With fewer examples than this no defence can be said to
    be better, whatever is measured.

    Raises ValueError for comparisons < 1.
    """
    if comparisons < 1:
        raise ValueError(f"comparisons must be at least 1, got {comparisons}")
    return ceil(1 - log2((1 - confidence) / comparisons) - 1e-12)


def detectable_drop(
    n: int, comparisons: int = 1, *, power: float = 0.8, confidence: float = CONFIDENCE
) -> float | None:
    """The smallest drop of an untargeted rate that n paired examples reveal with probability `power`.

    All differing examples are taken to differ in one direction, as where an attack succeeds throughout on the
    undefended network. None where not even a drop of 1 would be seen.
    """
    fewest = fewest_discordant(comparisons, confidence=confidence)
    if n < fewest:
        return None
    # P(K >= fewest) for K binomial(n, drop) is the distribution function of Beta(fewest, n - fewest + 1) at drop.
    return float(np.asarray(special.betaincinv(fewest, n - fewest + 1, power)))
