"""Faster forward and backward passes of an attacked model: memory format and precision. The user's model is kept."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from rcfast.attacks.attacked import AttackedModel
from rcfast.attacks.margins import magnitude, margin, resolution
from rcfast.attacks.memory import copies_fit
from rcfast.hardware import has_bfloat16_units
from rcfast.running import Model, plain

LARGE = 256  # coordinates of an image from which on bfloat16 was faster
TRIED = 4  # rows on which bfloat16 is compared
CLOSE = 0.05  # the largest error of a difference of logits in bfloat16, as a share of it


def channels_last(model: AttackedModel, x: Tensor) -> AttackedModel:
    """The same model with convolution weights in channels_last, on a CPU twice as fast; the user's is kept.

    Only on images x [n,C,H,W] on a CPU, where the model gives the same logits and gradients so and memory is enough.
    """
    if not copies_fit(model.model, x):
        return model
    faster = plain(model.model).reformatted(x)
    return model if faster is model.model else _calling(model, faster)


def half(model: AttackedModel, x: Tensor) -> AttackedModel:
    """The same model computing in bfloat16 where that pays and keeps its logits, for the steps of a search.

    It pays on images x [n,C,H,W] float32 where the device has units for bfloat16, which the caller knows; on
    Zen 4 a forward and backward pass of the MNIST network takes 0.4 of the time. Its successes are to be confirmed
    with `model`.
    """
    if (
        x.dtype != torch.float32
        or x.dim() != 4
        or x[0].numel() < LARGE
        or torch.is_autocast_enabled(x.device.type)
    ):
        return model
    inner = model.model

    def lower(z: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return inner(z).to(z.dtype)

    # Noise that is always the same, not x: who is attacked together must not decide about the precision.
    noise = torch.rand(
        TRIED, *x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=x.dtype, device="cpu"
    )
    few = noise.to(x.device)
    try:
        exact, rough = inner(few), lower(few)
    except (RuntimeError, TypeError):  # not every module can be called under autocast
        return model
    return _calling(model, lower, rough=True) if _close(exact, rough) else model


def logits_in_parts(model: AttackedModel, x: Tensor, rows: Tensor) -> Tensor:
    """Logits [n,L] of x [n,...], with their graph; where it would not fit into memory, a pass in parts and another one.

    rows [n]: which examples of the batch these are.
    """
    if len(x) <= model.limit or not model.in_parts:
        return model.logits(x, rows)
    logits: Tensor = _InParts.apply(x, rows, model)
    return logits


class _InParts(torch.autograd.Function):
    """Logits without a graph, at most `limit` rows at once; the graph of each part is made when its slope is wanted.

    Not torch's checkpoints: their hooks are forbidden to models that use function transforms.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, model: AttackedModel) -> Tensor:
        ctx.save_for_backward(x, rows)
        ctx.model = model
        return model.predict(x, rows)

    @staticmethod
    def backward(ctx: Any, wanted: Tensor) -> tuple[Tensor | None, ...]:
        x, rows = ctx.saved_tensors
        grads = []
        for part, row, slope in zip(*(t.split(ctx.model.limit) for t in (x, rows, wanted)), strict=True):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_(True)
                logits = ctx.model.logits(leaf, row)
                if not logits.requires_grad:
                    raise TypeError("model must be differentiable: its logits carry no gradient in x")
                grads += torch.autograd.grad(logits, leaf, slope)
        return torch.cat(grads), None, None


def _close(exact: Tensor, rough: Tensor) -> bool:
    """Whether logits [n,L] in lower precision say by how much each class trails behind the first, up to CLOSE of it.

    Or of what a quarter of the classes trail by at most: masked logits, far behind, have no part in it.
    """
    first = exact.argmax(1, keepdim=True)
    behind, roughly = (z.gather(1, first) - z for z in (exact, rough))
    near = behind.sort(dim=1).values[:, max(1, exact.shape[1] // 4), None]
    return bool(((roughly - behind).abs() <= CLOSE * torch.maximum(behind, near)).all())


Precision = Literal["auto", "float32", "bfloat16"]


def check_precision(precision: str) -> None:
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be auto, float32 or bfloat16, got {precision!r}")


@dataclass(frozen=True)
class Searched:
    """An attacked model: `rough` for the gradients of a search, `exact` for what it hands out."""

    exact: AttackedModel
    rough: AttackedModel

    def grain(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Differences between a target's of rough logits [n,L] and the others up to this [n] may be rounding."""
        if self.rough is self.exact:
            return resolution(logits, targets)
        return torch.finfo(torch.bfloat16).eps / 2 * magnitude(logits, targets)

    def towards(self, x: Tensor, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rough logits [n,L] of x [n,...], the gradient [n,...] of the margin that the targets [n] lack, the grain [n].

        rows [n]: which examples of the batch these are.
        """
        logits, (gradient,) = self.rough.gradients(x, rows, lambda z: -margin(z, targets, targeted=True))
        return logits, gradient, self.grain(logits, targets)


def searched(model: AttackedModel, x: Tensor, precision: Precision) -> Searched:
    exact = channels_last(model, x)
    low = has_bfloat16_units(x.device) if precision == "auto" else precision == "bfloat16"
    return Searched(exact, half(exact, x) if low else exact)


def _calling(model: AttackedModel, function: Model, *, rough: bool = False) -> AttackedModel:
    """The attacked model with another function inside; both count their queries in the same place."""
    changed = copy.copy(model)
    changed.model, changed.rough = function, rough
    return changed
