"""The length r: given, or learnt on the validation set (Algorithm 1), and the rest of the curve of Figure 4."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rcfast.calibration import LengthSearch, learn_length
from rcfast.eval.results import Length
from rcfast.eval.run.context import Context
from rcfast.eval.run.networks import needed_for, network
from rcfast.eval.run.store import Arrays
from rcfast.eval.run.unit import Made, Unit, explained
from rcfast.eval.run.versions import LENGTH
from rcfast.regions import Cube

if TYPE_CHECKING:
    from rcfast.eval.run.pace import Pace


@dataclass(frozen=True)
class LearntLength(Unit):
    """r, with the accuracies on the way to it. Arrays: radii [R], accuracy [R]; info: r, learnt, n."""

    kind, stage = "length", "train"

    def __str__(self) -> str:
        return "the search for r"

    def needs(self, ctx: Context) -> Iterable[Unit]:
        return needed_for(ctx, "point")

    def inputs(self, ctx: Context) -> dict[str, Any]:
        own, vote, point = ctx.config.length, ctx.config.vote, network(ctx, "point")
        dtype = point.voter(vote.dtype, Cube(own.r0 or own.step)).arithmetic(point.like)
        return {
            "version": LENGTH,
            "network": point.digest,
            "validation": ctx.dataset.validation.fingerprint,
            "search": [own.r, own.r0, own.step, own.r_max, own.m, own.tolerance, own.stop],
            "vote": [vote.clip, vote.alpha, dtype, vote.chunk, vote.seeds[0]],
        }

    def compute(self, ctx: Context) -> Made:
        own = ctx.config.length
        found = search(ctx, r0=own.r0, step=own.step, r_max=own.r_max)
        info = {
            "r": float(own.r if own.r >= 0 else found.r),
            "learnt": own.r < 0,
            "point_accuracy": float(found.point_accuracy),
            "n": found.n,
        }
        return Made(_curve(found), info)

    def seconds(self, ctx: Context, pace: Pace) -> float:
        return pace.lengths(ctx, pace.likely_r / ctx.config.length.step, len(ctx.dataset.validation))


@dataclass(frozen=True)
class FurtherLengths(Unit):
    """The accuracies beyond the last radius of the search, which only Figure 4 shows. Arrays: radii, accuracy."""

    kind, stage = "length", "train"

    def __str__(self) -> str:
        return "the rest of the curve"

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield LearntLength()

    def inputs(self, ctx: Context) -> dict[str, Any]:
        own = ctx.config.length
        return {**LearntLength().inputs(ctx), "curve": [own.curve_max, own.curve_step]}

    def compute(self, ctx: Context) -> Made:
        own = ctx.config.length
        last = float(ctx.arrays(LearntLength())["radii"][-1])
        first = (math.floor(last / own.curve_step + 1e-9) + 1) * own.curve_step
        if first > own.curve_max + 1e-9:
            return Made({"radii": np.empty(0), "accuracy": np.empty(0)})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # that accuracy is lost there is what is drawn
            found = search(ctx, r0=first, step=own.curve_step, r_max=max(own.curve_max, first), curve=True)
        return Made(_curve(found))

    def seconds(self, ctx: Context, pace: Pace) -> float:
        return pace.lengths(
            ctx, ctx.config.length.curve_max / ctx.config.length.curve_step, len(ctx.dataset.validation)
        )


def length(ctx: Context) -> float:
    """Return r. Raises Missing when it is not known."""
    return float(ctx.part(LearntLength()).info["r"])


def searched(ctx: Context) -> Length:
    """Return the search for r as results.json holds it."""
    info, arrays = ctx.part(LearntLength()).info, ctx.arrays(LearntLength())
    return {
        "r": info["r"],
        "radii": arrays["radii"].tolist(),
        "accuracy": arrays["accuracy"].tolist(),
        "point_accuracy": info["point_accuracy"],
        "n": info["n"],
        "learnt": info["learnt"],
    }


def _curve(found: LengthSearch) -> Arrays:
    return {
        "radii": np.asarray(found.radii, np.float64),
        "accuracy": np.asarray(found.accuracy, np.float64),
    }


def search(ctx: Context, **radii: Any) -> LengthSearch:
    """Run Algorithm 1 with the settings of the run."""
    own, vote = ctx.config.length, ctx.config.vote
    validation = ctx.dataset.validation.to(ctx.device)  # images on disk stay there
    with explained("the search for r"):
        return learn_length(
            network(ctx, "point").voter(vote.dtype, Cube(own.r0 or own.step)),
            validation.x,
            validation.y,
            m=own.m,
            tolerance=own.tolerance,
            stop=None if own.stop == "none" else own.stop,
            clip=vote.clip,  # type: ignore[arg-type]
            alpha=vote.alpha,
            seed=vote.seeds[0],
            chunk=vote.chunk,
            **radii,
        )
