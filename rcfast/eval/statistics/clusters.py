"""Rates and means over adversarial examples of which several come from one image."""

import math

import numpy as np

from rcfast.eval.statistics.intervals import CONFIDENCE, Interval, Mean, clopper_pearson, wilson
from rcfast.eval.statistics.resampling import FEWEST, RESAMPLES, bca, bounded

FEW = 2  # examples with a success (or a failure) up to which that end is taken from `bounded`


def clustered_rate(
    success: np.ndarray, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Interval of the share of True in success [N, ...] bool, where only the N examples are independent.

    One trial an example: Wilson's interval. Several: the bootstrap over examples (expanded BCa, see
    `resampling.bca`). Where all or none succeed: the exact binomial interval of N examples, as if the targets of
    an example always succeeded or failed together, which is the conservative end. Where at most two examples
    have a success (failure), of which a bootstrap cannot know, the upper (lower) end is not below (above) that of
    `resampling.bounded`; that is also used where there are fewer than six examples or all have equal shares. N = 0
    gives [0, 1].

    Raises:
        ValueError: confidence outside (0, 1), resamples < 1.
    """
    count = len(success)
    flat = np.asarray(success).reshape(count, -1, 1) if count else np.zeros((0, 1, 1))
    low, high = clustered_rates(flat, confidence=confidence, resamples=resamples, seed=seed)
    return Interval(float(low[0]), float(high[0]))


def clustered_rates(
    success: np.ndarray, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """`clustered_rate` of G rates at once: success [N, T, G] bool -> low [G], high [G]."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    n, trials, points = success.shape
    counts = success.sum(1).astype(np.float64)  # [N, G]
    total = counts.sum(0)
    low, high = np.empty(points), np.empty(points)
    end = (total == 0) | (total == n * trials)
    for g in np.flatnonzero(end | (trials == 1)):
        interval = clopper_pearson if end[g] else wilson
        of = interval(round(total[g] / trials), n, confidence=confidence)
        low[g], high[g] = of.low, of.high
    rest = np.flatnonzero(~end & (trials > 1))
    if len(rest):
        how = {"confidence": confidence, "resamples": resamples, "seed": seed}
        low[rest], high[rest] = _between(counts[:, rest], trials, **how)  # type: ignore[arg-type]
    return low, high


def _between(
    counts: np.ndarray, trials: int, *, confidence: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ends [G] for successes counts [N, G] of `trials` each, neither all nor none."""
    how = {"confidence": confidence, "resamples": resamples, "seed": seed}
    flat = (counts == counts[0]).all(0) | (len(counts) < FEWEST)
    few_low = flat | ((counts < trials).sum(0) <= FEW)
    few_high = flat | ((counts > 0).sum(0) <= FEW)
    low, high = np.full(counts.shape[1], np.inf), np.full(counts.shape[1], -np.inf)
    if not flat.all():
        found = bca(counts[:, ~flat], **how)  # type: ignore[arg-type]
        low[~flat], high[~flat] = found[0] / trials, found[1] / trials
    careful = few_low | few_high
    if careful.any():
        outer = bounded(counts[:, careful] / trials, **how)  # type: ignore[arg-type]
        low[careful] = np.where(few_low[careful], np.minimum(low[careful], outer[0]), low[careful])
        high[careful] = np.where(few_high[careful], np.maximum(high[careful], outer[1]), high[careful])
    return low.clip(0, 1), high.clip(0, 1)


def clustered_mean(values: np.ndarray, counted: np.ndarray) -> Mean:
    """Mean of values [N, ...] where counted [N, ...] bool, its standard error over the N examples that have any.

    The error is that of a ratio of sums over examples, sqrt(C/(C-1)·Σ e_i²) / n with e_i the sum of an example's
    deviations from the mean (linearisation; CR1 of a regression on a constant). Equal to s/sqrt(n) where every
    example has one value. C is the number of examples with a value; its t interval has C - 1 degrees of freedom.

    Raises:
        ValueError: the shapes differ, or a counted value is NaN or infinite.
    """
    values, counted = np.asarray(values, np.float64), np.asarray(counted, bool)
    if values.shape != counted.shape:
        raise ValueError(f"values and counted must have one shape, got {values.shape} and {counted.shape}")
    flat, mask = values.reshape(len(values), -1), counted.reshape(len(values), -1)
    if not np.isfinite(flat[mask]).all():
        raise ValueError("counted values must be finite")
    number, clusters = int(mask.sum()), int(mask.any(1).sum()) if mask.size else 0
    if not number:
        return Mean(None, None, 0, 0)
    mean = math.fsum(flat[mask].tolist()) / number
    if clusters == 1:
        return Mean(mean, None, number, 1)
    sums = [math.fsum((row[keep] - mean).tolist()) for row, keep in zip(flat, mask, strict=True)]
    square = math.fsum(e * e for e in sums)
    return Mean(mean, math.sqrt(clusters / (clusters - 1) * square) / number, number, clusters)


def design_effect(success: np.ndarray) -> float:
    """By how much clustering multiplies the variance of a rate: success [N, ...] bool, in [1, trials].

    The variance between the examples' shares over N, divided by that of independent trials. Where all or none
    succeed, or there is one example, nothing is known and the number of trials is returned.
    """
    n = len(success)
    flat = np.asarray(success, np.float64).reshape(n, -1) if n else np.zeros((0, 1))
    trials, rate = flat.shape[1], flat.mean() if flat.size else 0.0
    if n < 2 or rate in (0.0, 1.0):
        return float(trials)
    between = flat.mean(1).var(ddof=1) / n
    return float(min(max(between / (rate * (1 - rate) / (n * trials)), 1.0), trials))
