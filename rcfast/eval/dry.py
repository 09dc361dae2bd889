"""What `--dry-run` says: the stages, what is there already, and about how long the rest takes."""

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rcfast import attacks
from rcfast.eval import engine
from rcfast.eval.config import Config
from rcfast.eval.plan import Unit
from rcfast.eval.progress import Progress, duration
from rcfast.eval.stages import attack, train, vote
from rcfast.eval.stages.context import Context, Tally
from rcfast.eval.store import Store, digest
from rcfast.training.recipe import Recipe

# Passes forward and backward, in the precision of training, that take the time of one adversarial example, as
# measured on MNIST in batches of 90.
PASSES = {
    "paper": {
        **{"T-JSMA": 200, "T-CW-L0": 5500, "T-FGSM": 120, "T-IGSM": 1500, "T-CW-Linf": 4600},
        **{"T-CW-L2": 2100, "DeepFool": 150},
    },
    "fast": {
        **{"T-JSMA": 200, "T-CW-L0": 1000, "T-FGSM": 80, "T-IGSM": 300, "T-CW-Linf": 700},
        **{"T-CW-L2": 270, "DeepFool": 150},
    },
}
SAMPLES = {
    "sequential": (14, 100),
    "exact": (510, 650),
    "none": (1000, 1000),
}  # benign, adversarial; m = 1,000
LIKELY_R = 0.3  # where Algorithm 1 may end
DRAWING = 20.0  # seconds


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


def describe(config: Config, out: Path, outputs: Sequence[str]) -> str:
    """Return the text of a dry run; nothing is written. Raises ConfigError."""
    store = Store(out, readonly=True)
    ctx = engine.prepare(config, out, outputs, store, Progress("quiet"))
    make, _, given = train.builder(ctx)
    network = given or make()
    _, backward = pass_seconds(network, ctx, Recipe().dtype(ctx.device))
    forward, _ = pass_seconds(network, ctx, getattr(torch, ctx.config.vote.dtype or "float32"))
    rows = [_train(ctx, backward, forward), *_after(ctx, forward, backward)]
    lines = [
        f"{config.data.name} ({len(ctx.dataset.train)} / {len(ctx.dataset.validation)} / "
        f"{len(ctx.dataset.test)} examples), preset {config.preset}, into {out}",
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
    return "\n".join(lines)


def pass_seconds(model: nn.Module, ctx: Context, dtype: torch.dtype) -> tuple[float, float]:
    """Return seconds per example of a forward pass, and of a forward and backward pass, measured in `dtype`."""
    x = ctx.dataset.train.x[:128].to(ctx.device)
    model = copy.deepcopy(model).to(ctx.device).eval()
    if x.dim() == 4:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)

    def run(grad: bool) -> float:
        start = time.perf_counter()
        reduced = torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32)
        with torch.set_grad_enabled(grad), reduced:
            logits = model(x.clone().requires_grad_(grad))
        if grad:
            logits.sum().backward()
        logits.sum().item()
        return (time.perf_counter() - start) / len(x)

    run(True)
    return min(run(False) for _ in range(3)), min(run(True) for _ in range(3))


def _train(ctx: Context, backward: float, forward: float) -> Row:
    row, examples = Row("train"), len(ctx.dataset.train)
    for name in ctx.plan.networks:
        make, described, given = train.builder(ctx)
        if name == "point" and given is not None:
            row.add(found=True, seconds=0)
            continue
        inputs, _ = train.recipe(ctx, name, make, described)
        cost = inputs["recipe"]["epochs"] * examples * backward
        # One iteration of DeepFool on a minibatch takes a little more than a step of training.
        made = 1 + 1.2 * ctx.config.train.adversarial.get("attack_settings", {}).get("iterations", 10)
        cost *= {"point": 1, "distillation": 2, "adversarial": made}[name]
        row.add(found=ctx.ready("train", inputs, ".safetensors") is not None, seconds=cost)
    if ctx.plan.length:
        own = ctx.config.length
        samples = max(SAMPLES[own.stop][0] * own.m / 1000, SAMPLES["sequential"][0])
        radii = LIKELY_R / own.step + own.curve_max / own.curve_step
        cost = radii * len(ctx.dataset.validation) * samples * forward
        row.add(found=_length(ctx) is not None, seconds=cost)
    return row


def _length(ctx: Context) -> float | None:
    """Return r if it is known: it depends on the undefended network alone."""
    part = ctx.ready("length", train.length_inputs(ctx)) if _network(ctx, "point") else None
    return None if part is None else float(part.info["r"])


def _networks(ctx: Context) -> bool:
    """Load the networks that are there; say whether these are all."""
    return all([_network(ctx, name) for name in ctx.plan.networks])  # noqa: C419 (loads every one that is there)


