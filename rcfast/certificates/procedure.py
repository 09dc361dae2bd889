"""What a vote proves: within which distance of an input the label of the largest share cannot change."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..regions import Region, check_examples, check_int, check_number
from . import bounds
from .grid import LatticeCube, check_on_grid
from .radii import NORMS, Norm, share_for
from .theorems import Theorem, theorem

if TYPE_CHECKING:
    from ..classifier import RegionClassifier

FIRST_LOOK, GROWTH = 16, 1.2  # an anytime certificate looks after 16 points, then after 1.2 times as many
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Certificates:
    """What was proven of B examples, each with an error probability of at most ``alpha``.

    ``arithmetic``: ``"grid"`` where the certificate is exact for inputs on the grid of 8-bit images, ``"real"`` where
    it is the theorem of real numbers, which points that are rounded to floats satisfy only nearly.
    """

    label: Tensor  # [B] int64, the label that the certificate speaks of, chosen by the first n0 points
    radius: Tensor  # [B] float64 in ``norm``, 0 where abstained
    lower: Tensor  # [B] float64, lower bound of the label's share of the region
    samples: Tensor  # [B] int64, points drawn, those that chose the label included
    abstained: Tensor  # [B] bool, nothing was proven
    radii: dict[Norm, Tensor]  # L1, L2, Linf: [B] float64, the radius that is implied in each
    norm: Norm
    region: Region  # the one that was sampled
    alpha: float
    arithmetic: Literal["real", "grid"] = "real"

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Question:
    """How certificates are made, checked: what :func:`certify` takes beside model, examples and region."""

    n: int
    n0: int
    alpha: float
    radius: float | None
    gain: float | None
    sides: int
    norm: Norm | None

    def __post_init__(self) -> None:
        check_int("n0", self.n0, 1, 2**30 - 1)  # together as many as a tally takes
        check_int("n", self.n, 1, 2**30)
        if self.n < self.n0:
            raise ValueError(f"n must be at least n0 = {self.n0}, got {self.n}")
        check_number("alpha", self.alpha, 0, 1, "()")
        if self.radius is not None:
            check_number("radius", self.radius, 0, math.inf, "()")
        if self.gain is not None:
            check_number("gain", self.gain, 0, math.inf, "[)")
        if self.sides not in (1, 2):
            raise ValueError(f"sides must be 1 or 2, got {self.sides!r}")
        if self.norm is not None and self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {self.norm!r}")

    @property
    def anytime(self) -> bool:
        return self.radius is not None or self.gain is not None

    def looks(self) -> list[int]:
        """Numbers of points, increasing to n, after which an example may be done."""
        found, t = [], FIRST_LOOK
        while self.anytime and t < self.n:
            found.append(t)
            t = math.ceil(t * GROWTH)
        return [*found, self.n]

    def shares(self, counts: NDArray[np.int64], label: NDArray[np.int64], t: int) -> tuple[Floats, Floats]:
        """Lower bound of the label's share, upper bound of every other label's, after ``counts`` [B, L] of t."""
        lower_bound = bounds.anytime if self.anytime else bounds.clopper_pearson
        votes = np.take_along_axis(counts, label[:, None], 1)[:, 0]
        lower = lower_bound(votes, t, self.alpha / self.sides)
        if self.sides == 1:
            return lower, 1 - lower
        others = counts.copy()
        np.put_along_axis(others, label[:, None], 0, 1)
        each = self.alpha / 2 / (counts.shape[1] - 1)  # the bounds of all other labels hold at once
        return lower, np.minimum(1 - lower, 1 - lower_bound(t - others.max(1), t, each))


def certify(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    region: Region,
    n: int = 100_000,
    n0: int = 100,
    alpha: float = 1e-3,
    radius: float | None = None,
    gain: float | None = None,
    sides: Literal[1, 2] = 1,
    norm: Norm | None = None,
    grid: int | None = None,
    example_ids: Tensor | None = None,
    **classifier: Any,
) -> Certificates:
    """Certified radii of examples ``x`` [B, ...] float32 in [0,1] (Cohen et al., 2019, CERTIFY, batched, any region).

    The label is chosen by ``n0`` points; its share of the region is then bounded from below by ``n`` fresh ones, with
    an error of at most ``alpha`` for each example, and the theorem of the region turns the bound into a radius. It
    speaks of the label of the largest share, the vote with infinitely many points, not of one vote.

    ``radius`` and ``gain`` end an example early, at no cost to the error, by a bound that holds at any time
    (:func:`rcfast.certificates.bounds.anytime`): ``radius`` asks only whether it is at least so large (in ``norm``);
    ``gain = 0.05`` ends when all remaining points together could not raise the radius by more than 5%.
    ``sides``: 2 bounds the runner-up too, which helps where the other votes are spread over many labels.
    ``norm`` of ``radius``: L1, L2 or Linf; by default the one that the region's theorem is about.
    ``grid = 255``: examples on the grid of 8-bit images, noise on a lattice that it divides, and the certificate exact
    in floating point, for ``Cube(r, clip="clamp")``; r becomes the nearest half-width with such a lattice.
    ``example_ids`` int64 [B] and further keywords (``seed``, ``chunk``, ``dtype``, …) as in
    :class:`~rcfast.RegionClassifier`. The error bound holds for examples that were not chosen with a view to the seed.

    Raises TypeError or ValueError naming the argument, before any work: sigma <= 0, n < n0, alpha outside (0, 1), a
    region that does not fit ``x``, that has no certificate, or none on a grid.
    """
    from ..classifier import RegionClassifier

    for name in ("m", "stop"):
        if name in classifier:
            raise TypeError(
                f"certify has no {name}: n and n0 say how many points are drawn, got {name} = {classifier[name]!r}"
            )
    question = Question(n, n0, alpha, radius, gain, sides, norm)
    return answer(RegionClassifier(model, _sampled(region, grid), **classifier), x, question, example_ids)


def answer(
    classifier: RegionClassifier, x: Tensor, question: Question, example_ids: Tensor | None = None
) -> Certificates:
    """The certificates of a classifier's region, model and seed."""
    from ..classifier import another

    x, region = check_examples(x), classifier.region
    rule = theorem(region, x, question.norm)
    if isinstance(region, LatticeCube):
        check_on_grid(x, region.levels)
    first = question.n0
    label = classifier.tally(x, 0, first, example_ids=example_ids).argmax(1)
    labels = label.cpu().numpy()
    samples = np.zeros(len(x), np.int64)
    lower, other = np.zeros(len(x)), np.zeros(len(x))
    counts: NDArray[np.int64] | int = 0
    active = np.arange(len(x))
    for last in question.looks():
        some = torch.from_numpy(active).to(x.device)
        ids = None if example_ids is None else example_ids[some]
        part = classifier
        if isinstance(region.size, Tensor) and len(some) < len(x):
            part = another(classifier, region=region.to(x.device).take(some), sharing=classifier.sharing)
        fresh = part.tally(x[some], first, question.n0 + last, example_ids=ids)
        counts = counts + fresh.cpu().numpy().astype(np.int64)
        samples[active], first = last, question.n0 + last
        lower[active], other[active] = question.shares(counts, labels[active], last)
        open_ = ~_done(
            question, rule.take(active), counts, labels[active], last, lower[active], other[active]
        )
        active, counts = active[open_], counts[open_]
        if not len(active):
            break

    def tensor(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(label.device)

    radii = {norm: tensor(values) for norm, values in rule.radii(lower, other).items()}
    return Certificates(
        label=label,
        radius=radii[rule.norm],
        lower=tensor(lower),
        samples=tensor(samples + question.n0),
        abstained=radii[rule.norm] <= 0,
        radii=radii,
        norm=rule.norm,
        region=region,
        alpha=question.alpha,
        arithmetic="grid" if isinstance(region, LatticeCube) else "real",
    )


def _done(
    question: Question,
    rule: Theorem,
    counts: NDArray[np.int64],
    label: NDArray[np.int64],
    t: int,
    lower: Floats,
    other: Floats,
) -> NDArray[np.bool_]:
    """Which examples, rows of ``counts`` [A, L] after t points and their bounds, need no more points."""
    if t == question.n or not len(counts):
        return np.ones(len(counts), bool)
    present = rule(lower, other)
    best = counts.copy()  # if all points that are left were the label's
    best[np.arange(len(best)), label] += question.n - t
    possible = rule(*question.shares(best, label, question.n))
    done = possible <= 0
    if question.radius is not None:
        needed = question.radius
        done |= (present >= needed) | (possible < needed)
        if question.sides == 1:  # else the runner-up's share may be far below what the label leaves
            most = 1 - bounds.anytime(t - counts[np.arange(len(counts)), label], t, question.alpha)
            done |= rule(most, 1 - most) < needed
    if question.gain is not None:
        done |= possible <= (1 + question.gain) * present
    return done


def share_needed(region: Region, radius: float, *, shape: tuple[int, ...], norm: Norm | None = None) -> float:
    """The share of the region, in [1/2, 1], that a certified ``radius`` needs for examples of ``shape``; infinity
    where no share is enough. Raises ValueError for a region without a certificate."""
    rule = theorem(region, torch.zeros(1, *shape, device="cpu"), norm)
    return share_for(radius, lambda p: float(rule(np.array([p]), np.array([1 - p]))[0]))


def _sampled(region: Region, grid: int | None) -> Region:
    """The region, or its lattice. Raises TypeError or ValueError."""
    from ..regions import Cube

    if not isinstance(region, Region):
        raise TypeError(f"region must be a region such as rcfast.Gaussian(0.25), got {region!r}")
    if grid is None:
        return region
    check_int("grid", grid, 1, 2**16)
    if (
        not isinstance(region, Cube)
        or region.clip != "clamp"
        or isinstance(region.r, Tensor)
        or region.r <= 0
    ):
        raise ValueError(f'grid needs region Cube(r, clip="clamp") with one r > 0, got {region!r}')
    return LatticeCube.near(region.r, grid)
