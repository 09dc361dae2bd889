"""Votes over several regions with several weights, side by side: what each consists of, and its size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from rcfast import regions
from rcfast.calibration import learn_length
from rcfast.classifier import RegionClassifier
from rcfast.eval.run.config import ConfigError
from rcfast.eval.run.context import Context
from rcfast.eval.run.networks import needed_for, network
from rcfast.eval.run.protocol import shuffled
from rcfast.eval.run.unit import Made, Unit, explained
from rcfast.eval.run.versions import COMPARISON
from rcfast.weights import Named, Weights, check_weights

if TYPE_CHECKING:
    from rcfast.eval.run.pace import Pace

Make = Callable[[float], regions.Region]
ANALYSED = 20_000  # training examples whose principal components are taken, at most
SUBSPACE = "subspace"
# Each region by the half-width h of a cube, so that its noise has the same root mean square, for n coordinates.
SIZES: dict[str, Callable[[float, int], regions.Region]] = {
    "cube": lambda h, n: regions.Cube(h),
    "clamp": lambda h, n: regions.Cube(h, clip="clamp"),
    "gaussian": lambda h, n: regions.Gaussian(h / math.sqrt(3), clip="clamp"),
    "laplace": lambda h, n: regions.Laplace(h / math.sqrt(6), clip="clamp"),
    "l2ball": lambda h, n: regions.L2Ball(h * math.sqrt((n + 2) / 3), clip="clamp"),
    "sphere": lambda h, n: regions.Sphere(h * math.sqrt(n / 3), clip="clamp"),
    "l1ball": lambda h, n: regions.L1Ball(h * math.sqrt((n + 1) * (n + 2) / 6), clip="clamp"),
}
KINDS = (*SIZES, SUBSPACE)


def parse(spec: str) -> tuple[str, Named]:
    """Return the region's kind and the weights of `KIND` or `KIND/WEIGHTS`. Raises ConfigError."""
    kind, slash, weights = spec.partition("/")
    if kind not in KINDS or (slash and weights not in get_args(Named)):
        raise ConfigError(
            f"compare.votes must be KIND or KIND/WEIGHTS with KIND of {', '.join(KINDS)} and WEIGHTS of "
            f"{', '.join(get_args(Named))}, got {spec!r}"
        )
    return kind, (weights or "count")  # type: ignore[return-value]


def family(ctx: Context, spec: str) -> Make:
    """Return what makes the region of a spec from the half-width of a cube. Raises Missing."""
    kind = parse(spec)[0]
    n = math.prod(ctx.dataset.shape)
    if kind in SIZES:
        return lambda h: SIZES[kind](h, n)
    components = torch.from_numpy(ctx.arrays(Components(ctx.config.compare.components))["components"])
    return lambda h: regions.Subspace(h, components.to(ctx.device))


def region(ctx: Context, spec: str) -> regions.Region:
    """Return the region of a spec with the size that was learnt. Raises Missing."""
    return family(ctx, spec)(float(ctx.part(LearntSize(spec)).info["half_width"]))


def classifier(ctx: Context, spec: str, seed: int, *, tried: bool = False) -> RegionClassifier:
    """Return the vote of a spec. tried: on examples of which an attacker may try many."""
    vote, own = ctx.config.vote.of(tried=tried), region(ctx, spec)
    return RegionClassifier(
        network(ctx, "point").voter(vote.dtype, own),
        own,
        m=vote.m,
        stop=None if vote.stop == "none" else vote.stop,
        alpha=vote.alpha,
        weights=parse(spec)[1],
        seed=seed,
        chunk=vote.chunk,
    )


