"""Carlini and Wagner's Linf attack, a rolling batch in which every row has its own tau and c."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from rcfast.attacks._climb import Climb, ClimbingAttack
from rcfast.attacks._cw import SLOWEST, from_tanh
from rcfast.attacks.inputs import check_positive
from rcfast.attacks.margins import per_row

TOLERANCE = 1e-4  # a loss below this share of c is a success
GAP = 0.03  # between the largest change of a success and a tau that failed: closer ones are not told apart
WEAK = 0.3  # c times the largest gradient, beside the gradient 1 of the penalty, that makes headway
FAR = 0.15  # a difference of logits that an attempt which failed for want of c does not miss
USUAL = 0.15  # noise below which steps become shorter with it; the rates are for MNIST, where it is 0.19
BEYOND = 2.0  # how much larger than that of a linear f the noise of the first attempt may be
SHRINK = 0.9  # of tau after a success
# Of the way from the tau between to the last success: a success farther out is one by TOLERANCE alone, where the search
# began, and the next one would be the same for ever.
NEARER = 0.9


@dataclass(frozen=True, kw_only=True)
class CWLinf(ClimbingAttack):
    """T-CW-Linf: min sum_i (|x'_i - x_i| - tau)_+ + c·f(x'), f = max(max_{i≠t} Z_i - Z_t, 0).

    Adam on w, x' = (tanh w + 1)/2, until the first success: the loss is below 1e-4·c and the model says t.
    tau starts at 1 and after a success becomes 0.9 times the smaller of itself and the largest change made;
    each attempt starts at the last success. Without a success c doubles, from `c0` below `c_max`; when c or tau
    (`tau_min`) ends, the least noisy point of all that had the label t is returned, as a rule the last success.

    refine: when the largest c fails, go on between the tau that failed and the largest change of the last success, in
    halves, until they are within 3%. Never more noise than without it.

    scaled measures f in units of the example's own slope, so that c means the same for any scale of the logits, and
    shortens Adam's steps where the noise is below 0.15, first twice that of a linear f, then that of the last success;
    before the first success they are `bold` times as long.
    abort_early ends an attempt that would not succeed within `iterations` if what is missing went on falling
    at one and a half times its present pace; before the first success, one in which it fell by less than 0.01% in a
    tenth of them after pixels at 0 or 1 had time to move. After the first success c is at least 0.3 over the largest
    gradient, below which the penalty leaves Adam no headway, and larger c are left out when f stays far from zero
    or twice the c missed hardly less. Without it, as in the original, all are taken. `precision` of the gradients:
    `auto` is bfloat16 where that is faster and close; every success is confirmed in the precision of x.

    Source: Carlini and Wagner (2017), section VI.C; the paper's equation (5). Defaults are the original's.
    Raises ValueError for a hyperparameter that is not positive.
    """

    norm: ClassVar[float] = float("inf")

    iterations: int = 1000
    rate: float = 5e-3
    c0: float = 1e-5
    c_max: float = 20.0
    tau_min: float = 1 / 256
    refine: bool = True

    bold: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(bold=self.bold)

    @classmethod
    def fast(cls, **changes: Any) -> Self:
        """A smaller budget for a CPU: 200 iterations an attempt, five times as bold before the first success.

        As bold after it, a ResNet on CIFAR-10 took 1.7 times the noise of the full budget; never bold, 200 iterations
        do not reach MNIST's farthest targets.
        """
        return super().fast(**{"rate": 1e-2, "bold": 5.0, **changes})

    def _pace(self, noise: Tensor, x: Tensor) -> Tensor:
        return (noise / USUAL).clamp(SLOWEST, 1)

    def _scale(self, state: Climb, unit: Tensor, linear: Tensor) -> None:
        super()._scale(state, unit, BEYOND * linear)
        state.pace = state.pace * self.bold

    def _bound(self, x: Tensor) -> Tensor:
        return x.new_ones(len(x))

    def _adversarial(self, state: Climb) -> Tensor:
        return from_tanh(state.w)

    def _distance(self, adversarial: Tensor, state: Climb) -> tuple[Tensor, Tensor]:
        delta = adversarial - state.x
        excess = delta.abs() - per_row(state.bound, delta)
        return excess.clamp(min=0).flatten(1).sum(1), delta.sign() * (excess > 0)

    def _least_c(self, state: Climb) -> Tensor:
        steepest = state.slope.flatten(1).abs().amax(1)  # 0 on a plateau, where no c helps
        return torch.where(state.solved, (WEAK / steepest).clamp(max=self.c_max), 0)

    def _futile(self, state: Climb) -> Tensor:
        return self._missed(state) > FAR

    def _give_up(self, state: Climb) -> Tensor:
        if not self.refine:
            return torch.ones_like(state.solved)
        reached = (state.solution - state.x).flatten(1).abs().amax(1)
        state.failed = torch.maximum(state.failed, state.bound)
        state.bound = (state.failed + reached) / 2
        state.c = state.best_c.clone()
        return reached <= (1 + GAP) * state.failed

    def _missing(self, hinge: Tensor, distance: Tensor, state: Climb) -> Tensor:
        return distance + state.c * hinge

    def _missed(self, state: Climb) -> Tensor:
        # What is missing itself grows with c: where the hinge halves as c doubles, it stays the same.
        return state.least / state.c

    def _goal(self, grain: Tensor) -> Tensor:
        return 2 * grain

    def _succeeds(self, logits: Tensor, distance: Tensor, state: Climb) -> Tensor:
        return self._accepts(logits, state.target) & (distance < TOLERANCE * state.c)

    def _tighten(self, state: Climb) -> Tensor:
        reached = (state.solution - state.x).flatten(1).abs().amax(1)
        between = state.failed > 0
        stuck = between & (reached > state.bound + NEARER * (state.bound - state.failed))
        state.bound = SHRINK * torch.minimum(state.bound, reached)
        state.bound = torch.where(between, (state.failed + reached) / 2, state.bound)
        if self.scaled:
            state.pace = self._pace(reached, state.x)
        return (state.bound <= self.tau_min) | stuck | (between & (reached <= (1 + GAP) * state.failed))
