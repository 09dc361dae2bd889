"""Attacks on networks, in parts of a few examples with all their targets; each runs once, whoever is judged by it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from rcfast import attacks
from rcfast.attacks import Attack, External
from rcfast.eval.checks import Recorder, observing
from rcfast.eval.run.config import ON_VOTES, Config, ConfigError
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import rows_at_once
from rcfast.eval.run.examples import DrawnExamples, Examples, Scope, examples
from rcfast.eval.run.networks import needed_for, network
from rcfast.eval.run.passes import Spent
from rcfast.eval.run.store import digest_arrays
from rcfast.eval.run.unit import Made, Unit, explained
from rcfast.eval.run.versions import on_network

if TYPE_CHECKING:
    from rcfast.eval.run.pace import Pace

TRACE = "trace_"  # before the names of the arrays of a Trace
# Rows attacked at once, fewer of large images; fixed, for it decides how a network rounds. A GPU waits for its host at
# 256: a step of CW-L2 took an H100 2 ms at 90 rows of MNIST, of which the network's passes are 0.2 ms.
BATCH = {"cpu": 256, "cuda": 1024}


NORM = {
    **{"JSMA": 0, "CW-L0": 0, "FGSM": math.inf, "IGSM": math.inf, "CW-Linf": math.inf, "CW-L2": 2},
    **{"RegionCW": 2, "RegionCW-L0": 0, "RegionCW-Linf": math.inf, "OptMargin": 2},
    **{"APGD-L2": 2, "APGD-Linf": math.inf, "DeepFool": 2},
    **{"CA-L0": 0, "CA-L2": 2, "CA-Linf": math.inf},
}


def norm_of(name: str) -> float:
    """Return the norm in which an attack's noise is counted: 0, 2 or inf."""
    return NORM[name.removeprefix("T-").removeprefix("U-")]


@dataclass(frozen=True)
class Case:
    """One attack on one network, or on another defence; `confidence` is 0 but for the high-confidence T-CW-L2."""

    network: str
    attack: str
    confidence: float = 0.0

    @property
    def targeted(self) -> bool:
        return self.attack.startswith("T-")

    def __str__(self) -> str:
        k = f" k={self.confidence:g}" if self.confidence else ""
        return f"{self.attack}{k} on {self.network}"


class Adversarial(Unit):
    """A unit that makes adversarial examples of the examples from `start` to `stop`.

    Arrays: success [n,T] bool, adversarial [n,T,C,H,W] float32, and those of passes.Spent; info: count, queries,
    success. T is 1 where the attack has no target.
    """

    case: (
        Case  # its `network` is what was attacked: that, and who is attacked through it, labels the examples
    )
    start: int
    stop: int
    counted: ClassVar[bool] = True  # whether its passes were counted

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def norm(self) -> float:
        """The norm, 0, 2 or inf, in which its noise is counted."""
        return norm_of(self.case.attack)

    def size(self, ctx: Context) -> int:
        """Return how many adversarial examples it makes."""
        return (self.stop - self.start) * (examples(ctx).targets.shape[1] if self.case.targeted else 1)


