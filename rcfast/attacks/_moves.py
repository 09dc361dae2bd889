"""From a direction and a size to a point: the largest gain that noise of that size can buy in each norm.

A direction is the mean gradient [n,...] of what the attack wants to rise; if it were constant, the point
below would be the best one of that size in [0,1]. The least noise for a wish is such a point for its own gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rcfast.attacks.margins import per_row

SOFT = 0.1  # Linf: below this share of its mean a gradient moves its coordinate less than the others
TINY = 1e-12


def point(norm: float, x: Tensor, direction: Tensor, size: Tensor) -> Tensor:
    """The point [n,...] of this size [n] around x: length (2), largest change (inf), number of pixels (0)."""
    if norm == 2:
        length = direction.flatten(1).norm(dim=1).clamp(min=TINY)
        return (x + direction * per_row(size / length, x)).clamp(0, 1)
    if norm == math.inf:
        grain = SOFT * direction.flatten(1).abs().mean(1).clamp(min=TINY)
        return (x + (direction / per_row(grain, x)).clamp(-1, 1) * per_row(size, x)).clamp(0, 1)
    ends = (direction > 0).to(x.dtype)
    gain = pixels((ends - x) * direction)
    count = size.round().long().clamp(1, gain.shape[1])
    least = gain.sort(dim=1, descending=True).values.gather(1, count[:, None] - 1)
    chosen = (gain >= least) & (gain > 0)
    return torch.where(spread(chosen, x), ends, x)


def first_size(norm: float, x: Tensor, direction: Tensor, lack: Tensor) -> Tensor:
    """The size [n] at which the gain along a constant gradient [n,...] makes good for what is lacking [n]."""
    flat = direction.flatten(1)
    lack = lack.clamp(min=0)
    if norm == 2:
        return (lack / flat.norm(dim=1).clamp(min=TINY)).clamp(1e-3, math.sqrt(flat.shape[1]))
    if norm == math.inf:
        return (lack / flat.abs().sum(1).clamp(min=TINY)).clamp(1e-3, 1)
    gain = pixels(((direction > 0).to(x.dtype) - x) * direction).sort(dim=1, descending=True).values.cumsum(1)
    return (gain < lack[:, None]).sum(1).to(x.dtype) + 1


def size_of(norm: float, noise: Tensor) -> Tensor:
    """The size [n] of a noise [n,...] as :func:`point` counts it."""
    if norm == 0:
        return (pixels((noise != 0).to(noise.dtype)) > 0).sum(1).to(noise.dtype)
    length: Tensor = torch.linalg.vector_norm(noise.flatten(1), norm, dim=1)
    return length


def pixels(values: Tensor) -> Tensor:
    """Sums over the channels of each pixel: images [n,C,H,W] -> [n,P]; of others every coordinate is a pixel."""
    return values.flatten(2).sum(1) if values.dim() == 4 else values.flatten(1)


def spread(chosen: Tensor, like: Tensor) -> Tensor:
    """A choice of pixels [n,P] for all coordinates [n,...]."""
    return chosen.view(len(like), 1, *like.shape[2:]) if like.dim() == 4 else chosen.view_as(like)
