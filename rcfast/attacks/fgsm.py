"""Fast gradient sign method with the smallest step that succeeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rcfast.attacks._passes import channels_last
from rcfast.attacks.attacked import AttackedModel
from rcfast.attacks.base import Attack
from rcfast.attacks.inputs import check_counts, check_positive
from rcfast.attacks.margins import per_row

# Steps of one example in a forward pass: more would be tried in vain beyond the first success. Not taken from the
# number of examples, so that the queries of one do not depend on the others.
STEPS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """T-FGSM: x' = clip(x - eps·sign(grad_x J(x,t)), 0, 1) with the smallest eps on a grid that succeeds.

    Goodfellow et al., "Explaining and harnessing adversarial examples" (2015), targeted, PAPER section 3. J
    is the cross-entropy. One gradient for each example. Success is not monotone in eps, so the whole grid
    max_eps·k/steps, k = 1 … steps, is scanned from small to large; below the first success, the grid that is
    `refine` times finer is scanned in the same way. Examples leave at their first success.

    steps: 256, one step of an 8-bit pixel; refine: 16; max_eps: 1, the whole range of inputs.
    Raises ValueError unless steps and refine are positive integers and 0 < max_eps <= 1.
    """

    norm: ClassVar[float] = float("inf")
    targeted: ClassVar[bool] = True

    steps: int = 256
    refine: int = 16
    max_eps: float = 1.0

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, refine=self.refine)
        check_positive(max_eps=self.max_eps)
        if self.max_eps > 1:
            raise ValueError(f"max_eps must be at most 1, the range of inputs, got {self.max_eps!r}")

    @classmethod
    def fast(cls, **changes: Any) -> Self:
        """A smaller budget for a CPU: a first grid of 64 steps, the finer one in 1/1024."""
        return cls(**{"steps": 64, **changes})

    def _held(self) -> int:
        return 8 + 4 * STEPS_AT_ONCE

    def _run(self, model: AttackedModel, x: Tensor, labels: Tensor) -> Tensor:
        model = channels_last(model, x)
        rows = torch.arange(len(x), device=x.device)
        _, (gradient,) = model.gradients(x, rows, lambda z: cross_entropy(z, labels, reduction="sum"))
        direction = -gradient.sign()
        coarse = self._first_success(model, x, direction, labels, torch.zeros_like(rows), self.steps, 1)
        found = (coarse > 0).nonzero().flatten()
        numerator = coarse * self.refine
        if self.refine > 1 and len(found):
            below = numerator[found] - self.refine
            fine = self._first_success(
                model, x, direction, labels, below, self.refine - 1, self.refine, found
            )
            numerator[found] = torch.where(fine > 0, fine, numerator[found])
        return self._step(x, direction, numerator, self.refine)

    def _step(self, x: Tensor, direction: Tensor, numerator: Tensor, refine: int) -> Tensor:
        eps = numerator.to(x.dtype) * self.max_eps / (self.steps * refine)
        return (x + per_row(eps, x) * direction).clamp(0, 1)

    def _first_success(
        self,
        model: AttackedModel,
        x: Tensor,
        direction: Tensor,
        labels: Tensor,
        start: Tensor,
        count: int,
        refine: int,
        rows: Tensor | None = None,
    ) -> Tensor:
        """For each of `rows` the smallest of start+1 … start+count that succeeds, 0 if none does."""
        active = torch.arange(len(x), device=x.device) if rows is None else rows
        found = torch.zeros_like(start)
        place = torch.arange(
            len(start), device=x.device
        )  # where the active examples stand in start and found
        done = 0
        while done < count and len(active):
            width = min(count - done, STEPS_AT_ONCE)
            numerator = start[place, None] + torch.arange(done + 1, done + width + 1, device=x.device)
            many = active.repeat_interleave(width)
            trial = self._step(x[many], direction[many], numerator.flatten(), refine)
            accepted = self._accepts(model.predict(trial, many), labels[many]).view(-1, width)
            first = accepted.to(torch.uint8).argmax(1)
            hit = accepted.any(1)
            found[place] = torch.where(hit, numerator.gather(1, first[:, None])[:, 0], 0)
            stay = ~hit
            active, place = active[stay], place[stay]
            done += width
            model.progress(1 - len(active) / len(x) * (1 - done / count))
        return found
