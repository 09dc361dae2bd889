"""What the three Carlini-Wagner attacks share: tanh space, Adam with a clock per row, a line search.

Source: Carlini and Wagner, "Towards evaluating the robustness of neural networks" (2017), sections V and VI.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rcfast.attacks._passes import Precision, Searched, check_precision, searched
from rcfast.attacks._rolling import Rows, roll
from rcfast.attacks.attacked import AttackedModel
from rcfast.attacks.base import Attack
from rcfast.attacks.margins import margin, per_row

# atanh of exactly 0 or 1 is infinite, and its gradient zero: this keeps such pixels movable.
ATANH_SCALE = 0.999999
# |w| where searches start at most: pixels at 0 or 1 start 0.0009 inside. On MNIST, from |w| = 7.25 (ATANH_SCALE) the
# first success came up to 250 iterations later and the noise after 600 was 4% higher.
START = 3.5
# |w| from START to where the slope of tanh is 20 times what it is there: by the rate, the steps of Adam that it takes.
TRAVEL = 1.5
REACH, HALVINGS = 0.1, 9  # of the line search: 0.1 towards x and beyond, to 0.0004 of the noise
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of Adam


def to_tanh(x: Tensor) -> Tensor:
    """w with x ≈ (tanh w + 1)/2, finite for every x in [0,1]."""
    return torch.atanh((2 * x - 1) * ATANH_SCALE)


def movable(x: Tensor) -> Tensor:
    """The w where a search starts at x: at most START from 0, because farther out tanh is too flat to move."""
    return to_tanh(x).clamp(-START, START)


def from_tanh(w: Tensor) -> Tensor:
    """(tanh w + 1)/2, in [0,1]."""
    return (torch.tanh(w) + 1) / 2


# Lengths of the gradient of f at the images of the network on which the defaults were published (MNIST; medians of 36
# rows, in the norm that is dual to the distance term's gradient): there, units are 1.
TYPICAL = {0: 6.3, 2: 6.3, float("inf"): 1.5}
WITHIN = 0.05  # how far from 0 and 1 the slope is taken that sets the unit
SLOWEST = 0.01  # share of the rate that a search keeps however close the boundary looks


def units(pair: Searched, x: Tensor, rows: Tensor, targets: Tensor, norm: float) -> tuple[Tensor, Tensor]:
    """The unit [n] in which f is measured, and how far away [n] its zero is if it were linear, at x [n,...].

    A unit is proportional to the gradient of f, so that f in units is a length in the image, and c means the same for
    any scale of the logits. The gradient is taken WITHIN the box, as a root may be steep at its faces alone, and no
    less than one that leads to the target within the box. The distance is L2, or Linf for that norm.
    Two forward passes and one backward pass.
    """
    inside = x.clamp(WITHIN, 1 - WITHIN)
    _, (slope,) = pair.exact.gradients(inside, rows, lambda z: -margin(z, targets, targeted=True))
    logits = pair.exact.predict(x, rows)
    slope = slope.flatten(1).abs()
    gap = -margin(logits, targets, targeted=True).clamp(max=0)
    n = slope.shape[1]
    if norm == float("inf"):
        long, linear = torch.maximum(slope.amax(1), gap / n), gap / torch.maximum(slope.sum(1), gap)
    else:
        long = torch.maximum(slope.square().sum(1).sqrt(), gap / math.sqrt(n))
        linear = gap / long
    tiny = torch.finfo(x.dtype).tiny
    return (long / TYPICAL[norm]).clamp(min=tiny), linear.nan_to_num(0.0)


def tanh_slope(x: Tensor) -> Tensor:
    """dx/dw at x = (tanh w + 1)/2."""
    return 2 * x * (1 - x)


def excess(pair: Searched, point: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    """By how much [n] rough margins of the targets are larger than exact ones, at points [n,...]."""
    rough, exact = (margin(m.predict(point, rows), targets, targeted=True) for m in (pair.rough, pair.exact))
    return rough - exact


SPAN = 4  # looks back over which the pace of a fall is measured


def remember(past: Tensor, now: Tensor, at: Tensor) -> Tensor:
    """past [R,SPAN], oldest first, moved on by now [R] in the rows `at` [R] bool."""
    return torch.where(at[:, None], torch.cat([past[:, 1:], now[:, None]], 1), past)


@dataclass
class Adam(Rows):
    """Variables and moments of Adam, each row with its own clock."""

    w: Tensor  # [R,...] tanh space
    first: Tensor  # [R,...] mean of the gradients
    second: Tensor  # [R,...] mean of their squares
    clock: Tensor  # [R] int64: steps since the last reset

    def step_(self, gradient: Tensor, rate: Tensor | float) -> None:
        """One step of Adam on every row; gradient [R,...] in w; rate [R] or one for all."""
        self.clock += 1
        clock = self.clock.to(gradient.dtype)
        self.first.lerp_(gradient, 1 - BETA1)
        self.second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        rate_now = rate * (1 - BETA2**clock).sqrt() / (1 - BETA1**clock)
        self.w.addcdiv_(self.first * per_row(-rate_now, self.w), self.second.sqrt().add_(EPSILON))

    def reset_(self, rows: Tensor, w: Tensor) -> None:
        """Starts Adam anew for rows (int64 indices [r]) at w [r,...]."""
        self.w[rows] = w
        self.first[rows] = 0
        self.second[rows] = 0
        self.clock[rows] = 0


def shrink(
    model: AttackedModel, x: Tensor, point: Tensor, rows: Tensor, accepts: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The least noisy success [n,...] between x and a little beyond point [n,...], and whether there is one [n].

    A bisection: forward passes only. accepts: logits [n,L] -> bool [n].
    """
    delta = point - x
    low = x.new_full((len(x),), 1 - REACH)
    high = torch.full_like(low, 1 + REACH)
    found = torch.zeros_like(rows, dtype=torch.bool)
    for _ in range(HALVINGS):
        scale = (low + high) / 2  # the first is the point itself
        good = accepts(model.predict((x + per_row(scale, x) * delta).clamp(0, 1), rows))
        found |= good
        high, low = torch.where(good, scale, high), torch.where(good, low, scale)
    return (x + per_row(high, x) * delta).clamp(0, 1), found


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(Attack):
    """Base of the three attacks: each example is a row with a search of its own."""

    targeted: ClassVar[bool] = True
    rolling: ClassVar[bool] = True

    precision: Precision = "auto"
    scaled: bool = True

    def __post_init__(self) -> None:
        check_precision(self.precision)

    @abstractmethod
    def _start(self, rows: Tensor, x: Tensor, labels: Tensor) -> Any:
        """The fresh state of rows [r] int64 with their x [r,...] and labels [r]."""

    def _pace(self, noise: Tensor, x: Tensor) -> Tensor:
        """The share of the rate [n] that suits noise of length [n] in x [n,...]."""
        return torch.ones_like(noise)

    def _scale(self, state: Any, unit: Tensor, linear: Tensor) -> None:
        """Sets the unit [r] of f in a fresh state, and what follows from the noise [r] needed if f were linear."""
        state.unit, state.pace = unit, self._pace(linear, state.x)

    def _roughly(self, state: Any) -> None:
        """Makes a fresh state ready for gradients and successes that are rough."""

    @abstractmethod
    def _advance(self, pair: Searched, state: Any) -> Tensor:
        """Some iterations, in place; returns which rows [R] are finished."""

    @abstractmethod
    def _outcome(self, model: AttackedModel, state: Any) -> Tensor:
        """What is handed out for finished rows [r,...]."""

    def _run(self, model: AttackedModel, x: Tensor, labels: Tensor) -> Tensor:
        pair = searched(model, x, self.precision)

        def start(rows: Tensor, x: Tensor, labels: Tensor) -> Any:
            state = self._start(rows, x, labels)
            if pair.rough is not pair.exact:
                self._roughly(state)
            if self.scaled and len(rows):
                self._scale(state, *units(pair, x, rows, labels, self.norm))
            return state

        return roll(
            model,
            x,
            labels,
            start=start,
            advance=lambda state: self._advance(pair, state),
            outcome=lambda state: self._outcome(pair.exact, state),
        )
