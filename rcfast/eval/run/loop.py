"""The one loop over units of work, whatever they are."""

import time
from collections.abc import Sequence
from itertools import groupby

from rcfast.eval.run.context import Context
from rcfast.eval.run.store import Part
from rcfast.eval.run.unit import Unit

BARS = {"train": "parts", "attack": "examples", "vote": "labels"}  # what the bar of a stage counts


def perform(ctx: Context, units: Sequence[Unit]) -> None:
    """Finish the units, which stand stage by stage and after all that they need; note each stage's time.

    A stage's time is that of its results, whenever they were computed.
    """
    for stage, of_stage in groupby(units, key=lambda unit: unit.stage):
        todo = list(of_stage)
        sizes = [unit.size(ctx) for unit in todo]
        seconds, reused = 0.0, True
        with ctx.progress.stage(stage, sum(sizes), BARS.get(stage, "parts")) as bar:
            for unit, size in zip(todo, sizes, strict=True):
                part = ctx.find(unit)
                if part is None:
                    bar.say(str(unit))
                    part, reused = finish(ctx, unit), False
                unit.tidy(ctx)
                seconds += part.seconds
                bar.advance(size)
        note(ctx, stage, seconds, reused=reused)


def note(ctx: Context, stage: str, seconds: float, *, reused: bool) -> None:
    """Add to the time of a stage. reused: nothing was computed."""
    own = next((s for s in ctx.stages if s["name"] == stage), None)
    if own is None:
        own = {"name": stage, "seconds": 0.0, "reused": True}
        ctx.stages.append(own)
    own["seconds"] = round(own["seconds"] + seconds, 3)
    own["reused"] &= reused


def finish(ctx: Context, unit: Unit) -> Part:
    """Compute and store one unit."""
    start = time.perf_counter()
    made = unit.compute(ctx)
    return ctx.keep(unit, made, time.perf_counter() - start)
