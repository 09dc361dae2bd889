"""From a lead in votes to a certified radius: one theorem a region, all proven or referenced in docs/certificates.md.

Everywhere ``lead`` is a lower bound of p_A - p_B: how much likelier a point of the region gets the label A than any
other label B. From a lower bound of p_A alone it is 2 p_A - 1. A radius is strict: every input at a smaller distance
has the label A too. All arithmetic is float64, on arrays of any shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Norm = Literal["L1", "L2", "Linf"]
SLACK = 1e-9  # relative: what float64 may have lost on the way to a bound
NORMS: tuple[Norm, ...] = get_args(Norm)
Values = float | NDArray[np.float64]
Radii = dict[Norm, NDArray[np.float64]]


def gaussian(sigma: Values, p: Values, other: Values, n: int) -> Radii:
    """Noise N(0, sigma²) in each of n coordinates: sigma/2 (Φ⁻¹(p) - Φ⁻¹(other)) in L2 (Cohen et al., 2019, Theorem 1).

    ``p``: lower bound of the label's share; ``other``: upper bound of every other label's.
    """
    with np.errstate(invalid="ignore"):
        l2 = sigma / 2 * (stats.norm.ppf(p) - stats.norm.ppf(other))
    return _from_l2(np.where(_lead(p, other) > 0, l2, 0.0), n)


def laplace(scale: Values, p: Values, other: Values, n: int) -> Radii:
    """Noise Laplace(scale) in each coordinate, in L1 (Teng et al., 2019): the larger of scale/2 log(p/other) and
    -scale log(1 - p + other)."""
    p, other = np.asarray(p, float), np.asarray(other, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        l1 = np.maximum(scale / 2 * np.log(p / other), -scale * np.log(1 - p + other))
    return _from_l1(np.where(_lead(p, other) > 0, l1, 0.0), n)


def cube(r: Values, lead: Values, n: int) -> Radii:
    """Uniform noise on [-r, r]^n, clamped or not: r·lead in L1 (Lee et al., 2019; Yang et al., 2020).

    The two uniform distributions share the part Π(1 - d_j/2r), which must exceed 1 - lead/2. In L1 a single coordinate
    is the worst shift; in L2 and Linf all coordinates moved alike are (docs/certificates.md).
    """
    r, lead = np.asarray(r, float), np.maximum(np.asarray(lead, float), 0)
    linf = -2 * r * np.expm1(np.log1p(-lead / 2) / n)
    return {"L1": r * lead, "L2": linf * np.sqrt(n), "Linf": linf}


def clipped_cube(r: Values, lead: Values, n: int, edge: Values = 0.0) -> Radii:
    """Uniform on B(x, r) ∩ [0,1]^n: r·log(1 + lead) in L1, and more for an example without black or white pixels.

    ``edge``: distance of the example's outermost coordinate from 0 or 1. An interval that 0 or 1 cuts is w wide,
    r <= w <= 2r, and one that is moved inwards by d grows: the label's lead L falls at most by (1 + L)/w a unit, in an
    interval that nothing cuts by 1/r. Within a radius R no cut interval is narrower than r + max(0, edge - R)
    (docs/certificates.md, Theorem 4).
    """
    r, lead, edge = np.broadcast_arrays(*(np.asarray(a, float) for a in (r, lead, edge)))
    lead = np.maximum(lead, 0)

    def within(width: NDArray[np.float64]) -> NDArray[np.float64]:
        """The radius if no cut interval is narrower than ``width``."""
        ratio = np.clip(np.divide(width, r, out=np.ones_like(width), where=r > 0), 1, 2)
        late = np.maximum(ratio - 1, 0)  # from this lead down the uncut intervals are the worse ones
        return r * np.where(lead > late, ratio * np.log((1 + lead) / ratio) + late, lead)

    low, high = within(r), within(2 * r)
    for _ in range(60):  # the radius at which the assumed width is the one that it leads to
        middle = (low + high) / 2
        holds = within(r + np.maximum(0, edge - middle)) >= middle
        low, high = np.where(holds, middle, low), np.where(holds, high, middle)
    return _from_l1(low, n)


def l2_ball(r: Values, lead: Values, n: int) -> Radii:
    """Uniform in the L2 ball of radius r, clamped or not: two balls at distance d share the part
    I_{1 - d²/4r²}((n+1)/2, 1/2), the regularised incomplete beta function (Yang et al., 2020)."""
    lead = np.maximum(np.asarray(lead, float), 0)
    # The part that they do not share is I_{d²/4r²}(1/2, (n+1)/2): precise where it is small.
    return _from_l2(2 * r * np.sqrt(special.betaincinv(0.5, (n + 1) / 2, lead / 2)), n)


def l1_ball(r: Values, lead: Values, n: int) -> Radii:
    """Uniform in the L1 ball of radius r, clamped or not: 2r(1 - (1 - lead/2)^(1/n)) in L1 (docs/certificates.md)."""
    lead = np.maximum(np.asarray(lead, float), 0)
    return _from_l1(-2 * r * np.expm1(np.log1p(-lead / 2) / n), n)


def lattice_cube(steps: int, values: int, levels: int, lead: Values, n: int) -> Radii:
    """Uniform noise on ``values`` neighbouring points of a lattice of which ``steps`` make one of ``levels`` levels.

    Exact: inputs d_j levels apart share the part Π(1 - d_j·steps/values) of their points: :func:`cube` with 2r =
    values/steps levels. Distances of inputs on the grid are whole numbers of levels (their squares, in L2), so that all
    inputs *at* the radius are covered.
    """
    lead = np.maximum(np.asarray(lead, float), 0)
    real = cube(values / (2 * steps * levels), lead, n)

    def below(bound: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.maximum(np.ceil(bound * (1 - SLACK)) - 1, 0)  # the largest whole number under a bound

    l2 = np.sqrt(below((real["L2"] * levels) ** 2))
    return {
        "L1": below(real["L1"] * levels) / levels,
        "L2": l2 / levels,
        "Linf": below(real["Linf"] * levels) / levels,
    }


def share_for(radius: float, radius_at: Callable[[float], float]) -> float:
    """The least share p in [1/2, 1] with ``radius_at(p) >= radius``; infinity where no share is enough."""
    if radius_at(1.0) < radius:
        return float("inf")
    if radius_at(0.5) >= radius:
        return 0.5
    return float(optimize.brentq(lambda p: radius_at(p) - radius, 0.5, 1.0, xtol=1e-15, rtol=1e-15))


def _lead(p: Values, other: Values) -> NDArray[np.float64]:
    return np.asarray(p, float) - np.asarray(other, float)


def _from_l1(l1: NDArray[np.float64], n: int) -> Radii:
    """A ball in L1 holds the balls in L2 and Linf that are √n and n times smaller."""
    return {"L1": l1, "L2": l1 / np.sqrt(n), "Linf": l1 / n}


def _from_l2(l2: NDArray[np.float64], n: int) -> Radii:
    """A ball in L2 holds the one in L1 of the same radius, and the one in Linf that is √n times smaller."""
    return {"L1": l2, "L2": l2, "Linf": l2 / np.sqrt(n)}
