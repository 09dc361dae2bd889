"""Third stage: what every defence says about the benign test set and about the adversarial examples."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcfast.classifier import RegionClassifier
from rcfast.eval.defences import Judge, region_classifier
from rcfast.eval.plan import HISTOGRAM_ATTACKS, Scope, Unit
from rcfast.eval.stages import attack
from rcfast.eval.stages.context import Context, Tally, explained
from rcfast.eval.store import Part

VERSION = 2
BENIGN_BLOCK = 2000
HISTOGRAM_R = 0.3  # half-width of Figure 2 where there is no region-based classifier


@dataclass(frozen=True)
class Job:
    """One part: the labels by one defence with one vote seed.

    source: "benign" (rows of the test set) or "adversarial" (rows of the attacked examples, moved by alpha).
    """

    judge: Judge
    seed: int | None
    rows: slice
    inputs: dict[str, Any]
    unit: Unit | None = None
    alpha: float = 0.0
    part: Part | None = None


def run(ctx: Context) -> None:
    """Label whatever is not on disk yet."""
    tally = Tally()
    todo = list(jobs(ctx))
    sizes = [size(ctx, job) for job in todo]
    histogram = "figure2" in ctx.plan.outputs
    with ctx.progress.stage("vote", sum(sizes) + histogram, "labels") as bar:
        for job, count in zip(todo, sizes, strict=True):
            found = ctx.ready("vote", job.inputs)
            if found is None:
                what = f"{job.judge.name}: {job.unit or 'test set'}"
                bar.say(what)
                x, start = _x(ctx, job), time.perf_counter()
                with explained(what):
                    said = job.judge.label(x, job.seed)
                seconds = time.perf_counter() - start
                tally.add(ctx.store.save("vote", job.inputs, {"said": said}, seconds=seconds), reused=False)
            else:
                tally.add(found, reused=True)
            bar.advance(count)
        if histogram:
            histograms(ctx, tally)
            bar.advance()
    ctx.stages.append(tally.time("vote"))


def size(ctx: Context, job: Job) -> int:
    """Return how many labels a part holds."""
    count = job.rows.stop - job.rows.start
    single = job.unit is None or job.unit.attack == "DeepFool"
    return count if single else count * ctx.examples.targets.shape[1]


def _x(ctx: Context, job: Job) -> Tensor:
    if job.unit is None:
        return ctx.dataset.test.x[job.rows].to(ctx.device)
    assert job.part is not None
    made = torch.from_numpy(ctx.arrays(job.part)["adversarial"]).to(ctx.device)
    clean = ctx.examples.x[job.rows][:, None].expand_as(made)
    return attack.adapted(clean, made, job.alpha).flatten(0, 1)


def benign_jobs(ctx: Context) -> Iterator[Job]:
    """Yield the labelling of the test set by every defence, for every vote seed."""
    if not ctx.plan.benign:
        return
    count = len(ctx.dataset.test)
    for judge in measured(ctx):
        for seed in judge.seeds:
            for start in range(0, count, BENIGN_BLOCK):
                rows = slice(start, min(start + BENIGN_BLOCK, count))
                test = {"test": ctx.dataset.test.fingerprint, "rows": [rows.start, rows.stop]}
                yield Job(judge, seed, rows, _inputs(judge, seed, test))


def jobs(ctx: Context, *, missing: bool = False) -> Iterator[Job]:
    """Yield the parts of the stage in a fixed order; `missing`: also those whose attack is not there yet."""
    yield from benign_jobs(ctx)
    yield from adversarial_jobs(ctx, missing=missing)


def adversarial_jobs(ctx: Context, *, missing: bool = False) -> Iterator[Job]:
    """Yield the labelling of all adversarial examples by the defences they are meant for."""
    for job in attack.jobs(ctx):
        part = ctx.store.find("attack", job.inputs)
        assert missing or part is not None, "the attack stage ran before"
        attacked = part.digest if part is not None else ""
        for alpha in alphas_of(ctx, job.unit, job.rows):
            for judge in ctx.judges:
                if judge.attacked == job.unit.network:
                    for seed in seeds_of(ctx, judge, job.rows):
                        source = {"attack": attacked, "clean": job.inputs["examples"], "alpha": alpha}
                        inputs = _inputs(judge, seed, source)
                        yield Job(judge, seed, job.rows, inputs, job.unit, alpha, part)


def alphas_of(ctx: Context, unit: Unit, rows: slice) -> list[float]:
    """Return by how much the examples of a block are to be moved on; 0 is the attack itself."""
    wanted = {0.0}
    for alpha, scopes in ctx.plan.adapted.get(unit, {}).items():
        if rows in attack.blocks_of(scopes, ctx.examples, ctx.config.protocol.block):
            wanted.add(alpha)
    return sorted(wanted)


def seeds_of(ctx: Context, judge: Judge, rows: slice) -> tuple[int | None, ...]:
    """Return the vote seeds of a block: one is enough for an example that only an image grid shows."""
    return judge.seeds if rows.start < ctx.examples.drawn else judge.seeds[:1]


def measured(ctx: Context) -> list[Judge]:
    """Return the defences that the run was asked to measure."""
    wanted = {*ctx.config.defences, ctx.user}
    return [judge for judge in ctx.judges if judge.name in wanted]


def _inputs(judge: Judge, seed: int | None, source: dict[str, Any]) -> dict[str, Any]:
    return {"version": VERSION, "defence": judge.identity, "seed": seed, "source": source}


def histograms(ctx: Context, tally: Tally) -> Part:
    """Return the part with the label histograms of Figure 2, one example of the first label there is.

    Arrays: benign [L], and for each attack <name> [T,L] and <name>-success [T].
    """
    row = next(int(row) for row in ctx.examples.grid if row >= 0)
    r = ctx.r if ctx.r else HISTOGRAM_R
    vote = ctx.config.vote
    parts = {unit.attack: part for unit, part, rows in _histogram_parts(ctx) if rows.start <= row < rows.stop}
    network = ctx.networks["point"]
    inputs = {
        "version": VERSION,
        "network": network.digest,
        "r": r,
        "m": vote.histogram_m,
        "clip": vote.clip,
        "chunk": vote.chunk,
        "dtype": vote.dtype,
        "seed": vote.seeds[0],
        "example": int(ctx.examples.index[row]),
        "test": ctx.dataset.test.fingerprint,
        "attacks": {name: part.digest for name, part in parts.items()},
    }
    found = ctx.ready("histogram", inputs)
    if found is not None:
        return tally.add(found, reused=True)
    start = time.perf_counter()
    every = dataclasses.replace(vote, m=vote.histogram_m, stop="none")
    votes = region_classifier(network, r, every, seed=vote.seeds[0])
    arrays = {"benign": _counts(votes, ctx.examples.x[row : row + 1])[0]}
    for unit, part, rows in _histogram_parts(ctx):
        if rows.start <= row < rows.stop:
            own = ctx.arrays(part)
            made = torch.from_numpy(own["adversarial"][row - rows.start]).to(ctx.device)
            arrays[unit.attack] = _counts(votes, made)
            arrays[f"{unit.attack}-success"] = own["success"][row - rows.start]
    info = {"true_label": int(ctx.examples.y[row]), "m": vote.histogram_m, "r": r, "row": row}
    seconds = time.perf_counter() - start
    return tally.add(ctx.store.save("histogram", inputs, arrays, seconds=seconds, info=info), reused=False)


def _counts(votes: RegionClassifier, x: Tensor) -> np.ndarray:
    with torch.no_grad(), explained("the votes of Figure 2"):
        counts = votes.vote(x).counts
    return counts.cpu().numpy().astype(np.int64)


def _histogram_parts(ctx: Context) -> Iterator[tuple[Unit, Part, slice]]:
    scope: Scope = "histogram"
    for job in attack.jobs(ctx):
        if (
            job.unit.network == "point"
            and not job.unit.confidence
            and job.unit.attack in HISTOGRAM_ATTACKS
            and scope in ctx.plan.units[job.unit]
        ):
            part = ctx.store.find("attack", job.inputs)
            assert part is not None, "the attack stage ran before"
            yield job.unit, part, job.rows
