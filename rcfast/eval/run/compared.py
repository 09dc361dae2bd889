"""What compared votes say of test examples and of adversarial ones, and an attack on each of the votes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rcfast import attacks
from rcfast.eval.run.attack import Adversarial, Case, batch_of, digest_examples, settings
from rcfast.eval.run.compare import LearntSize, classifier, identity, region
from rcfast.eval.run.config import ConfigError
from rcfast.eval.run.context import Context
from rcfast.eval.run.examples import DrawnExamples, examples
from rcfast.eval.run.protocol import shuffled
from rcfast.eval.run.store import digest_arrays
from rcfast.eval.run.unit import Made, Unit, explained

if TYPE_CHECKING:
    from rcfast.eval.run.pace import Pace

BLOCK = 1000  # test examples in a part


class Said(Unit):
    """What a vote says. Arrays: said [N] int64; lead [N] float32, by which share of its weight the label leads."""

    kind = stage = "vote"
    tried: ClassVar[bool] = False  # chosen by an attack, which may have tried others
    spec: str
    seed: int

    def __str__(self) -> str:
        return self.spec

    @abstractmethod
    def _source(self, ctx: Context) -> Any:
        """What is labelled, as keys say it."""

    @abstractmethod
    def _examples(self, ctx: Context) -> Tensor:
        """What is labelled, [N,...]."""

    def inputs(self, ctx: Context) -> dict[str, Any]:
        own = identity(ctx, self.spec, region(ctx, self.spec), tried=self.tried)
        return {**own, "m": ctx.config.vote.m, "seed": self.seed, "source": self._source(ctx)}

    def compute(self, ctx: Context) -> Made:
        with explained(str(self)):
            votes = classifier(ctx, self.spec, self.seed, tried=self.tried).vote(self._examples(ctx))
        first, second = votes.counts.topk(2, dim=1).values.float().unbind(1)
        lead = (first - second) / votes.samples
        found = {"said": votes.label, "lead": lead, "samples": votes.samples}
        return Made({name: tensor.cpu().numpy() for name, tensor in found.items()})

    def seconds(self, ctx: Context, pace: Pace) -> float:
        return self.size(ctx) * pace.label(ctx, votes=True, adversarial=self.tried)


@dataclass(frozen=True)
class SaidOfTest(Said):
    """Of test examples, drawn by the run's seed."""

    spec: str
    seed: int
    start: int
    stop: int

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield LearntSize(self.spec)

    def size(self, ctx: Context) -> int:
        return self.stop - self.start

    def _source(self, ctx: Context) -> Any:
        return {"test": ctx.dataset.test.fingerprint, "rows": chosen(ctx)[self.start : self.stop].tolist()}

    def _examples(self, ctx: Context) -> Tensor:
        rows = torch.from_numpy(chosen(ctx)[self.start : self.stop])
        return ctx.dataset.test.x[rows].to(ctx.device)


@dataclass(frozen=True)
class SaidOfClean(Said):
    """Of the examples that are attacked, as they are."""

    spec: str
    seed: int

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield LearntSize(self.spec)
        yield DrawnExamples()

    def size(self, ctx: Context) -> int:
        return examples(ctx).drawn

    def _source(self, ctx: Context) -> Any:
        return {"clean": digest_examples(examples(ctx), slice(examples(ctx).drawn))}

    def _examples(self, ctx: Context) -> Tensor:
        return examples(ctx).x[: examples(ctx).drawn]


@dataclass(frozen=True)
class SaidOfAttacked(Said):
    """Of adversarial examples."""

    tried = True
    spec: str
    seed: int
    made: Adversarial

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield LearntSize(self.spec)
        yield self.made

    def size(self, ctx: Context) -> int:
        return self.made.size(ctx)

    def _source(self, ctx: Context) -> Any:
        return {"attack": ctx.part(self.made).digest}

    def _examples(self, ctx: Context) -> Tensor:
        made = torch.from_numpy(ctx.arrays(self.made)["adversarial"])
        return made.flatten(0, 1).to(ctx.device)


@dataclass(frozen=True)
class VoteAttack(Adversarial):
    """T-RegionCW on one of the votes: the least L2 noise with which that very vote says the target."""

    case: Case  # its `network` is the spec of the vote
    start: int
    stop: int

    kind = stage = "attack"

    def __str__(self) -> str:
        return str(self.case)

    @property
    def norm(self) -> float:
        return 2

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield LearntSize(self.case.network)
        yield DrawnExamples()

    def check(self, ctx: Context) -> None:
        region_cw(ctx)

    def inputs(self, ctx: Context) -> dict[str, Any]:
        spec = self.case.network
        return {
            **identity(ctx, spec, region(ctx, spec)),
            "attack": self.case.attack,
            "settings": settings(region_cw(ctx)),
            "votes": [ctx.config.vote.m, ctx.config.vote.seeds[0]],
            "examples": digest_examples(examples(ctx), self.rows),
            "batch": batch_of(ctx),
        }

    def compute(self, ctx: Context) -> Made:
        own = examples(ctx)
        x, targets = own.x[self.rows], torch.from_numpy(own.targets[self.rows]).to(ctx.device)
        each = x.repeat_interleave(targets.shape[1], dim=0)
        vote = classifier(ctx, self.case.network, ctx.config.vote.seeds[0])
        with explained(str(self)):
            result = region_cw(ctx)(vote, each, targets.flatten(), batch=batch_of(ctx))
        success = result.success.cpu().numpy().reshape(targets.shape)
        adversarial = result.adversarial.cpu().numpy().reshape(*targets.shape, *x.shape[1:])
        found = {"success": success, "adversarial": adversarial}
        info = {"unit": str(self.case), "count": success.size, "queries": int(result.queries.sum())}
        return Made(found, {**info, "success": int(success.sum())}, digest_arrays(found))

    def seconds(self, ctx: Context, pace: Pace) -> float:
        own = region_cw(ctx)
        once = own.steps * own.points * pace.backward + 2 * own.votes * pace.forward
        return self.size(ctx) * own.restarts * once


def region_cw(ctx: Context) -> attacks.RegionCW:
    """Return the attack on the votes with the run's budget. Raises ConfigError."""
    fast, own = ctx.config.attacks.budget == "fast", ctx.config.compare.attack
    try:
        return attacks.RegionCW.fast(**own) if fast else attacks.RegionCW(**own)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"compare.attack: {error}") from error


def chosen(ctx: Context) -> np.ndarray:
    """Return which test examples are labelled for the accuracy."""
    count = len(ctx.dataset.test)
    return np.sort(shuffled(count, ctx.config.seed)[: min(count, ctx.config.compare.examples)])


def of_test(ctx: Context, spec: str) -> Iterator[SaidOfTest]:
    """Yield the labels of the chosen test examples, by the votes of the first seed."""
    count = len(chosen(ctx))
    for start in range(0, count, BLOCK):
        yield SaidOfTest(spec, ctx.config.vote.seeds[0], start, min(start + BLOCK, count))


def on_votes(ctx: Context, spec: str) -> Iterator[VoteAttack]:
    """Yield the attack on a vote, block by block."""
    for start, stop in examples(ctx).blocks("drawn", ctx.config.protocol.block):
        yield VoteAttack(Case(spec, "T-RegionCW"), start, stop)
