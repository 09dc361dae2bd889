"""What a point gives the labels: one vote to its own (the paper), or weights.

A weight is an integer number of units of 2^-24, and a point gives at most 1 in all. Sums over points therefore have no
order: a vote with weights is the same in any chunk and batch, on any number of threads, as far as the logits are.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from . import ops, rounds
from .engine import Runner
from .ops import UNITS
from .regions import Region
from .sharing import Sharing
from .stopping import StoppingRule

Named = Literal["count", "softmax", "margin", "distance"]
Function = Callable[[Tensor, Tensor, Tensor], Tensor]
Weights = Named | Function


def check_weights(weights: Any, region: Region) -> Weights:
    """The name of a weight or a function, checked against the region it is for. Raises TypeError, ValueError."""
    if not isinstance(weights, str):
        if not callable(weights):
            raise TypeError(f"weights must be a name or a function, got {weights!r}")
        return weights
    if weights not in get_args(Named):
        names = ", ".join(map(repr, get_args(Named)))
        raise ValueError(f"weights must be one of {names} or a function, got {weights!r}")
    if weights == "distance":
        region.reach(1)  # or it says why not
    return weights  # type: ignore[return-value]


class Weighted(rounds.Casting):
    """Casts weighted votes: int64 [A, K, L+1], the weights given to each label in units, and the points cast."""

    dtype = torch.int64

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def columns(self, labels: int) -> int:
        return labels + 1

    def missing(self, votes: Tensor, samples: int) -> Tensor:
        return samples - votes[..., -1].sum(1)

    def cast(
        self, votes: Tensor, logits: Tensor, ends: list[int], points: Tensor, examples: rounds.Examples
    ) -> None:
        give = (
            self._function(logits, points, examples)
            if callable(self.weights)
            else self._named(logits, points, examples)
        )
        for k, (start, end) in enumerate(pairwise([0, *ends])):
            if start < end:
                votes[:, k] += give(slice(start, end))

    def _function(
        self, logits: Tensor, points: Tensor, examples: rounds.Examples
    ) -> Callable[[slice], Tensor]:
        assert callable(self.weights)
        units = _checked(self.weights(logits, points, examples.x), logits)
        return lambda part: units[:, part].sum(1)

    def _named(self, logits: Tensor, points: Tensor, examples: rounds.Examples) -> Callable[[slice], Tensor]:
        mode, near = str(self.weights), None
        if mode == "distance":
            mode, near = "weighted", nearness(points, examples.x, examples.region)

        def give(part: slice) -> Tensor:
            totals = torch.zeros(len(logits), logits.shape[2], dtype=torch.int64, device=logits.device)
            cast = torch.zeros(len(logits), dtype=torch.int32, device=logits.device)
            weights = None if near is None else near[:, part]
            ops.vote_soft_(totals, cast, logits[:, part], mode=mode, weights=weights)
            return torch.cat([totals, cast[:, None].to(torch.int64)], 1)

        return give


def nearness(points: Tensor, x: Tensor, region: Region) -> Tensor:
    """1 - d/reach of each point, at least 0, in units: ``points`` [B, s, ...] around ``x`` [B, ...] -> int32 [B, s].

    d is the L2 distance, and reach the greatest one of the region (:meth:`rcfast.regions.Region.reach`).
    """
    distance = torch.empty(points.shape[:2], dtype=torch.float32, device=points.device)
    ops.distance_(distance, points, x.to(torch.float32).contiguous())
    reach = region.reach(x[0].numel())
    if not isinstance(reach, Tensor):  # filled there: a copy waits for the device
        reach = torch.full((1,), reach, device=points.device)
    reach = reach.to(points.device, torch.float32)
    reach = reach.view(-1, 1)  # 0 where the region is the example itself, up to rounding
    share = torch.where((distance > 0) & (reach > 0), distance / reach, 0)
    return ((1 - share).clamp(0, 1) * UNITS).to(torch.int32)


def _checked(given: Any, logits: Tensor) -> Tensor:
    """Weights [b, s, L] of a function in units, and whether the point is without NaN: int64 [b, s, L+1]."""
    if not isinstance(given, Tensor) or given.shape != logits.shape:
        shape = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(f"weights must return a tensor of shape {list(logits.shape)}, got {shape}")
    valid = ~logits.isnan().any(-1, keepdim=True)
    weights = torch.where(valid, given.to(torch.float64), 0)
    total = weights.sum(-1, keepdim=True)
    if not bool(((weights >= 0).all(-1, keepdim=True) & (total <= 1 + 1e-6)).all()):  # NaN is neither
        raise ValueError(
            "weights must return weights >= 0 of which a point gives at most 1 in all: stopping rules rely on it; "
            f"got from {float(weights.min()):g} to {float(total.max()):g} in all"
        )
    return torch.cat([weights / total.clamp(min=1) * UNITS, valid], -1).to(torch.int64)


def count(
    runner: Runner,
    examples: rounds.Examples,
    rule: StoppingRule,
    weights: Weights,
    sharing: Sharing = rounds.ALONE,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rounds until every example has stopped: sums of weights [B, L] float64, label, samples [B] int64, decided [B].

    As :func:`rcfast.rounds.count`; ``rule.unit`` must be ``UNITS``. Raises ValueError where the model returns NaN.
    """
    batch, labels, device = len(examples), rule.num_classes, examples.x.device
    totals = torch.zeros(batch, labels, dtype=torch.int64, device="cpu")
    opening, samples = torch.zeros_like(totals), torch.zeros(batch, dtype=torch.int64, device="cpu")
    decided = torch.zeros(batch, dtype=torch.bool, device="cpu")
    casting = Weighted(weights)
    active, draw = np.arange(batch), rounds.Drawing(runner, examples, sharing, casting)
    checkpoints, first = rule.checkpoints(), 0
    while checkpoints and len(active):
        ends = rounds.together(checkpoints, first, len(active), runner.free_rows * sharing.size)
        ends = checkpoints[: sharing.first(len(ends))]
        votes, who = rounds.fetch(draw.votes(active, first, ends)), torch.from_numpy(active)
        for k, reached in enumerate(ends):
            # Of those that have not stopped before: how many checkpoints run together leaves no trace.
            rounds.check_cast(
                casting, votes[:, k : k + 1], reached - (ends[k - 1] if k else first), who.numpy()
            )
            totals[who] += votes[:, k, :-1]
            samples[who] = reached
            if first == 0 and k == 0:
                opening[who] = totals[who]
            stops, proven = rule.judge(totals[who], opening[who], reached)
            decided[who] = proven
            who, votes = who[~stops], votes[~stops]
        active, first, checkpoints = who.numpy(), ends[-1], checkpoints[len(ends) :]
    label = totals.argmax(1)
    sums = totals.to(torch.float64) / UNITS
    sent = rounds.sent
    return sent(sums, device), sent(label, device), sent(samples, device), sent(decided, device)
