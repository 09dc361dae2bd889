"""What `--dry-run` says: the stages, what is there already, and about how long the rest takes."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rcfast.eval.run.context import Context
from rcfast.eval.run.examples import DrawnExamples
from rcfast.eval.run.networks import TrainedNetwork, builder, recipe
from rcfast.eval.run.pace import (
    Pace,
    backward_seconds,
    forward_seconds,
    likely_r,
    remembered,
    training_seconds,
)
from rcfast.eval.run.power import FEW, comparisons, power
from rcfast.eval.run.progress import duration
from rcfast.eval.run.unit import STAGES, Unit
from rcfast.eval.run.voter import Voter, precision
from rcfast.regions import Cube
from rcfast.training import Recipe

DRAWING = 10.0  # seconds


@dataclass
class Row:
    """One line: `todo` of `total` parts are missing; `seconds` is what they take."""

    name: str
    total: int = 0
    todo: int = 0
    seconds: float = 0.0

    def add(self, *, found: bool, seconds: float) -> None:
        self.total += 1
        if not found:
            self.todo += 1
            self.seconds += seconds


@dataclass(frozen=True)
class Job:
    """A missing unit: its guess of seconds, and the jobs, by their place in the plan, that must be done before."""

    seconds: float
    needs: tuple[int, ...] = ()


def describe(
    ctx: Context, outputs: Sequence[str], plan: Callable[[Context], list[Unit]], *, processes: int = 1
) -> str:
    """Return the text of a dry run; nothing is written. plan: the units of the outputs. Raises ConfigError.

    processes: also how long that many would take, each as fast as this one.
    """
    make, _, given = builder(ctx)
    network, config = given or make(), ctx.config
    network = network.to(ctx.device)
    usual = Recipe().dtype(ctx.device)
    backward, one = backward_seconds(network, ctx, usual), backward_seconds(network, ctx, usual, 1)
    fitting = backward
    if any(isinstance(unit, TrainedNetwork) for unit in plan(ctx)):
        fitting = training_seconds(network, ctx, Recipe(**recipe(ctx, "point")[0]["recipe"]))
    like = ctx.dataset.test.x[:1].to(ctx.device)
    r = likely_r(config)
    dtype = precision(config.vote.dtype, Cube(r), like)
    forward = forward_seconds(Voter(network, dtype), ctx)
    rows, jobs = count(ctx, plan, Pace(forward, backward, fitting, one, remembered(ctx.store), r))
    lines = [
        f"{config.data.name} ({len(ctx.dataset.train)} / {len(ctx.dataset.validation)} / "
        f"{len(ctx.dataset.test)} examples), preset {config.preset}, into {ctx.out}",
        f"outputs: {', '.join(outputs)}",
        f"{'stage':<10}{'parts':>7}{'there':>7}{'to do':>7}   about",
    ]
    for row in rows:
        about = duration(row.seconds) if row.todo else "nothing"
        lines.append(f"{row.name:<10}{row.total:>7}{row.total - row.todo:>7}{row.todo:>7}   {about}")
    total = sum(row.seconds for row in rows)
    lines.append(
        f"in all about {duration(total)} on {ctx.device} (a guess from the speed of the network here)"
    )
    if any(row.name == "attack" and row.total for row in rows):
        few = "warning: " if config.protocol.examples < FEW else ""
        lines.append(few + power(config.protocol.examples, comparisons(config)))
    if processes > 1:
        shared = makespan(jobs, processes) + rows[-1].seconds
        lines.append(f"by {processes} processes, each as fast as this one, about {duration(shared)}")
    return "\n".join(lines)


def makespan(jobs: Sequence[Job], processes: int) -> float:
    """Return the seconds in which processes finish the jobs, each taking the first one whose needs are met."""
    left, now = dict(enumerate(jobs)), 0.0
    running: list[tuple[float, int]] = []
    open_ = set(left)
    while open_:
        ready = (index for index, job in left.items() if open_.isdisjoint(job.needs))
        index = next(ready, None) if len(running) < processes else None
        if index is not None:
            heapq.heappush(running, (now + left.pop(index).seconds, index))
            continue
        now, done = heapq.heappop(running)
        open_.discard(done)
    return now


def count(ctx: Context, plan: Callable[[Context], list[Unit]], pace: Pace) -> tuple[list[Row], list[Job]]:
    """Return one row for each stage, and the jobs: what is missing, and what depends on something that is missing."""
    units = plan(ctx)
    if settled(ctx, units):
        units = plan(ctx)
    rows = {name: Row(name) for name in STAGES}
    there: dict[Unit, bool] = {}
    place: dict[Unit, int] = {}
    jobs: list[Job] = []
    for unit in units:
        needs = list(unit.needs(ctx))
        there[unit] = all(there[needed] for needed in needs) and ctx.find(unit) is not None
        seconds = 0.0 if there[unit] else unit.seconds(ctx, pace)
        rows.setdefault(unit.stage, Row(unit.stage)).add(found=there[unit], seconds=seconds)
        if not there[unit]:
            place[unit] = len(jobs)
            jobs.append(Job(seconds, tuple(place[needed] for needed in needs if needed in place)))
    done = all(there.values()) and any((ctx.store.root / "store" / "draw").glob("*.json"))
    return [*rows.values(), Row("draw", 1) if done else Row("draw", 1, 1, DRAWING)], jobs


def settled(ctx: Context, units: Sequence[Unit]) -> bool:
    """End the sketch where the undefended network is there; examples that are not drawn yet are, in memory."""
    drawn = DrawnExamples()
    if any(ctx.find(unit) is None for unit in drawn.needs(ctx)):
        return False
    ctx.sketch = False
    if drawn in units and ctx.find(drawn) is None:
        ctx.pretend(drawn, drawn.compute(ctx))
    return True
