"""The model under attack: logits, gradients, slopes that are infinite, and the count of forward passes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from rcfast.attacks.margins import per_row
from rcfast.running import Model

# Inputs, logits and examples of a forward pass, and whether it was in a reduced precision.
Observer = Callable[[Tensor, Tensor, Tensor, bool], None]
observers: list[Observer] = []  # told of every forward pass of an attacked model, for diagnosis
INSIDE = 1e-3  # how far from 0 and 1 a slope is taken that is infinite there


@dataclass
class _Slopes:
    """What is known of slopes that are infinite or NaN, for all forms of a model in one batch."""

    met: Tensor  # [b] int64: of each example since the last look, while they were not expected of it
    left_out: Tensor  # [b] int64: taken for 0 although they were expected
    steep: Tensor  # [b] bool: of which examples they are expected
    any: bool | None = None  # whether of any; None before the first gradient


@dataclass
class _Done:
    """How many examples of a batch the progress bar was told of, by all forms of a model."""

    examples: float = 0.0


class AttackedModel:
    """The attacked model during one batch: logits, gradients, and a count of the forward passes.

    `rows` [n] int64 says which example of the batch each row of the input belongs to, so that attacks may
    drop finished examples and try several variants of one at once. limit: rows that fit into memory at once.
    examples [b] int64: which of the attacked examples the batch holds, for observers. in_parts: `limit` is what memory
    takes, and a graph of more rows is made in parts, at the cost of a pass more.
    Neither the parameters nor their gradients are touched, and callers under torch.no_grad are fine.
    """

    def __init__(
        self,
        model: Model,
        *,
        num_classes: int,
        limit: int,
        queries: Tensor,
        bar: tqdm | None = None,
        examples: Tensor | None = None,
        in_parts: bool = False,
    ):
        self.examples, self.in_parts = examples, in_parts
        self.model, self.num_classes, self.limit, self.queries = model, num_classes, limit, queries
        self._bar, self._done = bar, _Done()
        none = torch.zeros_like(queries)
        self._slopes = _Slopes(none, none.clone(), none.bool())
        self._once = False  # whether a graph serves for one backward pass only
        self.rough = False  # whether the model computes in a reduced precision, whatever its logits are

    def logits(self, x: Tensor, rows: Tensor) -> Tensor:
        """Logits [n,L] of x [n,...]; keeps the graph if x requires a gradient and gradients are enabled."""
        self.queries.index_add_(0, rows, torch.ones_like(rows))
        logits = self.model(x)
        rough = self.rough or logits.dtype.itemsize < 4 or torch.is_autocast_enabled(x.device.type)
        if logits.dtype == torch.float64 != x.dtype:
            logits = logits.to(torch.float32)  # the points are no finer, and searches compute as x does
        for observer in observers:
            observer(x, logits, rows if self.examples is None else self.examples[rows], rough)
        return logits

    @torch.no_grad()
    def predict(self, x: Tensor, rows: Tensor) -> Tensor:
        """Logits [n,L] without a graph, in slices of at most `limit` rows."""
        if len(x) <= self.limit:
            return self.logits(x, rows)
        parts = zip(x.split(self.limit), rows.split(self.limit), strict=True)
        return torch.cat([self.logits(part, row) for part, row in parts])

    def gradients(
        self, x: Tensor, rows: Tensor, *losses: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits [n,L] at x [n,...] and, for each loss (logits -> [n] or scalar), its gradient [n,...] in x.

        One forward pass, one backward pass for each loss. A slope that is infinite or NaN, as that of a root at 0,
        is taken INSIDE the box instead, from then on for the examples that have met one; on a GPU from the first call
        or a later `look` on, and else it becomes 0. The pass inside counts for those examples alone.
        """
        logits, grads = self._differentiate(x, rows, losses)
        slopes = self._slopes
        at_once = _told_at_once(x.device)
        if slopes.any is None or at_once:  # else in `look`: each waits for a GPU's work
            for gradient in grads:
                slopes.met.index_add_(0, rows, _broken(gradient))
            slopes.any = bool(slopes.any)
            self.look()
        if at_once and not slopes.any:
            return logits, grads
        if slopes.any:
            before = self.queries.clone()
            _, inner = self._differentiate(x.clamp(INSIDE, 1 - INSIDE), rows, losses)
            self.queries.copy_(torch.where(slopes.steep, self.queries, before))
            kept = ~per_row(slopes.steep[rows], x)
            grads = [
                torch.where(kept | g.isfinite(), g, other) for g, other in zip(grads, inner, strict=True)
            ]
        return logits, [self.finite(g, rows) for g in grads]

    def finite(self, gradient: Tensor, rows: Tensor) -> Tensor:
        """A gradient [n,...], in place, without slopes that are infinite or NaN: 0 there; `warn` remembers them."""
        slopes, broken = self._slopes, _broken(gradient)
        if slopes.any:
            expected = broken * slopes.steep[rows]
            slopes.left_out.index_add_(0, rows, expected)
            broken = broken - expected
        slopes.met.index_add_(0, rows, broken)
        return gradient.nan_to_num_(0.0, 0.0, 0.0)

    def look(self) -> None:
        """Finds out of which examples infinite slopes were met since the last look; waits for a GPU's work."""
        slopes = self._slopes
        if slopes.any is not None and bool(slopes.met.any()):
            slopes.steep |= slopes.met > 0
            slopes.any = True
            slopes.met.zero_()

    def warn(self) -> None:
        """Warns of slopes that were taken for 0 in an attack that has ended."""
        if bool((self._slopes.left_out + self._slopes.met).any()):
            warnings.warn(
                "the gradient of the model is infinite or NaN in some coordinates, which are left out: "
                "the attack may be weaker than it looks",
                RuntimeWarning,
                stacklevel=2,
            )

    def _differentiate(
        self, x: Tensor, rows: Tensor, losses: Sequence[Callable[[Tensor], Tensor]]
    ) -> tuple[Tensor, list[Tensor]]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            logits = self.logits(leaf, rows)
            if not logits.requires_grad:  # a constant, or a model that votes
                raise TypeError(
                    "model must be differentiable: its logits carry no gradient in x (of a vote, attack the network, "
                    "or take an attack that knows votes, such as RegionCW)"
                )
            grads: list[Tensor] = []
            while len(grads) < len(losses):
                more = len(grads) + 1 < len(losses) and not self._once
                value = losses[len(grads)](logits).sum()
                try:
                    grads += torch.autograd.grad(value, leaf, retain_graph=more)
                except RuntimeError as error:  # compiled models may give the buffers of their graph away
                    if not more or "donated" not in str(error):
                        raise
                    self._once = True
                    continue
                if self._once and len(grads) < len(losses):
                    logits = self.logits(leaf, rows)
        return logits.detach(), grads

    def progress(self, share: float) -> None:
        """Tells the progress bar which share of this batch is finished."""
        if self._bar is not None:
            step = min(share, 1) * len(self.queries) - self._done.examples
            if step > 0:
                self._bar.update(min(step, self._bar.total - self._bar.n))  # sums of shares round
                self._done.examples += step


def _broken(gradient: Tensor) -> Tensor:
    """Which rows of a gradient [n,...] have a slope that is infinite or NaN: 1 or 0 [n], int64."""
    return (~gradient.isfinite().flatten(1).all(1)).long()


def _told_at_once(device: torch.device) -> bool:
    """Whether what was computed can be looked at without waiting for other work."""
    return device.type == "cpu"
