"""What the checks are made from: networks examined, attacks traced and given twice the budget, random noise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rcfast.attacks import Attack
from rcfast.eval.checks import Examined, Trace, examine, random_noise, trace
from rcfast.eval.run import attack
from rcfast.eval.run.attack import Adversarial, Case, make, settings
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured
from rcfast.eval.run.examples import DrawnExamples, examples
from rcfast.eval.run.judges import needed_by
from rcfast.eval.run.labels import Labels
from rcfast.eval.run.networks import needed_for, network
from rcfast.eval.run.unit import Made, Unit, explained
from rcfast.eval.run.versions import CHECKS, on_network

if TYPE_CHECKING:
    from rcfast.eval.run.pace import Pace


def checked(ctx: Context) -> int:
    """Return how many of the drawn examples the checks attack anew."""
    return min(ctx.config.checks.examples, examples(ctx).drawn)


@dataclass(frozen=True)
class ExaminedNetwork(Unit):
    """A network looked at on the drawn examples. Array: said [P,N]; info: the other fields of `Examined`."""

    name: str

    kind, stage = "examined", "check"

    def __str__(self) -> str:
        return f"looking at {self.name}"

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield from needed_for(ctx, self.name)
        yield DrawnExamples()

    def inputs(self, ctx: Context) -> dict[str, Any]:
        drawn = slice(0, examples(ctx).drawn)
        return {
            "version": CHECKS,
            "network": network(ctx, self.name).digest,
            "examples": attack.digest_examples(examples(ctx), drawn),
        }

    def compute(self, ctx: Context) -> Made:
        own = examples(ctx)
        y = torch.from_numpy(own.y[: own.drawn]).to(ctx.device)
        with explained(str(self)):
            seen = examine(network(ctx, self.name).model, own.x[: own.drawn], y)
        info = {name: getattr(seen, name) for name in ("labels", "probabilities", "zero", "optimises")}
        return Made({"said": seen.said}, info)

    def result(self, ctx: Context) -> Examined:
        return Examined(said=ctx.arrays(self)["said"], **ctx.part(self).info)


@dataclass(frozen=True)
class TracedAttack(Unit):
    """An attack on the first examples, one target each, observed. Arrays: those of `Trace`.

    times: by how much its iterations are multiplied; 1 only where it was not observed when it was made.
    """

    case: Case
    times: int = 1

    kind, stage = "traced", "check"

    def __str__(self) -> str:
        return f"{self.case}, observed" + (f", {self.times} times the iterations" if self.times > 1 else "")

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield from needed_for(ctx, self.case.network)
        yield DrawnExamples()

    def attack(self, ctx: Context) -> Attack:
        made = make(ctx.config, self.case, ctx.device)
        return made.replace(iterations=made.iterations * self.times) if self.times > 1 else made  # type: ignore[attr-defined]

    def inputs(self, ctx: Context) -> dict[str, Any]:
        return {
            "version": [on_network(self.case.attack), CHECKS],
            "attack": self.case.attack,
            "settings": settings(self.attack(ctx)),
            "network": network(ctx, self.case.network).digest,
            "examples": attack.digest_examples(examples(ctx), slice(0, checked(ctx))),
        }

    def compute(self, ctx: Context) -> Made:
        own, count = examples(ctx), checked(ctx)
        rows = np.arange(count)
        wanted = own.targets[rows, rows % own.targets.shape[1]] if self.case.targeted else own.y[:count]
        with explained(str(self)):
            found = trace(
                self.attack(ctx),
                network(ctx, self.case.network).model,
                own.x[:count],
                torch.from_numpy(wanted).to(ctx.device),
            )
        return Made(dict(vars(found)))

    def result(self, ctx: Context) -> Trace:
        return Trace(**ctx.arrays(self))

    def size(self, ctx: Context) -> int:
        return checked(ctx) * self.times

    def seconds(self, ctx: Context, pace: Pace) -> float:
        return self.times**0.5 * pace.attack(ctx, self.case, checked(ctx))


def observed(ctx: Context, case: Case) -> attack.NetworkAttack | TracedAttack:
    """Return what holds an attack's trace: the attack, where it was observed or will be, else a unit of its own."""
    made = next(attack.parts(ctx, case, "drawn"))
    part = None if ctx.sketch else ctx.find(made)
    count = len(made.observed(ctx)) if part is None else part.info.get("observed", 0)
    return made if count == checked(ctx) else TracedAttack(case)


def trace_of(ctx: Context, case: Case) -> Trace:
    """Return what an attack did on the first examples."""
    unit = observed(ctx, case)
    if isinstance(unit, TracedAttack):
        return unit.result(ctx)
    arrays = ctx.arrays(unit)
    return Trace(**{field.name: arrays[attack.TRACE + field.name] for field in fields(Trace)})


def has_iterations(ctx: Context, case: Case) -> bool:
    """Whether the attack has a number of iterations that could be doubled."""
    return hasattr(make(ctx.config, case, ctx.device), "iterations")


@dataclass(frozen=True)
class NoisyLabels(Labels):
    """Labels of random noise of the size of an attack's, on its first examples: what a search has to do better than."""

    judge: str
    seed: int | None
    made: Adversarial
    stop: int

    def __str__(self) -> str:
        return f"{self.judge}: random noise of the size of {self.made}"

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield from needed_by(ctx, self.judge)
        yield self.made

    def inputs(self, ctx: Context) -> dict[str, Any]:
        part = ctx.part(self.made)
        source = {
            "noise of": part.digest,
            "clean": part.inputs["examples"],
            "stop": self.stop,
            "code": CHECKS,
        }
        return self._inputs(ctx, source)

    def compute(self, ctx: Context) -> Made:
        count = self.stop - self.made.start
        made = torch.from_numpy(ctx.arrays(self.made)["adversarial"][:count])
        clean = examples(ctx).x[self.made.start : self.stop].cpu()[:, None].expand_as(made)
        noisy = random_noise(clean.flatten(0, 1), made.flatten(0, 1), self.made.norm)
        return self._made(ctx, noisy.to(ctx.device))

    def size(self, ctx: Context) -> int:
        return self.made.size(ctx) * (self.stop - self.made.start) // (self.made.stop - self.made.start)

    def seconds(self, ctx: Context, pace: Pace) -> float:
        return self.size(ctx) * pace.label(ctx, votes=self.seed is not None, adversarial=True)


def noisy(ctx: Context, own: Measured, case: Case) -> NoisyLabels:
    """Return what a defence says, with its first seed, of noise of the size of an attack's first part."""
    first = next(attack.parts(ctx, case, "drawn"))
    return NoisyLabels(own.name, own.seeds[0], first, min(checked(ctx), first.stop))
