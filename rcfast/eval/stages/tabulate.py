"""Fourth stage: from parts to the results document, and from it to the tables."""

import json
import math
from collections.abc import Iterator

import numpy as np
import torch

from rcfast.eval import environment, tables
from rcfast.eval.cautions import cautions
from rcfast.eval.config import TARGETED
from rcfast.eval.defences import Judge
from rcfast.eval.plan import HISTOGRAM_ATTACKS, Unit
from rcfast.eval.protocol import (
    COMBINED,
    READINGS,
    Candidates,
    summarise,
    targeted,
    untargeted,
)
from rcfast.eval.results import Accuracy, AttackRow, Group, Length, Results
from rcfast.eval.stages import attack, grids, train, vote
from rcfast.eval.stages.context import Context, Tally
from rcfast.eval.store import Part, write_atomic

NORM = {"JSMA": 0, "CW-L0": 0, "FGSM": math.inf, "IGSM": math.inf, "CW-Linf": math.inf, "CW-L2": 2}

Key = tuple[Unit, float]  # an attack and the alpha by which its examples were moved


def run(ctx: Context) -> Results:
    """Write results.json, the image grids and the tables; return the results."""
    with ctx.progress.stage("tabulate", 2) as bar:
        tally = Tally()
        results = collect(ctx)
        tally.reused = all(stage["reused"] for stage in ctx.stages)
        grids.write(ctx, results)
        write_atomic(ctx.out / "results.json", json.dumps(results, indent=1, sort_keys=True) + "\n")
        bar.advance()
        tables.write(results, ctx.out)
        bar.advance()
    ctx.stages.append(tally.time("tabulate"))
    return results


def collect(ctx: Context) -> Results:
    """Return everything that was measured."""
    sizes = ctx.dataset
    results: Results = {
        "config": ctx.config.as_dict(),
        "dataset": {
            "name": ctx.dataset.name,
            "shape": list(ctx.dataset.shape),
            "num_classes": ctx.dataset.num_classes,
            "sizes": {
                "train": len(sizes.train),
                "validation": len(sizes.validation),
                "test": len(sizes.test),
            },
        },
        "environment": environment.describe(ctx.device),
        "outputs": list(ctx.plan.outputs),
        "defences": [judge.name for judge in vote.measured(ctx)],
        "warnings": [],
        "accuracy": list(accuracy(ctx)),
        "attacks": [],
        "grids": {},
    }
    if ctx.plan.length:
        results["length"] = length(ctx)
    for judge in vote.measured(ctx):
        results["attacks"] += rows(ctx, judge)
    if "figure2" in ctx.plan.outputs:
        part = vote.histograms(ctx, Tally())
        found = ctx.arrays(part)
        row = part.info["row"]
        results["histograms"] = {
            "true_label": part.info["true_label"],
            "m": part.info["m"],
            "r": part.info["r"],
            "benign": found["benign"].tolist(),
            "attacks": {
                name: {
                    "targets": ctx.examples.targets[row][found[f"{name}-success"]].tolist(),
                    "counts": found[name][found[f"{name}-success"]].tolist(),
                }
                for name in HISTOGRAM_ATTACKS
                if name in found
            },
        }
    # Said in the summary at the end and in the report.
    results["warnings"] = [
        *ctx.warnings,
        *cautions(results, drawn=ctx.examples.drawn, networks=ctx.networks),
    ]
    return results


def accuracy(ctx: Context) -> Iterator[Accuracy]:
    """Yield Table 3."""
    if not ctx.plan.benign:
        return
    truth = ctx.dataset.test.y.numpy()
    said: dict[tuple[str, int | None], list[np.ndarray]] = {}
    for job in vote.benign_jobs(ctx):
        said.setdefault((job.judge.name, job.seed), []).append(_said(ctx, job))
    for judge in vote.measured(ctx):
        correct = [int((np.concatenate(said[judge.name, seed]) == truth).sum()) for seed in judge.seeds]
        yield {
            "defence": judge.name,
            "correct": correct[0],
            "n": len(truth),
            "per_seed": correct if judge.random else [],
        }


def length(ctx: Context) -> Length:
    """Return Figure 4."""
    part = ctx.ready("length", train.length_inputs(ctx))
    assert part is not None, "the train stage ran before"
    info, radii, shares = part.info, *_curve(ctx, part)
    further = ctx.ready("length", train.curve_inputs(ctx)) if "figure4" in ctx.plan.outputs else None
    if further is not None:
        more = _curve(ctx, further)
        radii, shares = radii + more[0], shares + more[1]
    return {
        "r": info["r"],
        "radii": radii,
        "accuracy": shares,
        "point_accuracy": info["point_accuracy"],
        "n": info["n"],
        "learnt": info["learnt"],
    }


def _curve(ctx: Context, part: Part) -> tuple[list[float], list[float]]:
    arrays = ctx.arrays(part)
    return arrays["radii"].tolist(), arrays["accuracy"].tolist()


def _said(ctx: Context, job: vote.Job) -> np.ndarray:
    part = ctx.ready("vote", job.inputs)
    assert part is not None, "the vote stage ran before"
    return ctx.arrays(part)["said"]