@dataclass(frozen=True)
class Components(Unit):
    """The principal components of the training set. Arrays: components [k,n] float64."""

    k: int

    kind, stage = "components", "train"

    def __str__(self) -> str:
        return f"{self.k} principal components"

    def check(self, ctx: Context) -> None:
        n = math.prod(ctx.dataset.shape)
        if not 1 <= self.k <= n:
            raise ConfigError(f"compare.components must lie in [1, {n}], got {self.k}")

    def inputs(self, ctx: Context) -> dict[str, Any]:
        return {"version": COMPARISON, "train": ctx.dataset.train.fingerprint, "k": self.k, "of": ANALYSED}

    def compute(self, ctx: Context) -> Made:
        rows = np.sort(shuffled(len(ctx.dataset.train), 0)[:ANALYSED])
        x = ctx.dataset.train.x[torch.from_numpy(rows)]
        return Made({"components": regions.principal_components(x, self.k).numpy()})


def identity(ctx: Context, spec: str, made: regions.Region, *, tried: bool = False) -> dict[str, Any]:
    """What labels by a vote depend on, but for its seed."""
    vote, point = ctx.config.vote.of(tried=tried), network(ctx, "point")
    return {
        "version": COMPARISON,
        "network": point.digest,
        "region": made.identity(),
        "weights": parse(spec)[1],
        "vote": [vote.stop, vote.alpha, vote.chunk, point.voter(vote.dtype, made).arithmetic(point.like)],
    }


@dataclass(frozen=True)
class LearntSize(Unit):
    """The size of a vote's region by Algorithm 1, in steps of equal root mean square noise.

    Arrays: half_widths [R] of the cube with that noise, accuracy [R]; info: half_width, size, point_accuracy, n.
    """

    spec: str

    kind, stage = "size", "train"

    def __str__(self) -> str:
        return f"the size of {self.spec}"

    def check(self, ctx: Context) -> None:
        kind, weights = parse(self.spec)
        stand_in = regions.Subspace(0.1, torch.eye(2)) if kind == SUBSPACE else SIZES[kind](0.1, 2)
        try:
            check_weights(weights, stand_in)
        except ValueError as error:
            raise ConfigError(f"compare.votes: {error}") from error

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield from needed_for(ctx, "point")
        if parse(self.spec)[0] == SUBSPACE:
            yield Components(ctx.config.compare.components)

    def inputs(self, ctx: Context) -> dict[str, Any]:
        own, step = ctx.config.length, ctx.config.length.step
        return {
            **identity(ctx, self.spec, family(ctx, self.spec)(step)),
            "validation": [ctx.dataset.validation.fingerprint, self._count(ctx)],
            "search": [step, own.r_max, own.m, own.tolerance, own.stop, ctx.config.vote.seeds[0]],
        }

    def compute(self, ctx: Context) -> Made:
        own, vote, make = ctx.config.length, ctx.config.vote, family(ctx, self.spec)
        rows = torch.from_numpy(np.sort(shuffled(len(ctx.dataset.validation), 0)[: self._count(ctx)]))
        validation = ctx.dataset.validation.take(rows).to(ctx.device)
        weights: Weights = parse(self.spec)[1]
        with explained(str(self)):
            found = learn_length(
                network(ctx, "point").voter(vote.dtype, make(own.step)),
                validation.x,
                validation.y,
                region=make,
                weights=weights,
                step=own.step,
                r_max=own.r_max,
                m=own.m,
                tolerance=own.tolerance,
                stop=None if own.stop == "none" else own.stop,
                alpha=vote.alpha,
                seed=vote.seeds[0],
                chunk=vote.chunk,
            )
        if found.r == 0:
            raise ConfigError(
                f"compare.votes: {self.spec} loses accuracy at the first step of length.step = {own.step}"
            )
        arrays = {"half_widths": np.asarray(found.radii), "accuracy": np.asarray(found.accuracy)}
        info = {"half_width": found.r, "size": make(found.r).size, "n": found.n}
        return Made(arrays, {**info, "point_accuracy": found.point_accuracy})

    def seconds(self, ctx: Context, pace: Pace) -> float:
        return pace.lengths(ctx, 1 + pace.likely_r / ctx.config.length.step, self._count(ctx))

    def _count(self, ctx: Context) -> int:
        return min(ctx.config.compare.validation or 10**9, len(ctx.dataset.validation))
