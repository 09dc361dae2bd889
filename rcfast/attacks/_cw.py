"""What the three Carlini-Wagner attacks share: tanh space, Adam with a clock per row, and the rolling batch.

Source: Carlini and Wagner, "Towards evaluating the robustness of neural networks" (2017), sections V and VI.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from rcfast.attacks.base import AttackedModel, Model, per_row

# atanh of exactly 0 or 1 is infinite, and its gradient zero: this keeps such pixels movable.
ATANH_SCALE = 0.999999
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of Adam


def to_tanh(x: Tensor) -> Tensor:
    """w with x ≈ (tanh w + 1)/2, finite for every x in [0,1]."""
    return torch.atanh((2 * x - 1) * ATANH_SCALE)


def from_tanh(w: Tensor) -> Tensor:
    """(tanh w + 1)/2, in [0,1]."""
    return (torch.tanh(w) + 1) / 2


def tanh_slope(x: Tensor) -> Tensor:
    """dx/dw at x = (tanh w + 1)/2."""
    return 2 * x * (1 - x)


@dataclass
class Rows:
    """Tensors with one row for each example under attack; rows leave and join between steps."""

    row: Tensor  # [R] int64: which example of the batch

    def __len__(self) -> int:
        return len(self.row)

    def select(self, rows: Tensor) -> Self:
        """Some rows: int64 indices or a bool mask [R]."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def put(self, rows: Tensor, values: Self) -> None:
        """Replaces rows (int64 indices [r]) by the r rows of values."""
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(values, f.name)

    def join(self, other: Self) -> Self:
        """These rows, then the other ones."""
        return type(self)(
            **{f.name: torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)}
        )


SPAN = 4  # looks back over which the pace of a fall is measured


def remember(past: Tensor, now: Tensor, at: Tensor) -> Tensor:
    """past [R,SPAN], oldest first, moved on by now [R] in the rows `at` [R] bool."""
    return torch.where(at[:, None], torch.cat([past[:, 1:], now[:, None]], 1), past)


AnyRows = TypeVar("AnyRows", bound=Rows)


@dataclass
class Adam(Rows):
    """Variables and moments of Adam, each row with its own clock."""

    w: Tensor  # [R,...] tanh space
    first: Tensor  # [R,...] mean of the gradients
    second: Tensor  # [R,...] mean of their squares
    clock: Tensor  # [R] int64: steps since the last reset

    def step_(self, gradient: Tensor, rate: float) -> None:
        """One step of Adam on every row; gradient [R,...] in w."""
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


def roll(
    count: int,
    width: int,
    *,
    device: torch.device,
    start: Callable[[Tensor], AnyRows],
    advance: Callable[[AnyRows], Tensor],
    finish: Callable[[AnyRows], None],
    progress: Callable[[float], None],
) -> None:
    """Passes `count` examples through a batch of at most `width` rows that is refilled as rows finish.

    start: rows [r] int64 -> their fresh state. advance: some work on the state in place; returns a bool mask
    [R] of finished rows. finish: takes the state of finished rows. What a row goes through depends on itself
    alone.
    """
    waiting = torch.arange(count, device=device)
    state, waiting = start(waiting[:width]), waiting[width:]
    left = count
    while len(state):
        finished = advance(state)
        leaving = finished.nonzero().flatten()
        if not len(leaving):
            continue
        finish(state.select(leaving))
        left -= len(leaving)
        progress(1 - left / count)
        state = state.select(~finished)
        if len(waiting):
            free = width - len(state)
            state, waiting = state.join(start(waiting[:free])), waiting[free:]


def channels_last(model: AttackedModel, x: Tensor) -> AttackedModel:
    """The same model with convolution weights in channels_last, on a CPU twice as fast; the user's is kept.

    Only plain modules on images x [n,C,H,W] on a CPU are changed: the module is called with other weights.
    """
    if x.device.type != "cpu" or x.dim() != 4:
        return model
    faster = _reformatted(model.model)
    if faster is None:
        return model
    changed = copy.copy(model)
    changed.model = faster
    return changed


def _reformatted(model: Model) -> Model | None:
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return None
    if hasattr(model, "_orig_mod"):  # compiled: it has chosen its layout
        return None
    weights = {
        f"{name}.weight": m.weight.detach().to(memory_format=torch.channels_last)
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Conv2d) and "weight" in m._parameters
    }
    if not weights:
        return None
    return lambda x: torch.func.functional_call(model, weights, (x,))