def candidates(ctx: Context, judge: Judge) -> dict[Key, Candidates]:
    """Return what a defence has labelled of the drawn examples, by attack and alpha."""
    collected: dict[Key, dict[str, list[np.ndarray]]] = {}
    said: dict[tuple[Key, int], dict[int | None, np.ndarray]] = {}
    attacked: dict[tuple[Key, int], tuple[vote.Job, Part]] = {}
    for job in vote.adversarial_jobs(ctx):
        if job.judge.name == judge.name and job.rows.start < ctx.examples.drawn:
            assert job.unit is not None
            assert job.part is not None
            place = ((job.unit, job.alpha), job.rows.start)
            said.setdefault(place, {})[job.seed] = _said(ctx, job)
            attacked[place] = (job, job.part)
    for place, (job, part) in attacked.items():
        key, _ = place
        arrays = ctx.arrays(part)
        shape = arrays["success"].shape
        moved = _noise(ctx, job, arrays["adversarial"])
        single = key[0].attack == "DeepFool"
        own = collected.setdefault(key, {"success": [], "noise": [], "targets": [], "said": []})
        own["success"].append(arrays["success"])
        own["noise"].append(moved)
        own["targets"].append(ctx.examples.y[job.rows][:, None] if single else ctx.examples.targets[job.rows])
        own["said"].append(np.stack([said[place][seed].reshape(shape) for seed in judge.seeds]))
    return {
        key: Candidates(
            success=np.concatenate(own["success"]),
            noise=np.concatenate(own["noise"]),
            targets=np.concatenate(own["targets"]),
            said=np.concatenate(own["said"], axis=1),
        )
        for key, own in collected.items()
        if sum(map(len, own["success"])) == ctx.examples.drawn
    }


def norm_of(name: str) -> float:
    """Return the norm in which an attack's noise is counted: 0, 2 or inf."""
    return 2 if name == "DeepFool" else NORM[name[2:]]


def _noise(ctx: Context, job: vote.Job, adversarial: np.ndarray) -> np.ndarray:
    assert job.unit is not None
    clean = ctx.examples.x[job.rows].cpu()[:, None]
    made = torch.from_numpy(adversarial)
    delta = (attack.adapted(clean, made, job.alpha) - clean).flatten(2).double()
    norm = norm_of(job.unit.attack)
    size = (delta != 0).sum(2).double() if norm == 0 else torch.linalg.vector_norm(delta, ord=norm, dim=2)
    return size.numpy()


def rows(ctx: Context, judge: Judge) -> list[AttackRow]:
    """Return all rows of one defence: Tables 4 to 6, Figures 6 to 8."""
    found = candidates(ctx, judge)
    truth = ctx.examples.y[: ctx.examples.drawn]
    plain = {unit.attack: own for (unit, alpha), own in found.items() if not alpha and not unit.confidence}
    strong = {unit.confidence: own for (unit, alpha), own in found.items() if not alpha and unit.confidence}
    made: list[AttackRow] = []

    def add(
        group: Group,
        name: str,
        norm: float,
        own: list[Candidates],
        k: float | None = None,
        *,
        any_label: bool,
    ) -> None:
        for reading in READINGS:
            outcome = untargeted(own, truth, reading) if any_label else targeted(own, reading)
            made.append(
                summarise(
                    outcome,
                    group=group,
                    attack=name,
                    norm=norm,
                    defence=judge.name,
                    reading=reading,
                    parameter=k,
                    random=judge.random,
                )
            )

    names = [name for name in TARGETED if name in plain]
    for name in names:
        add("targeted", name, norm_of(name), [plain[name]], any_label=False)
    for name in names:
        add("untargeted", f"U{name[1:]}", norm_of(name), [plain[name]], any_label=True)
    if "DeepFool" in plain:
        add("untargeted", "DeepFool", 2, [plain["DeepFool"]], any_label=True)
    for combined, members in COMBINED.items():
        own = [plain[f"T-{member}"] for member in members if f"T-{member}" in plain]
        if len(own) < len(members):
            continue
        own += [strong[k] for k in sorted(strong)] if combined == "CA-L2" else []
        norm = norm_of(f"T-{members[0]}")
        add("combined", f"T-{combined}", norm, own, any_label=False)
        extra = [plain["DeepFool"]] if combined == "CA-L2" and "DeepFool" in plain else []
        add("combined", f"U-{combined}", norm, own + extra, any_label=True)
    series = ({0.0: plain["T-CW-L2"]} if "T-CW-L2" in plain else {}) | strong
    for k in sorted(series) if strong else []:
        add("confidence", "T-CW-L2", 2, [series[k]], k, any_label=False)
        add("confidence", "U-CW-L2", 2, [series[k]], k, any_label=True)
    for (unit, alpha), moved in found.items():
        if unit in ctx.plan.adapted and alpha in ctx.plan.adapted[unit]:
            add("adapted", f"{unit.attack}-A", norm_of(unit.attack), [moved], alpha, any_label=False)
    return made
