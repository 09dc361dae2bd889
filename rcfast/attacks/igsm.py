"""Iterative gradient sign method with the smallest ball in which it succeeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rcfast.attacks._passes import channels_last
from rcfast.attacks._rolling import Rows, roll
from rcfast.attacks.attacked import AttackedModel
from rcfast.attacks.base import Attack
from rcfast.attacks.inputs import check_counts, check_positive
from rcfast.attacks.margins import margin, per_row
from rcfast.attacks.memory import HELD

# On a GPU looking whether rows are finished waits for all work queued: look only every so many iterations.
ITERATIONS_BETWEEN_LOOKS = 8
SLOTS = 32  # iterates of the first walk that are kept


@dataclass
class _Search(Rows):
    """One row for each example: its iterate, and the bracket of eps in units of the grid."""

    x: Tensor  # [R,...] clean
    target: Tensor  # [R] int64
    point: Tensor  # [R,...]
    before: Tensor  # [R,...] the iterate before point
    step: Tensor  # [R] int64: iterations at this eps
    eps: Tensor  # [R] int64: tried now
    low: Tensor  # [R] int64: the largest that failed
    high: Tensor  # [R] int64: the smallest that succeeded
    best: Tensor  # [R,...] the success with the least noise
    kept: Tensor  # [R,S,...] iterates of the first walk, every so many steps


@dataclass(frozen=True, kw_only=True)
class IGSM(Attack):
    """T-IGSM: x' <- clip_{x,eps}(x' - a·sign(grad J(x',t))) from x, with the smallest eps that succeeds.

    Kurakin et al., "Adversarial examples in the physical world" (2017), targeted, PAPER section 3. J is the
    cross-entropy, clip_{x,eps} also keeps [0,1], every iterate counts. eps runs over the multiples of
    a/refine up to max_eps: first the largest, then a quarter less until one fails, then bisection between the
    largest failure and the smallest success; a success with less noise than its eps lowers the bracket to its
    noise. (Of 90 searches on digits one had a failure above its smallest success.) An eps fails after
    `iterations` more steps than the walk to the edge of the ball takes, or as soon as an iterate repeats the
    one before the last. Each example has its own bracket. A walk is that of every larger eps until it meets the edge
    of its ball: those after the first begin there, at an iterate that was kept.

    loss: J, cross-entropy as published, whose gradient vanishes or tends to that of one pair of classes as logits
    become large; or margin, max_{i≠t} Z_i - Z_t, the same for any scale of the logits.
    step: a = 1/256; refine: 16, so that eps moves in 1/4096; iterations: 50; max_eps: 1.
    Raises ValueError for another loss, and unless refine and iterations are positive integers, 0 < step and
    0 < max_eps <= 1.
    """

    norm: ClassVar[float] = float("inf")
    targeted: ClassVar[bool] = True
    rolling: ClassVar[bool] = True

    loss: Literal["cross-entropy", "margin"] = "cross-entropy"
    step: float = 1 / 256
    refine: int = 16
    iterations: int = 50
    max_eps: float = 1.0

    def __post_init__(self) -> None:
        if self.loss not in ("cross-entropy", "margin"):
            raise ValueError(f"loss must be cross-entropy or margin, got {self.loss!r}")
        check_counts(refine=self.refine, iterations=self.iterations)
        check_positive(step=self.step, max_eps=self.max_eps)
        if self.max_eps > 1:
            raise ValueError(f"max_eps must be at most 1, the range of inputs, got {self.max_eps!r}")

    @classmethod
    def fast(cls, **changes: Any) -> Self:
        """A smaller budget for a CPU: 10 steps at the edge of the ball, eps in multiples of a/4."""
        return cls(**{"iterations": 10, "refine": 4, **changes})

    @property
    def _largest(self) -> int:
        """The eps of the first walk, in units of the grid."""
        return max(1, round(self.max_eps * self.refine / self.step))

    @property
    def _stride(self) -> int:
        """Steps of the first walk from one iterate that is kept to the next."""
        return -(-math.ceil(self.max_eps / self.step) // SLOTS)

    def _run(self, model: AttackedModel, x: Tensor, labels: Tensor) -> Tensor:
        model = channels_last(model, x)
        looks = ITERATIONS_BETWEEN_LOOKS if x.is_cuda else 1

        def advance(state: _Search) -> Tensor:
            for _ in range(looks):
                self._iterate(model, state)
            return state.high - state.low <= 1

        return roll(model, x, labels, start=self._start, advance=advance, outcome=lambda state: state.best)

    def _start(self, rows: Tensor, x: Tensor, labels: Tensor) -> _Search:
        largest = torch.full_like(labels, self._largest)
        return _Search(
            row=rows,
            x=x,
            target=labels,
            point=x.clone(),
            before=x.clone(),
            step=torch.zeros_like(labels),
            eps=largest,
            low=torch.zeros_like(labels),
            high=largest + 1,
            best=x.clone(),
            kept=x[:, None].repeat(1, SLOTS + 1, *[1] * (x.dim() - 1)),
        )

    def _held(self) -> int:
        return HELD + 2 * SLOTS

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.loss == "margin":
            return -margin(logits, target, targeted=True)
        return cross_entropy(logits, target, reduction="sum")

    def _iterate(self, model: AttackedModel, s: _Search) -> None:
        """One iteration of every row; a row whose eps is decided starts anew at its next eps."""
        logits, (gradient,) = model.gradients(s.point, s.row, lambda z: self._loss(z, s.target))
        unit = self.step / self.refine
        radius = per_row(s.eps.to(s.x.dtype) * unit, s.x).clamp(max=self.max_eps)
        moved = s.point - self.step * gradient.sign()
        moved = torch.minimum(torch.maximum(moved, s.x - radius), s.x + radius).clamp(0, 1)

        searching = s.high - s.low > 1
        success = self._accepts(logits, s.target) & searching
        noise = (s.point - s.x).abs().flatten(1).amax(1)
        reached = torch.minimum((noise / unit - 1e-3).ceil().long(), s.eps)  # 1e-3: rounding of the noise
        repeats = (moved == s.before).flatten(1).all(1) | (moved == s.point).flatten(1).all(1)
        walk = (s.eps + self.refine - 1) // self.refine
        failure = ~success & searching & (repeats | (s.step >= self.iterations + walk))

        stride, everyone = self._stride, torch.arange(len(s), device=s.x.device)
        slot = s.step // stride
        first = (s.high > self._largest) & (s.step % stride == 0) & (slot <= SLOTS)
        slot = torch.where(first, slot, 0)  # the clean input, which is there already
        s.kept[everyone, slot] = torch.where(per_row(first, s.x), s.point, s.x)

        s.best = torch.where(per_row(success, s.x), s.point, s.best)
        s.high = torch.where(success, reached, s.high)
        s.low = torch.where(failure, s.eps, s.low)
        decided = success | failure
        middle = torch.where(s.low == 0, s.high - s.high // 4, (s.low + s.high) // 2)
        middle = torch.minimum(middle, s.high - 1)
        s.eps = torch.where(decided, middle, s.eps)
        # The last one kept before the walk meets the edge of its ball, short of what rounding could move.
        slot = ((s.eps // self.refine - 1).clamp(min=0) // stride).clamp(max=SLOTS)
        s.step = torch.where(decided, slot * stride, s.step + 1)
        anew = per_row(decided, s.x)
        s.before = torch.where(anew, s.x, s.point)
        s.point = torch.where(anew, s.kept[everyone, slot], moved)
