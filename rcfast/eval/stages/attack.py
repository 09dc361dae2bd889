"""Second stage: every attack once on every network, in parts of a few examples with all their targets."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcfast import attacks
from rcfast.attacks import Attack
from rcfast.eval.config import Config, ConfigError
from rcfast.eval.plan import Plan, Scope, Unit
from rcfast.eval.stages.context import Context, Examples, Tally, explained
from rcfast.eval.store import digest_arrays

VERSION = 2  # raised when an attack finds something else with the same settings
BATCH = 256  # rows attacked at once; fixed, because a batch's size decides how a network rounds


@dataclass(frozen=True)
class Job:
    """One part: an attack on one block of examples."""

    unit: Unit
    rows: slice
    inputs: dict[str, Any]

    def count(self, examples: Examples) -> int:
        """Return how many adversarial examples it makes."""
        targets = 1 if self.unit.attack == "DeepFool" else examples.targets.shape[1]
        return (self.rows.stop - self.rows.start) * targets


def make(config: Config, unit: Unit, device: torch.device | None = None) -> Attack:
    """Return the attack of a unit with the run's budget and settings, and with the precision it has on `device`.

    Raises ConfigError for a setting that it does not have.
    """
    own = dict(config.attacks.settings.get(unit.attack, {}))
    if unit.confidence:
        own |= {**config.attacks.confidence_settings, "confidence": unit.confidence}
    try:
        made = attacks.get(unit.attack, budget=config.attacks.budget).replace(**own)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"attacks.settings.{unit.attack}: {error}") from error
    return made if device is None else made.on(device)


def rows_of(scope: Scope, examples: Examples) -> set[int]:
    """Return which examples a purpose needs."""
    if scope == "drawn":
        return set(range(examples.drawn))
    there = [int(row) for row in examples.grid if row >= 0]
    return set(there if scope == "grid" else there[:1])


def blocks_of(scopes: frozenset[Scope], examples: Examples, size: int) -> list[slice]:
    """Return the blocks that hold an example which one of the purposes needs."""
    wanted = set().union(*(rows_of(scope, examples) for scope in scopes))
    return [b for b in examples.blocks(size) if wanted & set(range(b.start, b.stop))]


def jobs(ctx: Context, plan: Plan | None = None) -> Iterator[Job]:
    """Yield the parts of the stage in a fixed order."""
    for unit, scopes in (plan or ctx.plan).units.items():
        network = ctx.networks[unit.network]
        attack = make(ctx.config, unit, ctx.device)
        for rows in blocks_of(scopes, ctx.examples, ctx.config.protocol.block):
            yield Job(unit, rows, inputs(ctx.examples, attack, network.digest, unit, rows))


def inputs(examples: Examples, attack: Attack, network: str, unit: Unit, rows: slice) -> dict[str, Any]:
    """Return what decides the outcome of one part."""
    arrays = {
        "x": examples.x[rows].cpu().numpy(),
        "y": examples.y[rows],
        "targets": examples.targets[rows],
    }
    return {
        "version": VERSION,
        "attack": unit.attack,
        "settings": settings(attack),
        "network": network,
        "examples": digest_arrays(arrays),
        "batch": BATCH,
    }


def settings(attack: Attack) -> dict[str, Any]:
    """Return an attack's class and hyperparameters."""
    return {
        "class": type(attack).__name__,
        **{f.name: _plain(getattr(attack, f.name)) for f in fields(attack)},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | type(None)) else repr(value)


def run(ctx: Context) -> None:
    """Attack whatever is not on disk yet."""
    tally, todo = Tally(), list(jobs(ctx))
    total = sum(job.count(ctx.examples) for job in todo)
    with ctx.progress.stage("attack", total, "examples") as bar:
        for job in todo:
            part = ctx.ready("attack", job.inputs)
            if part is not None:
                tally.add(part, reused=True)
            else:
                bar.say(str(job.unit))
                start = time.perf_counter()
                arrays, queries = perform(ctx, job)
                success = arrays["success"]
                info = {"unit": str(job.unit), "count": success.size, "queries": queries}
                info["success"] = int(success.sum())
                seconds = time.perf_counter() - start
                tally.add(
                    ctx.store.save("attack", job.inputs, arrays, seconds=seconds, info=info), reused=False
                )
            bar.advance(job.count(ctx.examples))
    ctx.stages.append(tally.time("attack"))


def perform(ctx: Context, job: Job) -> tuple[dict[str, np.ndarray], int]:
    """Return the arrays of a part, success [n,T] and adversarial [n,T,C,H,W], and the queries spent."""
    attack, model = make(ctx.config, job.unit, ctx.device), ctx.networks[job.unit.network].model
    x = ctx.examples.x[job.rows]
    if attack.targeted:
        targets = torch.from_numpy(ctx.examples.targets[job.rows]).to(ctx.device)
        each, labels = x.repeat_interleave(targets.shape[1], dim=0), targets.flatten()
    else:
        each, labels = x, torch.from_numpy(ctx.examples.y[job.rows]).to(ctx.device)
    with explained(str(job.unit)):
        result = attack(model, each, labels, batch=BATCH)
    shape = (len(x), len(each) // max(len(x), 1))
    arrays = {
        "success": result.success.cpu().numpy().reshape(shape),
        "adversarial": result.adversarial.cpu().numpy().reshape(*shape, *x.shape[1:]),
    }
    return arrays, int(result.queries.sum())


def adapted(x: Tensor, adversarial: Tensor, alpha: float) -> Tensor:
    """Return x + (1 + alpha)·(adversarial - x) clipped to [0,1], both [n,...] (section 5.2.2)."""
    return (x + (1 + alpha) * (adversarial - x)).clamp(0, 1) if alpha else adversarial
