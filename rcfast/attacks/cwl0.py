"""Carlini and Wagner's L0 attack, a rolling batch in which every row has its own free pixels and c."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from rcfast.attacks._climb import Climb, ClimbingAttack
from rcfast.attacks._cw import from_tanh, tanh_slope
from rcfast.attacks.attacked import AttackedModel
from rcfast.attacks.margins import margin, per_row

MARGIN = 0.01  # by which the target's logit must lead
SLACK = 1e-4  # a loss f below this is a success
CHANGED = 1e-4  # a pixel that moved less has not changed
MATTERS = 0.01  # |delta|·|grad f| of a pixel after which no other is frozen in the same round
SLIGHT = 0.3  # gradient of the distance, beside that of c·f, that is not what an attempt fails of
# A difference of logits that an attempt which failed for want of c does not miss. At 0.15 rows on a ResNet ended after
# one attempt of 26 to 66 iterations; without the rule they changed 4% fewer channels.
FAR = 0.4
FAINT = 0.1  # gradient of the distance below which a larger c leads to no other attempt, only to another path
STRIDE = 4.0  # how much c grows after an attempt in which the distance outweighed c·f; the original's is 2
SHORT = 4.0  # by how much c may fall short of what it would need if f were linear
PORTION = 0.3  # at most this times sqrt(changed pixels) are frozen in a round


@dataclass(frozen=True, kw_only=True)
class CWL0(ClimbingAttack):
    """T-CW-L0: repeat min ||x' - x||² + c·f(x') on the pixels still free, and freeze those that matter least.

    f = max(max_{i≠t} Z_i - Z_t + 0.01, 0); Adam on w, x' = (tanh w + 1)/2, until the first success. Then the
    free pixels with the smallest |delta|·|grad f| are frozen at their clean values: at most 0.3·sqrt(changed
    pixels), none after one above 0.01; the channels of a pixel (inputs [N,C,H,W]) freeze together. The next
    attempt starts at the last success. Without a success c doubles, from `c0` below `c_max`; then the point with
    the fewest changes of all that had the label t is returned, or the last success if it has fewer once changes
    below 1e-4 are undone.

    scaled measures f in units of the example's own slope, so that c and 0.01 mean the same for any scale of the logits.
    abort_early ends an attempt that would not succeed within `iterations` if what is missing went on falling at
    one and a half times its present pace; before the first success, one in which it fell by less than 0.01% in
    a tenth of them after pixels at 0 or 1 had time to move, and one whose c is four times too small for f to
    reach zero along the steepest gradient met. Larger c are left out when they do not help: the distance is less
    than 10% of the gradient throughout a failed attempt (30% if f is far from zero), or twice the c missed
    hardly less although the gradient of c·f outweighed the distance's; after a success c grows fourfold instead
    where it did not. Without it, as in the original, all are
    taken. Where no larger c is left, `retries` times (0 in the original) the pixel that matters most of those frozen
    last stays free for good, and the others alone are frozen, or the next one in its place; from then on a row has
    one attempt a round. `twice` searches once more with steps five times as large and a fifth of the iterations, and
    keeps the success with fewer changes: which pixels are frozen first decides where a search ends, and neither step
    size is the better one throughout (without it, one search as in the original). `precision` of the gradients:
    `auto` is bfloat16 where that is faster and close; every success is confirmed in the precision of x.

    Source: Carlini and Wagner (2017), section VI.B; the paper's section 2.2.1. Defaults are the original's.
    Raises ValueError for a hyperparameter that is not positive, retries below 0.
    """

    norm: ClassVar[float] = 0

    iterations: int = 1000
    rate: float = 1e-2
    c0: float = 1e-3
    c_max: float = 2e6
    twice: bool = True
    retries: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or self.retries < 0:
            raise ValueError(f"retries must be an integer of at least 0, got {self.retries!r}")

    @classmethod
    def fast(cls, **changes: Any) -> Self:
        """A smaller budget for a CPU: one search of 200 iterations an attempt with larger steps."""
        return super().fast(**{"twice": False, **changes})

    def _run(self, model: AttackedModel, x: Tensor, labels: Tensor) -> Tensor:
        one = super()._run(model, x, labels)
        if not self.twice:
            return one
        bolder = self.replace(rate=5 * self.rate, iterations=max(1, self.iterations // 5), twice=False)
        other = bolder._run(model, x, labels)
        rows = torch.arange(len(x), device=x.device)
        changes = []
        for found in (one, other):
            success = self._accepts(model.predict(found, rows), labels)
            changes.append((found != x).flatten(1).sum(1).masked_fill(~success, x[0].numel() + 1))
        return torch.where(per_row(changes[1] < changes[0], x), other, one)

    def _bound(self, x: Tensor) -> Tensor:
        return torch.ones_like(x, dtype=torch.bool)

    def _failed(self, x: Tensor) -> Tensor:
        return torch.zeros_like(_pixels(x)[:, 0], dtype=torch.bool)

    def _adversarial(self, state: Climb) -> Tensor:
        return torch.where(state.bound, from_tanh(state.w), state.x)

    def _slope(self, adversarial: Tensor, state: Climb) -> Tensor:
        return tanh_slope(adversarial) * state.bound

    def _distance(self, adversarial: Tensor, state: Climb) -> tuple[Tensor, Tensor]:
        delta = adversarial - state.x
        return delta.flatten(1).square().sum(1), 2 * delta

    def _least_c(self, state: Climb) -> Tensor:
        if_linear = 2 * state.least / state.steepest  # where the least of the loss would just reach f = 0
        return torch.where(state.solved | (state.steepest == 0), 0, if_linear / SHORT)

    def _futile(self, state: Climb) -> Tensor:
        far = (state.share < SLIGHT) & (state.least > FAR)
        return far | (state.share < FAINT) | state.failed.any(1)

    def _growth(self, state: Climb) -> Tensor:
        held = state.solved & (
            state.share > 1
        )  # after the first success six attempts a row failed so on a ResNet
        return torch.where(held & self.abort_early, STRIDE, 2.0).to(state.c.dtype)

    def _missing(self, hinge: Tensor, distance: Tensor, state: Climb) -> Tensor:
        return hinge

    def _goal(self, grain: Tensor) -> Tensor:
        return MARGIN + 2 * grain

    def _succeeds(self, logits: Tensor, distance: Tensor, state: Climb) -> Tensor:
        lead = margin(logits, state.target, targeted=True) / state.unit
        return self._accepts(logits, state.target) & (lead > MARGIN - SLACK)

    def _tighten(self, state: Climb) -> Tensor:
        delta = state.solution - state.x
        changed = (_pixels(delta.abs()) >= CHANGED).any(1).sum(1)
        portion = (PORTION * changed.to(delta.dtype).sqrt()).ceil().clamp(min=1)
        return self._freeze(state, _pixels(state.bound)[:, 0], portion)

    def _give_up(self, state: Climb) -> Tensor:
        """Frees what was frozen last; the pixel of it that matters most stays free from now on."""
        free = _pixels(state.bound)[:, 0]
        last = (_pixels(state.solution) != _pixels(state.x)).any(1) & ~free
        change = self._change(state).masked_fill(~last, -1)
        state.failed = state.failed | (last & (change == change.amax(1, keepdim=True)))
        state.c = state.c / 2  # it had grown; where the distance outweighed c·f it stays twice what it was
        portion = (last.sum(1) - 1).clamp(min=1)
        return self._freeze(state, free | last, portion) | (state.failed.sum(1) > self.retries)

    def _change(self, state: Climb) -> Tensor:
        """What the change of each pixel did to f at the last success, to first order [r,P]."""
        return _pixels((state.solution - state.x).abs() * state.slope.abs()).sum(1)

    def _freeze(self, state: Climb, free: Tensor, portion: Tensor) -> Tensor:
        """Freezes up to portion [r] of the free pixels [r,P], the least ones, in place; returns where all ends."""
        can = free & ~state.failed
        change, order = self._change(state).masked_fill(~can, torch.inf).sort(dim=1, stable=True)
        most = torch.minimum(portion, (change <= MATTERS).sum(1) + 1)
        place = torch.arange(change.shape[1], device=change.device)
        frozen = torch.zeros_like(free).scatter(1, order, place < most[:, None])
        free = free & ~(frozen & can)
        state.bound = free[:, None].expand(_pixels(state.bound).shape).reshape(state.bound.shape).clone()
        return ~can.any(1) | ~free.any(1)

    def _outcome(self, model: AttackedModel, state: Climb) -> Tensor:
        found, least = state.nearest, state.noise
        # The last success has the fewest pixels that moved visibly.
        for point in (state.nearest, state.solution):
            undone = torch.where((point - state.x).abs() < CHANGED, state.x, point)
            changes = self._noise(undone, state)
            fewer = (changes < least) & self._accepts(model.predict(undone, state.row), state.target)
            found = torch.where(per_row(fewer, found), undone, found)
            least = torch.where(fewer, changes, least)
        return found


def _pixels(values: Tensor) -> Tensor:
    """values [r,...] as [r,channels,pixels]: images have their channels first, others have no channels."""
    return values.flatten(2) if values.dim() == 4 else values.flatten(1)[:, None]
