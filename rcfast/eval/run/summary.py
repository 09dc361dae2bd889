"""From what an attack achieves to one row of the results: rates, noise, and how sure they are."""

from __future__ import annotations

import math

import numpy as np

from rcfast.eval.results import AttackRow, Group, PairedDifference, Reading
from rcfast.eval.run.protocol import NORMS, Outcome
from rcfast.eval.statistics import (
    clustered_mean,
    clustered_rate,
    design_effect,
    median_noise,
    paired_difference,
    variance_components,
    wilson,
)

RESAMPLES = 2000  # for the interval of a median, which asks for many intervals


def summarise(
    outcome: Outcome,
    *,
    group: Group,
    attack: str,
    norm: float,
    defence: str,
    reading: Reading,
    parameter: float | None = None,
    random: bool = False,
    undefended: Outcome | None = None,
) -> AttackRow:
    """Return one row of the results; `random` adds every vote seed's count.

    Reading "unseen" is the mean over the seeds that judge, and its noise leaves out what succeeds without an attack;
    the others are by the first seed alone, as the paper counts. undefended: what the same attack achieves on the
    undefended network, on the same images.
    """
    unseen = reading == "unseen"
    judging = slice(None) if unseen else slice(1)
    success, noise, already = (
        np.moveaxis(part[judging], 0, -1) for part in (outcome.success, outcome.noise, outcome.already)
    )
    n, judged = int(success[..., 0].size), success.shape[-1]
    count = success.sum() / judged
    counted = success & ~already if unseen else success
    mean = clustered_mean(noise, counted)
    interval, naive = clustered_rate(success), wilson(count, n)
    row: AttackRow = {
        "group": group,
        "attack": attack,
        "norm": NORMS[norm],  # type: ignore[typeddict-item]
        "defence": defence,
        "reading": reading,
        "parameter": parameter,
        "success": _whole(count),
        "n": n,
        "examples": len(success),
        "interval": [interval.low, interval.high],
        "naive_interval": [naive.low, naive.high],
        "design_effect": design_effect(success),
        "already": _whole((success & already).sum() / judged),
        "noise_mean": mean.mean,
        "noise_se": mean.se,
        "noise_n": _whole(counted.sum() / judged),
        "noise_examples": int(counted.any(axis=(1, 2)).sum()),
        "noise_median": None,
        "noise_median_interval": None,
        "per_seed": [int(s.sum()) for s in outcome.success] if random else [],
        "seeds_share": None,
        "versus_undefended": None,
    }
    if unseen and n:
        row["noise_median"], row["noise_median_interval"] = _median(success, noise, already)
        parts = variance_components(outcome.success)
        row["seeds_share"] = parts.seeds_share if parts else None
        if undefended is not None:
            row["versus_undefended"] = versus(success, np.moveaxis(undefended.success, 0, -1))
    return row


def _median(
    success: np.ndarray, noise: np.ndarray, already: np.ndarray
) -> tuple[float | None, list[float | None]]:
    """The median noise with its interval, all [N,T,S]; failures are infinite, and infinity is None."""
    found = median_noise(
        np.where(already & success, 0.0, np.where(success, noise, np.inf)), resamples=RESAMPLES
    )
    low, high = found.interval.low, found.interval.high
    return _finite(found.value), [_finite(low), _finite(high)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def versus(own: np.ndarray, undefended: np.ndarray) -> PairedDifference:
    """Compare own [N,...] bool with the undefended network on the same images, [N,...] or broadcast to it."""
    found = paired_difference(own, np.broadcast_to(undefended, own.shape))
    return {
        "difference": found.value,
        "interval": [found.interval.low, found.interval.high],
        "p": found.p,
        "only_here": found.first_only,
        "only_undefended": found.second_only,
    }


def _whole(value: float) -> float:
    """A count as an integer where it is one: a mean over seeds need not be."""
    return int(value) if float(value).is_integer() else float(value)
