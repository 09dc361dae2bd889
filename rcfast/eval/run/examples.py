"""Which examples are attacked: drawn among those that the undefended network classifies correctly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from rcfast.data import Dataset
from rcfast.eval.run.config import Config, ConfigError
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import in_batches
from rcfast.eval.run.networks import needed_for, network
from rcfast.eval.run.protocol import draw_examples, draw_targets, grid_examples
from rcfast.eval.run.store import Arrays
from rcfast.eval.run.unit import Made, Unit, explained
from rcfast.eval.run.versions import EXAMPLES

if TYPE_CHECKING:
    from rcfast.eval.run.pace import Pace

GRID_ROWS = 10  # labels of an image grid at most

Scope = Literal["drawn", "grid", "histogram"]  # all drawn examples, one for each label, the one of Figure 2


@dataclass(frozen=True)
class DrawnExamples(Unit):
    """The draw. Arrays: index, targets, grid and drawn as in Examples."""

    kind, stage = "examples", "train"

    def __str__(self) -> str:
        return "labelling the test set"

    def needs(self, ctx: Context) -> Iterable[Unit]:
        return needed_for(ctx, "point")

    def inputs(self, ctx: Context) -> dict[str, Any]:
        return {
            "version": EXAMPLES,
            "network": network(ctx, "point").digest,
            "test": ctx.dataset.test.fingerprint,
            "count": ctx.config.protocol.examples,
            "targets": ctx.config.protocol.targets,
            "seed": ctx.config.seed,
        }

    def compute(self, ctx: Context) -> Made:
        point = network(ctx, "point")
        with explained(str(self)):
            said = in_batches(lambda x: point.labels(x.to(ctx.device)).cpu(), ctx.dataset.test.x).numpy()
            repeats = point.plain.needs(ctx.dataset.test.x[:1].to(ctx.device)).repeats
        found = draw(ctx.config, ctx.dataset, said)
        if not found["drawn"]:
            raise ConfigError(
                "the undefended network classifies no test example correctly: nothing to attack"
            )
        return Made(found, {"repeats": repeats})

    def seconds(self, ctx: Context, pace: Pace) -> float:
        return len(ctx.dataset.test) * pace.forward


@dataclass(frozen=True)
class Examples:
    """The attacked examples: the `drawn` first, then those that only an image grid needs.

    index [E] int64 into the test set; x [E,C,H,W]; y [E] int64; targets [E,T] int64; grid [K]: the
    row of the example that stands for each label, -1 where no example of it is classified correctly.
    """

    index: np.ndarray
    x: Tensor
    y: np.ndarray
    targets: np.ndarray
    grid: np.ndarray
    drawn: int

    def rows(self, scope: Scope) -> set[int]:
        """Return which examples a purpose needs."""
        if scope == "drawn":
            return set(range(self.drawn))
        there = [int(row) for row in self.grid if row >= 0]
        return set(there if scope == "grid" else there[:1])

    def blocks(self, scope: Scope, size: int) -> list[tuple[int, int]]:
        """Return start and stop of the blocks that hold an example which a purpose needs.

        The drawn examples stand in blocks of `size`, and so do the others after them.
        """
        ends = ((0, self.drawn), (self.drawn, len(self.y)))
        blocks = [(a, min(a + size, end)) for begin, end in ends for a in range(begin, end, size)]
        wanted = self.rows(scope)
        return [(start, stop) for start, stop in blocks if wanted & set(range(start, stop))]


def examples(ctx: Context) -> Examples:
    """Return the attacked examples; in a sketch those that are drawn if all are classified correctly.

    Raises Missing when they are not drawn yet.
    """
    if ctx.sketch:
        return ctx.once("sketch of the examples", lambda: _examples(ctx, _sketch(ctx)))
    return ctx.once("examples", lambda: _examples(ctx, ctx.arrays(DrawnExamples())))


def draw(config: Config, dataset: Dataset, said: np.ndarray) -> Arrays:
    """Return index, drawn, grid and targets of Examples; said [N]: labels of the test set by the network."""
    protocol, seed, y = config.protocol, config.seed, dataset.test.y.numpy()
    drawn = draw_examples(y, said, count=protocol.examples, seed=seed)
    grid = grid_examples(y, said, drawn=drawn, rows=min(dataset.num_classes, GRID_ROWS), seed=seed)
    extra = [i for i in grid if i >= 0 and i not in set(drawn.tolist())]
    index = np.concatenate([drawn, np.asarray(extra, np.int64)])
    place = {int(i): row for row, i in enumerate(index)}
    return {
        "index": index,
        "drawn": np.asarray(len(drawn)),
        "grid": np.asarray([place.get(int(i), -1) for i in grid], np.int64),
        "targets": draw_targets(y[index], num_classes=dataset.num_classes, count=protocol.targets, seed=seed),
    }


def _sketch(ctx: Context) -> Arrays:
    return draw(ctx.config, ctx.dataset, ctx.dataset.test.y.numpy())


def _examples(ctx: Context, found: Arrays) -> Examples:
    index, test = found["index"], ctx.dataset.test
    return Examples(
        index=index,
        x=test.x[torch.from_numpy(index)].to(ctx.device),
        y=test.y.numpy()[index],
        targets=found["targets"],
        grid=found["grid"],
        drawn=int(found["drawn"]),
    )