def _network(ctx: Context, name: str) -> bool:
    """Load a network if it is there, whole; say whether it is. Nothing is trained."""
    if name in ctx.networks:
        return True
    make, described, given = train.builder(ctx)
    if name == "point" and given is not None:
        ctx.networks[name] = train.network(ctx, name, Tally())
        return True
    inputs, _ = train.recipe(ctx, name, make, described)
    part = ctx.ready("train", inputs, ".safetensors")
    if part is not None:
        ctx.networks[name] = train.load(ctx, name, make, part)
    return part is not None


def _after(ctx: Context, forward: float, backward: float) -> list[Row]:
    """Return the later stages; without the networks their parts are only counted."""
    rows = [Row("attack"), Row("vote"), Row("draw", 1, 1, DRAWING)]
    size, block = ctx.config.protocol, ctx.config.protocol.block
    targets = size.targets or ctx.dataset.num_classes - 1
    known = remembered(ctx.store)
    per = {
        unit: seconds_per_example(ctx.config, unit, backward, known, ctx.device) for unit in ctx.plan.units
    }
    vote_cost = _vote_seconds(ctx, forward)
    ctx.r = _length(ctx) if ctx.plan.length else None
    if _networks(ctx) and (ctx.r is not None or not ctx.plan.length):
        train.set_judges(ctx)
        ctx._examples = train.examples(ctx, keep=False)
        for job in attack.jobs(ctx):
            count = job.count(ctx.examples)
            found = ctx.ready("attack", job.inputs)
            rows[0].add(found=found is not None, seconds=count * per[job.unit])
        for vote_job in vote.jobs(ctx, missing=True):
            found = ctx.ready("vote", vote_job.inputs) if vote_job.unit is None or vote_job.part else None
            count = vote.size(ctx, vote_job)
            cost = vote_cost[vote_job.judge.random, vote_job.unit is not None]
            rows[1].add(found=found is not None, seconds=count * cost)
        if not rows[0].todo + rows[1].todo and any((ctx.store.root / "store" / "draw").glob("*.json")):
            rows[2] = Row("draw", 1)
        return rows
    blocks = [min(block, size.examples - start) for start in range(0, size.examples, block)]
    for unit, scopes in ctx.plan.units.items():
        each = 1 if unit.attack == "DeepFool" else targets
        for count in blocks if "drawn" in scopes else [1]:
            rows[0].add(found=False, seconds=count * each * per[unit])
            moved = len({0.0, *ctx.plan.adapted.get(unit, {})})
            judged = len(ctx.config.vote.seeds) if unit.network == "point" else 0
            for _ in range(moved * (1 + judged)):
                rows[1].add(found=False, seconds=count * each * vote_cost[judged > 0, True])
    if ctx.plan.benign:
        for _ in ctx.config.vote.seeds:
            rows[1].add(found=False, seconds=len(ctx.dataset.test) * vote_cost[True, False])
    return rows


def _vote_seconds(ctx: Context, forward: float) -> dict[tuple[bool, bool], float]:
    """Return seconds per label by (votes or not, adversarial or not)."""
    benign, adversarial = SAMPLES[ctx.config.vote.stop]
    scale = ctx.config.vote.m / 1000 * forward
    return {
        (False, False): forward,
        (False, True): forward,
        (True, False): benign * scale,
        (True, True): adversarial * scale,
    }


def remembered(store: Store) -> dict[str, float]:
    """Return seconds per adversarial example of the attacks that this folder has seen, by their settings."""
    spent: dict[str, list[float]] = {}
    for path in sorted((store.root / "store" / "attack").glob("*.json")):
        try:
            said = json.loads(path.read_text())
            key = digest([said["inputs"]["attack"], said["inputs"]["settings"]])
            total = spent.setdefault(key, [0.0, 0.0])
            total[0] += said["seconds"]
            total[1] += said["info"]["count"]
        except (OSError, ValueError, KeyError):
            continue
    return {key: seconds / count for key, (seconds, count) in spent.items() if count}


def seconds_per_example(
    config: Config, unit: Unit, backward: float, known: dict[str, float], device: torch.device
) -> float:
    """Return a guess: what this attack took here before, or its usual number of passes.

    Most examples leave before the budget's end, so a smaller budget saves less than its share.
    """
    made, usual = attack.make(config, unit, device), attacks.get(unit.attack, budget=config.attacks.budget)
    share = budget(made) / budget(usual)
    passes = PASSES[config.attacks.budget][unit.attack] * share**0.5
    return known.get(digest([unit.attack, attack.settings(made)]), passes * backward)


def budget(made: attacks.Attack) -> int:
    """Return the iterations that the attack may take, or 1 where it counts none."""
    return getattr(made, "iterations", 1) * getattr(made, "searches", 1)