@dataclass(frozen=True)
class NetworkAttack(Adversarial):
    """An attack on a network, on one block of examples.

    Where the checks want it to be observed: arrays also those of checks.Trace, and in info how many examples were.
    """

    case: Case
    start: int
    stop: int

    kind = stage = "attack"

    def __str__(self) -> str:
        return str(self.case)

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield from needed_for(ctx, self.case.network)
        yield DrawnExamples()

    def check(self, ctx: Context) -> None:
        make(ctx.config, self.case)

    def inputs(self, ctx: Context) -> dict[str, Any]:
        return {
            "version": on_network(self.case.attack),
            "attack": self.case.attack,
            "settings": settings(make(ctx.config, self.case, ctx.device)),
            "network": network(ctx, self.case.network).digest,
            "examples": digest_examples(examples(ctx), self.rows),
            "batch": batch_of(ctx),
        }

    def compute(self, ctx: Context) -> Made:
        attack, own = make(ctx.config, self.case, ctx.device), examples(ctx)
        x = own.x[self.rows]
        if attack.targeted:
            targets = torch.from_numpy(own.targets[self.rows]).to(ctx.device)
            each, labels = x.repeat_interleave(targets.shape[1], dim=0), targets.flatten()
        else:
            each, labels = x, torch.from_numpy(own.y[self.rows]).to(ctx.device)
        spent, model = Spent(attack, each, labels), network(ctx, self.case.network).model
        with explained(str(self)), observing(spent):
            chosen = self.observed(ctx)
            recorder = Recorder(attack, model, each, labels, chosen.to(ctx.device))
            with observing(recorder) if len(recorder.rows) else nullcontext():
                result = attack(model, each, labels, batch=batch_of(ctx))
            happened = recorder.trace(model, result)
        shape = (len(x), len(each) // max(len(x), 1))
        success = result.success.cpu().numpy().reshape(shape)
        adversarial = result.adversarial.cpu().numpy().reshape(*shape, *x.shape[1:])
        info = {"unit": str(self.case), "count": success.size, "queries": int(result.queries.sum())}
        info["success"] = int(success.sum())
        found = {"success": success, "adversarial": adversarial}
        seen = {f"{TRACE}{name}": value for name, value in vars(happened).items()} if len(chosen) else {}
        info |= {"observed": len(chosen)} if len(chosen) else {}
        # What was spent, and what happened on the way, is no part of what labels depend on.
        return Made({**found, **spent.arrays(shape), **seen}, info, digest_arrays(found))

    def observed(self, ctx: Context) -> Tensor:
        """Which of its rows the checks want to be observed on the way, one target for each of the first examples."""
        checks = ctx.config.checks.examples if "checks" in ctx.outputs and not self.case.confidence else 0
        count = min(checks, examples(ctx).drawn)
        if self.start or not count or self.stop < count or self.case.attack not in ctx.config.attacks.names:
            return torch.zeros(0, dtype=torch.int64)
        targets = examples(ctx).targets.shape[1] if self.case.targeted else 1
        first = torch.arange(count)
        return first * targets + first % targets

    def seconds(self, ctx: Context, pace: Pace) -> float:
        return pace.attack(ctx, self.case, self.size(ctx))


def batch_of(ctx: Context) -> int:
    """Return how many rows an attack takes at once, fewer of large images."""
    return rows_at_once(math.prod(ctx.dataset.shape), BATCH[ctx.device.type])


def parts(ctx: Context, case: Case, scope: Scope) -> Iterator[NetworkAttack]:
    """Yield an attack on the examples that a purpose needs, block by block."""
    for start, stop in blocks(ctx, scope):
        yield NetworkAttack(case, start, stop)


def blocks(ctx: Context, scope: Scope) -> list[tuple[int, int]]:
    """Return start and stop of the blocks of examples that are attacked together."""
    return examples(ctx).blocks(scope, ctx.config.protocol.block)


def make(config: Config, case: Case, device: torch.device | None = None) -> Attack:
    """Return the attack of a case with the run's budget and settings, and with the precision it has on `device`.

    Raises ConfigError for a setting that it does not have.
    """
    own = dict(config.attacks.settings.get(case.attack, {}))
    if case.confidence:
        own |= {**config.attacks.confidence_settings, "confidence": case.confidence}
    try:
        if ":" in case.attack:
            return attacks.external(case.attack.removeprefix("T-"), targeted=case.targeted, **own)
        if case.attack in ON_VOTES:  # of which some need a setting
            made = attacks.get(case.attack, budget=config.attacks.budget, **own)
        else:
            made = attacks.get(case.attack, budget=config.attacks.budget).replace(**own)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"attacks.settings.{case.attack}: {error}") from error
    return made if device is None else made.on(device)


def settings(attack: Attack) -> dict[str, Any]:
    """Return an attack's class and hyperparameters, and of which version a library is whose attack it is."""
    found = {f.name: _plain(getattr(attack, f.name)) for f in fields(attack)}
    library = {"library": attack.version} if isinstance(attack, External) else {}
    return {"class": type(attack).__name__, **found, **library}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    return value if isinstance(value, str | int | float | bool | type(None)) else repr(value)


def digest_examples(own: Examples, rows: slice) -> str:
    """Return the digest of some attacked examples: images, labels and targets."""
    arrays = {"x": own.x[rows].cpu().numpy(), "y": own.y[rows], "targets": own.targets[rows]}
    return digest_arrays(arrays)


def adapted(x: Tensor, adversarial: Tensor, alpha: float) -> Tensor:
    """Return x + (1 + alpha)·(adversarial - x) clipped to [0,1], both [n,...] (section 5.2.2)."""
    return (x + (1 + alpha) * (adversarial - x)).clamp(0, 1) if alpha else adversarial
