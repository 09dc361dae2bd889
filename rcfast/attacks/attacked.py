"""The model under attack: logits, gradients, slopes that are infinite, and the count of forward passes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from rcfast.running import Model

Observer = Callable[[Tensor, Tensor, Tensor], None]  # inputs, logits and examples of a forward pass
observers: list[Observer] = []  # told of every forward pass of an attacked model, for diagnosis
INSIDE = 1e-3  # how far from 0 and 1 a slope is taken that is infinite there


@dataclass
class _Slopes:
    """What is known of slopes that are infinite or NaN, for all forms of a model in one batch."""

    met: Tensor  # [1] bool: since the last look, while they were not expected
    left_out: Tensor  # [1] bool: some was taken for 0 although it was expected
    steep: bool | None = None  # whether they are expected; None before the first gradient


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
        self._slopes = _Slopes(*torch.zeros(2, 1, dtype=torch.bool, device=queries.device))
        self._once = False  # whether a graph serves for one backward pass only

    def logits(self, x: Tensor, rows: Tensor) -> Tensor:
        """Logits [n,L] of x [n,...]; keeps the graph if x requires a gradient and gradients are enabled."""
        self.queries.index_add_(0, rows, torch.ones_like(rows))
        logits = self.model(x)
        if logits.dtype == torch.float64 != x.dtype:
            logits = logits.to(torch.float32)  # the points are no finer, and searches compute as x does
        for observer in observers:
            observer(x, logits, rows if self.examples is None else self.examples[rows])
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
        is taken INSIDE the box instead, once the first call or a later `look` has met one; else it becomes 0.
        """
        logits, grads = self._differentiate(x, rows, losses)
        slopes = self._slopes
        if (
            slopes.steep is None
        ):  # found out at the first call and in `look`: each time waits for a GPU's work
            slopes.steep = not all(bool(g.isfinite().all()) for g in grads)
        if slopes.steep:
            _, inner = self._differentiate(x.clamp(INSIDE, 1 - INSIDE), rows, losses)
            grads = [torch.where(g.isfinite(), g, other) for g, other in zip(grads, inner, strict=True)]
        return logits, [self.finite(g) for g in grads]

    def finite(self, gradient: Tensor) -> Tensor:
        """A gradient, in place, without slopes that are infinite or NaN: 0 there; they are remembered for `warn`."""
        slopes = self._slopes
        (slopes.left_out if slopes.steep else slopes.met).logical_or_(~gradient.isfinite().all())
        return gradient.nan_to_num_(0.0, 0.0, 0.0)

    def look(self) -> None:
        """Finds out whether infinite slopes were met since the last look; waits for a GPU's work."""
        slopes = self._slopes
        if not slopes.steep and bool(slopes.met):
            slopes.steep = True
            slopes.met.zero_()

    def warn(self) -> None:
        """Warns of slopes that were taken for 0 in an attack that has ended."""
        if bool(self._slopes.left_out | self._slopes.met):
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
