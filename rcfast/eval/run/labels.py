"""What the defences say: of the benign test set, and of the adversarial examples that are meant for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from rcfast.data.images import rows_in_memory
from rcfast.eval.run.attack import Adversarial, adapted, digest_examples
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured
from rcfast.eval.run.examples import DrawnExamples, examples
from rcfast.eval.run.judges import judge, judges, needed_by
from rcfast.eval.run.unit import Made, Unit, explained
from rcfast.eval.run.versions import LABELS

if TYPE_CHECKING:
    from rcfast.eval.run.pace import Pace

BENIGN_BLOCK = 2000  # images at most, less where they are large


class Labels(Unit):
    """Labels by one defence with one vote seed.

    Arrays: said [N] int64; of votes also lead [N] float32, the share of the votes by which the label leads.
    """

    kind = stage = "vote"
    tried: ClassVar[bool] = False  # chosen by an attack, which may have tried others
    judge: str
    seed: int | None

    def _inputs(self, ctx: Context, source: dict[str, Any]) -> dict[str, Any]:
        defence = judge(ctx, self.judge, tried=self.tried).identity
        return {"version": LABELS, "defence": defence, "seed": self.seed, "source": source}

    def _made(self, ctx: Context, x: torch.Tensor) -> Made:
        with explained(str(self)):
            said, lead = judge(ctx, self.judge, tried=self.tried).label(x, self.seed)
        return Made({"said": said} if lead is None else {"said": said, "lead": lead})


@dataclass(frozen=True)
class BenignLabels(Labels):
    """Of a part of the test set."""

    judge: str
    seed: int | None
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.judge}: test set"

    def needs(self, ctx: Context) -> Iterable[Unit]:
        return needed_by(ctx, self.judge)

    def inputs(self, ctx: Context) -> dict[str, Any]:
        test = {"test": ctx.dataset.test.fingerprint, "rows": [self.start, self.stop]}
        return self._inputs(ctx, test)

    def compute(self, ctx: Context) -> Made:
        return self._made(ctx, ctx.dataset.test.x[self.start : self.stop].to(ctx.device))

    def size(self, ctx: Context) -> int:
        return self.stop - self.start

    def seconds(self, ctx: Context, pace: Pace) -> float:
        return self.size(ctx) * pace.label(ctx, votes=self.seed is not None, adversarial=False)


@dataclass(frozen=True)
class AdversarialLabels(Labels):
    """Of adversarial examples, each moved on by the share alpha of its own noise."""

    tried = True
    judge: str
    seed: int | None
    made: Adversarial
    alpha: float = 0.0

    def __str__(self) -> str:
        return f"{self.judge}: {self.made}"

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield from needed_by(ctx, self.judge)
        yield self.made

    def inputs(self, ctx: Context) -> dict[str, Any]:
        part = ctx.part(self.made)
        source = {"attack": part.digest, "clean": part.inputs["examples"], "alpha": self.alpha}
        return self._inputs(ctx, source)

    def compute(self, ctx: Context) -> Made:
        made = torch.from_numpy(ctx.arrays(self.made)["adversarial"]).to(ctx.device)
        clean = examples(ctx).x[self.made.rows][:, None].expand_as(made)
        return self._made(ctx, adapted(clean, made, self.alpha).flatten(0, 1))

    def size(self, ctx: Context) -> int:
        return self.made.size(ctx)

    def seconds(self, ctx: Context, pace: Pace) -> float:
        return self.size(ctx) * pace.label(ctx, votes=self.seed is not None, adversarial=True)


@dataclass(frozen=True)
class CleanLabels(Labels):
    """Of the examples that are to be attacked, as they are: what a defence gets wrong without an attack."""

    judge: str
    seed: int | None

    def __str__(self) -> str:
        return f"{self.judge}: clean examples"

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield from needed_by(ctx, self.judge)
        yield DrawnExamples()

    def inputs(self, ctx: Context) -> dict[str, Any]:
        return self._inputs(ctx, {"clean": digest_examples(examples(ctx), slice(examples(ctx).drawn))})

    def compute(self, ctx: Context) -> Made:
        return self._made(ctx, examples(ctx).x[: examples(ctx).drawn])

    def size(self, ctx: Context) -> int:
        return examples(ctx).drawn

    def seconds(self, ctx: Context, pace: Pace) -> float:
        return self.size(ctx) * pace.label(ctx, votes=self.seed is not None, adversarial=False)


def benign(ctx: Context, own: Measured) -> Iterator[BenignLabels]:
    """Yield the labelling of the test set by a defence, for every vote seed."""
    count, block = len(ctx.dataset.test), rows_in_memory(ctx.dataset.shape, BENIGN_BLOCK)
    for seed in own.seeds:
        for start in range(0, count, block):
            yield BenignLabels(own.name, seed, start, min(start + block, count))


def adversarial(
    ctx: Context, made: Iterable[Adversarial], *, alphas: Sequence[float] = (0.0,)
) -> Iterator[AdversarialLabels]:
    """Yield the labelling of adversarial examples by all defences that they are meant for.

    One vote seed is enough for an example that only an image grid shows.
    """
    for unit in made:
        for own in judges(ctx):
            if unit.case.network in (own.attacked, own.name):
                seeds = own.seeds if unit.start < examples(ctx).drawn else own.seeds[:1]
                for seed in seeds:
                    for alpha in alphas:
                        yield AdversarialLabels(own.name, seed, unit, alpha)
