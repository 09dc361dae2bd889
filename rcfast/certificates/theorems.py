"""Which theorem a region has: from bounds of shares to radii, for the examples at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..regions import Cube, Gaussian, L1Ball, L2Ball, Laplace, Region, Sphere
from . import radii
from .grid import VALUES, LatticeCube
from .radii import Norm, Radii

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Theorem:
    """``norm`` [of the radius], and radii from bounds of shares: ``rule(p, other, *per_example) -> Radii``.

    ``p`` [B]: lower bound of the label's share; ``other`` [B]: upper bound of every other label's share.
    """

    norm: Norm
    rule: Callable[..., Radii]
    per_example: tuple[Floats, ...] = ()  # [B] each, such as sizes

    def radii(self, p: Floats, other: Floats) -> Radii:
        return self.rule(p, other, *self.per_example)

    def __call__(self, p: Floats, other: Floats) -> Floats:
        return self.radii(p, other)[self.norm]

    def take(self, some: NDArray[np.int64]) -> Theorem:
        """The theorem for the examples ``some``."""
        return Theorem(self.norm, self.rule, tuple(values[some] for values in self.per_example))


def theorem(region: Region, x: Tensor, norm: Norm | None) -> Theorem:
    """What is known of ``region`` around examples ``x`` [B, ...]. Raises ValueError where nothing is."""
    region.check(x.shape)
    own, rule, per_example = _known(region, x)
    return Theorem(norm or own, rule, per_example)


def _size(region: Region, x: Tensor) -> Floats:
    size = region.size
    if isinstance(size, Tensor):
        return size.detach().cpu().numpy().astype(np.float64)
    return np.full(len(x), float(size))


def _dimension(x: Tensor) -> int:
    return x.shape[1:].numel()


@singledispatch
def _known(region: Region, x: Tensor) -> tuple[Norm, Callable[..., Radii], tuple[Floats, ...]]:
    raise ValueError(f"region must be one with a certificate, got {region!r}: no theorem is known")


@_known.register
def _(region: Sphere, x: Tensor) -> Any:
    raise ValueError(
        f"region must be one with a certificate, got {region!r}: two spheres share no volume, so that any shift may "
        "change every point"
    )


@_known.register
def _(region: Gaussian, x: Tensor) -> Any:
    return "L2", lambda p, other, sigma: radii.gaussian(sigma, p, other, _dimension(x)), (_size(region, x),)


@_known.register
def _(region: Laplace, x: Tensor) -> Any:
    return "L1", lambda p, other, scale: radii.laplace(scale, p, other, _dimension(x)), (_size(region, x),)


@_known.register
def _(region: L2Ball, x: Tensor) -> Any:
    return "L2", lambda p, other, r: radii.l2_ball(r, p - other, _dimension(x)), (_size(region, x),)


@_known.register
def _(region: L1Ball, x: Tensor) -> Any:
    return "L1", lambda p, other, r: radii.l1_ball(r, p - other, _dimension(x)), (_size(region, x),)


@_known.register
def _(region: Cube, x: Tensor) -> Any:
    n = _dimension(x)
    if region.clip == "clamp":
        return "L1", lambda p, other, r: radii.cube(r, p - other, n), (_size(region, x),)
    flat = x.detach().flatten(1).double()
    edge = flat.minimum(1 - flat).clamp(min=0).amin(1).cpu().numpy()
    per_example = (_size(region, x), edge)
    return "L1", lambda p, other, r, e: radii.clipped_cube(r, p - other, n, e), per_example


@_known.register
def _(region: LatticeCube, x: Tensor) -> Any:
    n = _dimension(x)

    def rule(p: Floats, other: Floats) -> Radii:
        return radii.lattice_cube(region.steps, VALUES, region.levels, p - other, n)

    return "L1", rule, ()
