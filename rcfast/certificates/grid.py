"""Noise on a lattice that the grid of 8-bit images divides, so that its certificates hold in floating point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import ops
from ..hardware import divisor
from ..regions import Region, check_int
from ..regions.base import clamped

VALUES = 1 << 16  # of the noise: all 16-bit numbers, equally likely
EXACT = 1 << 24  # whole numbers up to here are exact in float32


@dataclass(frozen=True, eq=False, repr=False)
class LatticeCube(Region):
    """x + U(-r, r) clamped to [0, 1], on a lattice: ``steps`` lattice points to one of ``levels`` grey levels.

    The 65,536 values of the noise are neighbours on the lattice of spacing h = 1/(levels·steps); the half-width is
    therefore r = 32,768 h. For an example on the grid (x·levels whole) a point is a function of one whole number alone,
    its place on the lattice, so that a shift of x by whole levels shifts the distribution exactly, which rounding
    to floats can not undo: what a real number's certificate assumes holds (docs/certificates.md, Theorem 6).

    Raises ValueError where a place would not be exact in float32 (r below about 0.002 at 255 levels).
    """

    SIZE: ClassVar[str] = "r"
    steps: int
    levels: int = 255

    def __post_init__(self) -> None:
        check_int("levels", self.levels, 1, EXACT)
        check_int("steps", self.steps, 1, EXACT)
        if self.levels * self.steps + VALUES > EXACT:
            raise ValueError(
                f"r must be at least {VALUES / 2 / (EXACT - VALUES):.3g} on a lattice, got {self.r:.3g}"
            )

    @classmethod
    def near(cls, r: float, levels: int) -> LatticeCube:
        """The lattice whose half-width is nearest to ``r`` > 0."""
        return cls(steps=max(1, round(VALUES / 2 / (levels * r))), levels=levels)

    @property
    def r(self) -> float:
        """The half-width."""
        return VALUES / 2 / (self.levels * self.steps)

    def resized(self, size: float | Tensor) -> LatticeCube:
        return self.near(float(size), self.levels)

    def check(self, shape: torch.Size) -> None:
        """Any shape fits."""

    def fill(
        self, out: Tensor, x: Tensor, *, seed: int | Tensor, example_ids: Tensor, first_sample: int
    ) -> None:
        place = out if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
        half = torch.full_like(x, 0.5)
        # (k + 0.5) / 65536, k the 16-bit variate: exact.
        ops.sample_hypercube_(
            place, half, 0.5, seed=seed, example_ids=example_ids, first_sample=first_sample, clip="clamp"
        )
        level = (x * self.levels).round()[:, None]
        place.mul_(VALUES).sub_(0.5 + VALUES // 2).add_(level * self.steps)
        place.clamp_(0, self.levels * self.steps)
        place.div_(divisor(place, self.levels * self.steps))
        if place is not out:
            out.copy_(place)

    def vjp(
        self, x: Tensor, points: Tensor, grad: Tensor, *, seed: int, example_ids: Tensor, first_sample: int
    ) -> Tensor:
        return clamped(points, grad.to(torch.float32)).sum(1)

    def identity(self) -> dict[str, Any]:
        return {"region": "LatticeCube", "steps": self.steps, "levels": self.levels}


def check_on_grid(x: Tensor, levels: int) -> None:
    """``x`` [B, ...] is k/levels, k whole, rounded to float32. Raises ValueError naming the first that is not."""
    on_grid = (x * levels).round() / divisor(x, levels)
    off = (on_grid != x).flatten(1).any(1)
    if bool(off.any()):
        index = int(off.nonzero()[0])
        bad = x[index][on_grid[index] != x[index]][0].item()
        raise ValueError(
            f"x must lie on the grid of {levels} levels (k/{levels}), got {bad} in example {index}"
        )
