"""The worst case: of everything that was tried on an example, what an attacker would hand in at each size of noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rcfast.eval.outputs.attack_rows import judged, sizes
from rcfast.eval.outputs.outcomes import Attempt
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured
from rcfast.eval.run.examples import examples
from rcfast.eval.run.protocol import NORMS, judging
from rcfast.eval.statistics import clustered_rates


@dataclass(frozen=True)
class Tried:
    """K adversarial examples of each of N examples, the clean one first, as one defence labels them.

    noise: [N,K] by norm; wrong [S,N,K] bool: the label is not the true one, by vote seed; lead [S,N,K]: by which share
    of the votes it leads.
    """

    noise: dict[str, np.ndarray]
    wrong: np.ndarray
    lead: np.ndarray

    @property
    def judging(self) -> slice:
        """The seeds that judge: those that the attacker does not use, where there are any."""
        return judging(len(self.wrong))


def tried(ctx: Context, own: Measured, attempts: Sequence[Attempt]) -> Tried:
    """Return all that was tried on a defence, over all attacks, targets and alphas."""
    drawn = examples(ctx)
    truth = drawn.y[: drawn.drawn][None, :, None]
    found = [judged(ctx, own, made, alpha) for _, made, alpha in attempts]
    clean, lead = found[0].clean[..., None], found[0].clean_lead[..., None]
    noise = [sizes(ctx, made, alpha) for _, made, alpha in attempts]
    zero = np.zeros((drawn.drawn, 1))
    return Tried(
        noise={
            norm: np.concatenate([zero, *(one[norm] for one in noise)], axis=1) for norm in NORMS.values()
        },
        wrong=np.concatenate([clean, *(one.said for one in found)], axis=2) != truth,
        lead=np.concatenate([lead, *(one.lead for one in found)], axis=2),
    )


def least(noise: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Return the least noise [N] among the wrongly labelled of noise [N,K], wrong [N,K]; inf where there is none."""
    found: np.ndarray = np.where(wrong, noise, np.inf).min(axis=1)
    return found


def handed_in(noise: np.ndarray, wrong: np.ndarray, lead: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return which candidate [N,G] is handed in where noise of at most `at` [G] is allowed, -1 for none.

    noise, wrong, lead [N,K]: as the attacker sees them. Of the wrongly labelled ones that are small enough the one
    whose wrong label leads by most, so that it lasts under other votes; of equals the one with the least noise.
    """
    order = np.argsort(noise, axis=1, kind="stable")
    sorted_noise, sorted_wrong, sorted_lead = (
        np.take_along_axis(part, order, axis=1) for part in (noise, wrong, lead)
    )
    score = np.where(sorted_wrong, sorted_lead, -np.inf)
    best = np.maximum.accumulate(score, axis=1)
    before = np.concatenate([np.full((len(score), 1), -np.inf), best[:, :-1]], axis=1)
    place = np.maximum.accumulate(np.where(score > before, np.arange(score.shape[1]), 0), axis=1)
    picked = np.where(best > -np.inf, np.take_along_axis(order, place, axis=1), -1)
    allowed = np.stack([np.searchsorted(row, at, side="right") for row in sorted_noise])
    found: np.ndarray = np.where(
        allowed > 0, np.take_along_axis(picked, np.maximum(allowed - 1, 0), axis=1), -1
    )
    return found


def broken(own: Tried, norm: str, at: np.ndarray) -> np.ndarray:
    """Return whether what is handed in is wrong by the votes that judge: bool [N,J,G] for noise of at most at [G]."""
    pick = handed_in(own.noise[norm], own.wrong[0], own.lead[0], at)
    judged = own.wrong[own.judging]
    each = np.take_along_axis(judged, np.maximum(pick, 0)[None], axis=2) & (pick >= 0)
    return np.moveaxis(each, 0, 1)


@dataclass(frozen=True)
class Curve:
    """The share of examples that are broken with noise of at most `at`, by unseen votes and by those of the choice."""

    at: list[float]
    rate: list[float]
    low: list[float]
    high: list[float]
    known: list[float]

    def first(self, end: list[float]) -> float | None:
        """The least noise at which one of these is at least a half, None where none is."""
        return next((at for at, value in zip(self.at, end, strict=True) if value >= 0.5), None)


def curve(own: Tried, norm: str, at: np.ndarray) -> Curve:
    """Return the envelope over all that was tried, in one norm."""
    success = broken(own, norm, at)
    low, high = clustered_rates(success)
    known = least(own.noise[norm], own.wrong[0])
    return Curve(
        at=at.tolist(),
        rate=success.mean((0, 1)).tolist(),
        low=low.tolist(),
        high=high.tolist(),
        known=(known[:, None] <= at).mean(0).tolist(),
    )


def optimality(noise: np.ndarray, best: np.ndarray) -> float | None:
    """Return how close an attack comes to the best of all: 1 the same for every example, 0 nothing found.

    noise, best [N]: the least noise found by the attack and by any, 0 where no attack was needed, inf for a failure.
    1 - (A - A*)/(A0 - A*), where A and A* are the areas under the curves of robust accuracy of the attack and of the
    best, up to the largest noise that the best needs, and A0 that of an attack that finds nothing. None where no
    attack found anything, or none was needed.

    Source: A. E. Cinà et al., AttackBench: evaluating gradient-based attacks for adversarial examples, 2024.
    """
    needed = best[np.isfinite(best)]
    end = float(needed.max(initial=0.0))
    if end == 0:
        return None
    # The area under the share of examples whose noise is larger than e, for e up to the end, is a mean.
    area, least_area = (float(np.minimum(part, end).mean()) for part in (noise, best))
    nothing = float((best > 0).mean()) * end
    return 1 - (area - least_area) / (nothing - least_area) if nothing > least_area else None
