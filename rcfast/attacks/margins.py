"""Margins of logits, how finely a precision tells them apart, and the shape that multiplies rows."""

from __future__ import annotations

import torch
from torch import Tensor

FAR = 1e4  # of the two logits that compete; below, what others add to the allowance is 2% of these at most


def per_row(value: Tensor, like: Tensor) -> Tensor:
    """value [n] shaped [n,1,...,1] so that it multiplies like [n,...] row by row."""
    return value.reshape(-1, *[1] * (like.dim() - 1))


def margin(logits: Tensor, labels: Tensor, *, targeted: bool) -> Tensor:
    """By how much [n] an attack has succeeded, positive on success: logits [n,L], labels [n] int64.

    Targeted: Z_t - max_{i≠t} Z_i. Untargeted: max_{i≠y} Z_i - Z_y. Differentiable; float32 or better.
    """
    own, other = rivals(logits, labels)
    return own - other if targeted else other - own


def hits(logits: Tensor, labels: Tensor, *, targeted: bool) -> Tensor:
    """Where [...] the largest of logits [...,L] is the label's, or for an untargeted attack another's; labels [...].

    Logits with NaN, which argmax takes for the largest, are no success.
    """
    return ((logits.argmax(-1) == labels) == targeted) & ~logits.isnan().any(-1)


def rivals(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logit of the label and the largest other one [n], of logits [n,L]; float32 or better."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = logits.gather(1, labels[:, None])[:, 0]
    return own, logits.scatter(1, labels[:, None], -torch.inf).amax(1)


def magnitude(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest [n] among the logits [n,L] that compete: not FAR larger than the label's or the largest other."""
    own, other = rivals(logits.detach(), labels)
    size = logits.detach().abs().to(own.dtype)
    competing = size <= FAR * torch.maximum(own.abs(), other.abs())[:, None]
    return torch.where(competing, size, 0).amax(1)


def resolution(logits: Tensor, labels: Tensor) -> Tensor:
    """Differences up to this [n] between the label's of logits [n,L] and the largest other may be rounding.

    An attack that stops at the first sign of success lands as close to the boundary as numbers go, where the
    same example judged in a batch of another size may fall on the other side. Searches ask for this much
    more. Logits that do not compete, such as masked ones, have no part in it.
    """
    return rounding(logits.dtype) * magnitude(logits, labels)


def rounding(dtype: torch.dtype) -> float:
    """The share of a logit that may be rounding: sums of float32 and float64 add up in an order that varies.

    Logits of less precision were summed in float32, and rounded once at the end.
    """
    eps = torch.finfo(dtype).eps
    return eps if eps > 1e-4 else 16 * eps
