"""The hypercube of the paper."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import ops
from .base import Region, clamped
from .checks import Clip, check_clip, check_radius


@dataclass(frozen=True, eq=False, repr=False)
class Cube(Region):
    """Uniform on the hypercube of half-width ``r`` around the example (paper, section 4).

    ``clip="intersect"``, the paper's: uniform on B(x, r) ∩ [0,1]^n, each coordinate on
    [max(0, x_j - r), min(1, x_j + r)]. ``"clamp"``: x + U(-r, r), clamped to [0, 1], which piles mass on 0 and 1.

    The size ``r`` is the half-width, the greatest Linf distance of a point: a number >= 0, or a floating tensor
    [B]. Each coordinate takes one of 65,536 equally spaced values of its interval.

    Raises TypeError or ValueError, naming the argument and the value.
    """

    SIZE: ClassVar[str] = "r"
    r: float | Tensor
    clip: Clip = "intersect"

    def __post_init__(self) -> None:
        object.__setattr__(self, "r", check_radius(self.r))
        check_clip(self.clip)

    def reach(self, n: int) -> float | Tensor:
        return self.r * math.sqrt(n)

    def spread(self, n: int) -> float | Tensor:
        return self.r

    def fill(
        self, out: Tensor, x: Tensor, *, seed: int | Tensor, example_ids: Tensor, first_sample: int
    ) -> None:
        ops.sample_hypercube_(
            out, x, self.r, seed=seed, example_ids=example_ids, first_sample=first_sample, clip=self.clip
        )

    def vjp(
        self, x: Tensor, points: Tensor, grad: Tensor, *, seed: int, example_ids: Tensor, first_sample: int
    ) -> Tensor:
        points, grad = points.to(torch.float32), grad.to(torch.float32)
        if self.clip == "clamp":
            return clamped(points, grad).sum(1)
        # low + (high - low) * u: each end moves with x unless it is an end of [0, 1].
        r = self.r.to(x.device).view(-1, *[1] * (x.ndim - 1)) if isinstance(self.r, Tensor) else self.r
        low, high = (x - r).clamp(0, 1), (x + r).clamp(0, 1)
        width = (high - low)[:, None]
        share = torch.where(width > 0, (points - low[:, None]) / width, 0.5).clamp(
            0, 1
        )  # reduced dtypes round
        first, last = (x - r >= 0).to(grad.dtype), (x + r <= 1).to(grad.dtype)
        return first * ((1 - share) * grad).sum(1) + last * (share * grad).sum(1)
