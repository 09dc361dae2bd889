"""The one loop over units of work, whatever they are; by one process, or by several that share them."""

import time
from collections.abc import Sequence
from itertools import groupby

from rcfast.eval.run.context import Context
from rcfast.eval.run.store import Part
from rcfast.eval.run.team import Claims, News
from rcfast.eval.run.unit import Unit

BARS = {"train": "parts", "attack": "examples", "vote": "labels"}  # what the bar of a stage counts


def perform(ctx: Context, units: Sequence[Unit]) -> None:
    """Finish the units, which stand stage by stage and after all that they need; note each stage's time.

    A stage's time is that of its results, whenever and wherever they were computed.
    """
    if ctx.team.size > 1:
        share(ctx, units)
        return
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


def share(ctx: Context, units: Sequence[Unit]) -> None:
    """Finish the units together with the other processes: each takes the next one whose needs are met.

    Returns when all are finished, on every process.
    """
    number = {unit: index for index, unit in enumerate(units)}
    needs = [[number[needed] for needed in unit.needs(ctx) if needed in number] for unit in units]
    claims = ctx.team.plan()
    open_, untaken = set(number.values()), set(number.values())
    with ctx.progress.stage("work", len(units), "parts") as bar:
        while open_:
            mine = _claimed(claims, untaken, [i for i in sorted(untaken) if open_.isdisjoint(needs[i])])
            if mine is not None:
                bar.say(str(units[mine]))
                part = ctx.find(units[mine])
                reused = part is not None
                part = part or finish(ctx, units[mine])
                units[mine].tidy(ctx)
                claims.tell(News(mine, part.seconds, reused))
            for news in claims.news(wait=mine is None):
                open_.discard(news.index)
                ctx.told.add(units[news.index])
                note(ctx, units[news.index].stage, news.seconds, reused=news.reused)
                bar.advance()


def _claimed(claims: Claims, untaken: set[int], ready: Sequence[int]) -> int | None:
    """Return the first of the `ready` units that no other process has taken."""
    for index in ready:
        untaken.discard(index)
        if claims.claim(index):
            return index
    return None


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
