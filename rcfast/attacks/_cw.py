"""What the three Carlini-Wagner attacks share: tanh space, Adam with a clock per row, and the rolling batch.

Source: Carlini and Wagner, "Towards evaluating the robustness of neural networks" (2017), sections V and VI.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, Self, TypeVar, get_args

import torch
from torch import Tensor, nn

from rcfast.attacks.base import AttackedModel, Model, per_row, resolution
from rcfast.hardware import has_bfloat16_units

# atanh of exactly 0 or 1 is infinite, and its gradient zero: this keeps such pixels movable.
ATANH_SCALE = 0.999999
# |w| where searches start at most: pixels at 0 or 1 start 0.0009 inside. On MNIST, from |w| = 7.25 (ATANH_SCALE) the
# first success came up to 250 iterations later and the noise after 600 was 4% higher.
START = 3.5
TRAVEL = 1.5  # |w| from START to where the slope of tanh is 20 times what it is there
LARGE = 256  # coordinates of an image from which on bfloat16 was faster
TRIED = 4  # rows on which bfloat16 is compared
REACH, HALVINGS = 0.1, 9  # of the line search: 0.1 towards x and beyond, to 0.0004 of the noise
CLOSE = 0.05  # the largest error of a logit in bfloat16, as a share of the largest logit
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of Adam


def to_tanh(x: Tensor) -> Tensor:
    """w with x ≈ (tanh w + 1)/2, finite for every x in [0,1]."""
    return torch.atanh((2 * x - 1) * ATANH_SCALE)


def movable(x: Tensor) -> Tensor:
    """The w where a search starts at x: at most START from 0, because farther out tanh is too flat to move."""
    return to_tanh(x).clamp(-START, START)


def travel(rate: float) -> int:
    """Steps of Adam in which a pixel at 0 or 1 comes from `movable` to where tanh has a slope."""
    return math.ceil(TRAVEL / rate)


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
    return model if faster is None else _calling(model, faster)


def half(model: AttackedModel, x: Tensor) -> AttackedModel:
    """The same model computing in bfloat16 where that pays and keeps its logits, for the steps of a search.

    It pays on images x [n,C,H,W] float32 on a CPU with units for bfloat16; on Zen 4 a forward and
    backward pass of the MNIST network takes 0.4 of the time. Its successes are to be confirmed with `model`.
    """
    if (
        x.dtype != torch.float32
        or x.dim() != 4
        or x[0].numel() < LARGE
        or torch.is_autocast_enabled(x.device.type)
    ):
        return model
    if x.device.type != "cpu" or not has_bfloat16_units("cpu"):
        return model
    inner = model.model

    def lower(z: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return inner(z).to(z.dtype)

    # Noise that is always the same, not x: who is attacked together must not decide about the precision.
    noise = torch.rand(TRIED, *x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    few = noise.to(x.device)
    try:
        exact, rough = inner(few), lower(few)
    except (RuntimeError, TypeError):  # not every module can be called under autocast
        return model
    spread = (exact - exact.mean(1, keepdim=True)).abs().amax(1)
    error = (rough - exact - (rough - exact).mean(1, keepdim=True)).abs().amax(1)
    return _calling(model, lower) if bool((error <= CLOSE * spread).all()) else model


Precision = Literal["auto", "float32"]


def check_precision(precision: str) -> None:
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be auto or float32, got {precision!r}")


@dataclass(frozen=True)
class Searched:
    """An attacked model: `rough` for the gradients of a search, `exact` for what it hands out."""

    exact: AttackedModel
    rough: AttackedModel

    def grain(self, logits: Tensor) -> Tensor:
        """Differences of rough logits [n,L] up to this [n] may be rounding."""
        if self.rough is self.exact:
            return resolution(logits)
        return torch.finfo(torch.bfloat16).eps / 2 * logits.abs().amax(1)


def searched(model: AttackedModel, x: Tensor, precision: Precision) -> Searched:
    exact = channels_last(model, x)
    return Searched(exact, exact if precision == "float32" else half(exact, x))


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


def _calling(model: AttackedModel, function: Model) -> AttackedModel:
    """The attacked model with another function inside; both count their queries in the same place."""
    changed = copy.copy(model)
    changed.model = function
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
