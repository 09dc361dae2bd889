"""The whole distribution of the noise that an attack needs, with failures counted as infinite.

A mean over the successful examples is a selection: a defence that stops the expensive ones lowers it. Success
against noise, and the median, keep every example.
"""

import math
from dataclasses import dataclass

import numpy as np

from rcfast.eval.statistics.clusters import clustered_rates
from rcfast.eval.statistics.intervals import CONFIDENCE, Interval
from rcfast.eval.statistics.resampling import RESAMPLES


@dataclass(frozen=True)
class Curve:
    """Share of the attacked that noise of at most `at` suffices for, with pointwise intervals: all [G] float64.

    One minus it is the accuracy that is left, the security curve.
    """

    at: np.ndarray
    rate: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Median:
    """The least noise that suffices for half of the attacked, inf where half is never reached; its interval."""

    value: float
    interval: Interval


def _checked(noise: np.ndarray) -> np.ndarray:
    noise = np.asarray(noise, np.float64)
    if not noise.size:
        raise ValueError("noise must hold at least one example")
    if np.isnan(noise).any() or (noise < 0).any():
        raise ValueError("noise must be at least 0, inf for failures")
    return noise.reshape(len(noise), -1)


def steps(noise: np.ndarray, *, most: int = 200) -> np.ndarray:
    """The noise values at which the success curve of noise [N, ...] rises, at most `most` of them, in rising order.

    The first and the last are always among them, the others are evenly spaced in rank.
    """
    values = np.unique(noise[np.isfinite(noise)])
    if len(values) <= most:
        return values
    return values[np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))]


def success_curve(
    noise: np.ndarray,
    at: np.ndarray,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Curve:
    """Success against noise: noise [N, ...] of each example (inf where it failed), at [G] the noise allowed.

    The intervals are those of `clustered_rate`.

    Raises:
        ValueError: noise is empty, negative or NaN.
    """
    flat, at = _checked(noise), np.asarray(at, np.float64)
    rate, low, high = np.empty(len(at)), np.empty(len(at)), np.empty(len(at))
    size = max(1, 20_000_000 // (resamples + flat.size))  # points at a time
    for start in range(0, len(at), size):
        part = slice(start, start + size)
        success = flat[:, :, None] <= at[part]
        rate[part] = success.mean((0, 1))
        low[part], high[part] = clustered_rates(
            success, confidence=confidence, resamples=resamples, seed=seed
        )
    return Curve(at, rate, low, high)


def median_noise(
    noise: np.ndarray, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Median:
    """Median of noise [N, ...], failures infinite, with the interval of noise at which half is compatible.

    The median is the least noise with success for at least half. Its interval runs from the first noise at which
    the upper end of the success curve reaches one half to the first at which the lower end does (Woodruff 1952).

    Raises:
        ValueError: noise is empty, negative or NaN.
    """
    flat = _checked(noise)
    values = np.unique(flat[np.isfinite(flat)])
    rates = np.searchsorted(np.sort(flat.ravel()), values, side="right") / flat.size
    how = {"confidence": confidence, "resamples": resamples, "seed": seed}

    def first(end: int) -> float:
        """The first value at which that end of the interval of the rate reaches one half."""
        left, right = 0, len(values)
        while left < right:
            middle = (left + right) // 2
            ends = clustered_rates(flat[:, :, None] <= values[middle], **how)  # type: ignore[arg-type]
            left, right = (left, middle) if ends[end][0] >= 0.5 else (middle + 1, right)
        return float(values[left]) if left < len(values) else math.inf

    reached = np.flatnonzero(rates >= 0.5)
    value = float(values[reached[0]]) if len(reached) else math.inf
    return Median(value, Interval(min(first(1), value), max(first(0), value)))
