"""Attacks on the vote itself, and what votes that they have never seen say of their examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rcfast.attacks import AttackResult, External, Noise, judge
from rcfast.classifier import RegionClassifier
from rcfast.eval.run.attack import (
    Adversarial,
    Case,
    batch_of,
    blocks,
    digest_examples,
    make,
    settings,
)
from rcfast.eval.run.config import ConfigError
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Network, region_classifier
from rcfast.eval.run.examples import DrawnExamples, Scope, examples
from rcfast.eval.run.judges import judge as judge_of
from rcfast.eval.run.judges import needed_by
from rcfast.eval.run.length import length
from rcfast.eval.run.networks import network
from rcfast.eval.run.store import digest, digest_arrays
from rcfast.eval.run.unit import Made, Unit, explained
from rcfast.eval.run.versions import ATTACK, JUDGED
from rcfast.eval.run.voter import Voter
from rcfast.regions import Cube
from rcfast.running import plain

if TYPE_CHECKING:
    from rcfast.eval.run.pace import Pace

DEFENCE = "region"
JUDGES = 3  # seeds that no attack has seen


class _Attacked:
    """The network of a vote for its attackers: gradients through the network itself, votes as the run casts them."""

    def __init__(self, network: Network, voter: Voter) -> None:
        self.differentiable, self.voter = plain(network.model), voter

    def __call__(self, points: Tensor) -> Tensor:
        if torch.is_grad_enabled() and points.requires_grad:
            return self.differentiable.reformatted(points)(points)
        return self.voter(points)


def attacked(ctx: Context) -> RegionClassifier:
    """Return the vote under the seed that attackers know."""
    own, vote = network(ctx, "point"), ctx.config.vote
    r = length(ctx)
    model = _Attacked(own, own.voter(vote.dtype, Cube(r)))
    return region_classifier(own, r, vote, seed=vote.seeds[0], model=model)


def wanted(ctx: Context, made: Adversarial) -> Tensor:
    """Return what an attack wants of each example [n,T] int64: targets, or for an attack without the true label."""
    own = examples(ctx)
    labels = own.targets[made.rows] if made.case.targeted else own.y[made.rows][:, None]
    return torch.from_numpy(labels).to(ctx.device)


@dataclass(frozen=True)
class VoteAttack(Adversarial):
    """An attack on the vote of the region-based classifier, on one block of examples; `success` is by the first seed.

    Arrays also: queries [n,T] int64, points and inputs that it asked the network about.
    """

    case: Case
    start: int
    stop: int
    measured_in: float  # the norm

    kind = stage = "attack"

    def __str__(self) -> str:
        return str(self.case)

    @property
    def norm(self) -> float:
        return self.measured_in

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield from needed_by(ctx, DEFENCE)
        yield DrawnExamples()

    def check(self, ctx: Context) -> None:
        made = make(ctx.config, self.case)
        if isinstance(made, External):
            try:
                made.find()
            except (ImportError, AttributeError) as error:
                raise ConfigError(f"attacks.vote: {error}") from error

    def inputs(self, ctx: Context) -> dict[str, Any]:
        return {
            "version": ATTACK,
            "attack": self.case.attack,
            "settings": settings(make(ctx.config, self.case, ctx.device)),
            "vote": judge_of(ctx, DEFENCE).identity,
            "seed": ctx.config.vote.seeds[0],
            "examples": digest_examples(examples(ctx), self.rows),
            "batch": batch_of(ctx),
        }

    def compute(self, ctx: Context) -> Made:
        attack, labels = make(ctx.config, self.case, ctx.device), wanted(ctx, self)
        x = examples(ctx).x[self.rows]
        each = x.repeat_interleave(labels.shape[1], dim=0)
        with explained(str(self)):
            result = attack(attacked(ctx), each, labels.flatten(), batch=batch_of(ctx))
        shape = tuple(labels.shape)
        found = {
            "success": result.success.cpu().numpy().reshape(shape),
            "adversarial": result.adversarial.cpu().numpy().reshape(*shape, *x.shape[1:]),
        }
        spent = {"queries": result.queries.cpu().numpy().reshape(shape)}
        info = {"unit": str(self.case), "count": len(each), "queries": int(result.queries.sum())}
        info["success"] = int(result.success.sum())
        return Made({**found, **spent}, info, digest_arrays(found))

    def seconds(self, ctx: Context, pace: Pace) -> float:
        made = make(ctx.config, self.case, ctx.device)
        known = pace.known.get(digest([self.case.attack, settings(made)]))
        points = getattr(made, "steps", 500) * getattr(made, "points", 1) * getattr(made, "restarts", 1)
        if isinstance(made, External):
            points = made.queries * max(made.points, 30)
        each = points * pace.backward + 3 * ctx.config.vote.m * pace.forward
        once = pace.around(getattr(made, "steps", 0) * getattr(made, "restarts", 1))
        return self.size(ctx) * each + once if known is None else self.size(ctx) * known


def result_of(adversarial: Tensor, clean: Tensor) -> AttackResult:
    """Return adversarial examples [N,...] of clean ones as a result that can be judged."""
    rows = len(clean)
    return AttackResult(
        adversarial=adversarial,
        success=torch.ones(rows, dtype=torch.bool, device=clean.device),
        noise=Noise.between(adversarial, clean),
        queries=torch.zeros(rows, dtype=torch.int64, device=clean.device),
        clean=clean,
    )


@dataclass(frozen=True)
class JudgedExamples(Unit):
    """What exact votes under seeds and example ids that no attack has seen say of adversarial examples.

    Arrays of rcfast.attacks.Judgement: success and rounded [S,n,T] bool, own [n,T] bool, share and rival [n,T] float32.
    """

    made: Adversarial

    kind = "judged"
    stage = "vote"

    def __str__(self) -> str:
        return f"judging {self.made}"

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield from needed_by(ctx, DEFENCE)
        yield self.made

    def inputs(self, ctx: Context) -> dict[str, Any]:
        part = ctx.part(self.made)
        return {
            "version": JUDGED,
            "defence": judge_of(ctx, DEFENCE).identity,
            "own": ctx.config.vote.seeds[0],
            "judges": JUDGES,
            "targeted": self.made.case.targeted,
            "source": {"attack": part.digest, "clean": part.inputs["examples"]},
        }

    def compute(self, ctx: Context) -> Made:
        labels, own = wanted(ctx, self.made), ctx.config.vote
        made = torch.from_numpy(ctx.arrays(self.made)["adversarial"]).to(ctx.device)
        clean = examples(ctx).x[self.made.rows][:, None].expand_as(made)
        result = result_of(made.flatten(0, 1), clean.flatten(0, 1))
        vote = region_classifier(network(ctx, "point"), length(ctx), own, seed=own.seeds[0])
        with explained(str(self)), torch.no_grad():
            said = judge(
                vote,
                result,
                labels.flatten(),
                targeted=self.made.case.targeted,
                seeds=JUDGES,
                m=own.m,
            )
        arrays: dict[str, np.ndarray] = {
            name: getattr(said, name).cpu().numpy().reshape(-1, *labels.shape)
            for name in ("success", "rounded")
        }
        for name in ("own", "share", "rival"):
            arrays[name] = getattr(said, name).float().cpu().numpy().reshape(labels.shape)
        arrays["own"] = arrays["own"].astype(bool)
        return Made(arrays)

    def size(self, ctx: Context) -> int:
        return self.made.size(ctx) * (2 * JUDGES + 1)

    def seconds(self, ctx: Context, pace: Pace) -> float:
        return self.size(ctx) * 0.75 * ctx.config.vote.m * pace.forward


def parts(ctx: Context, attack: str, scope: Scope = "drawn") -> Iterator[VoteAttack]:
    """Yield an attack on the vote, block by block."""
    case = Case(DEFENCE, attack)
    norm = make(ctx.config, case).norm
    for start, stop in blocks(ctx, scope):
        yield VoteAttack(case, start, stop, norm)


def names(ctx: Context, norm: float | None = None) -> list[str]:
    """Return the attacks on the vote that the run asks for, those in one norm where it is given."""
    if DEFENCE not in ctx.config.defences:
        return []
    found = dict.fromkeys(ctx.config.attacks.vote)
    return [name for name in found if norm is None or make(ctx.config, Case(DEFENCE, name)).norm == norm]
