"""What a run found, for others (`--export robustbench`): one JSON a defence, and images that anybody can load."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rcfast import __version__
from rcfast.eval.outputs.attack_rows import judged, sizes
from rcfast.eval.outputs.outcomes import Attempt, attempts
from rcfast.eval.outputs.output import Output
from rcfast.eval.outputs.records import MISSING, label, percent
from rcfast.eval.outputs.table import Record, Table
from rcfast.eval.outputs.worst import AllAttacks, all_labels
from rcfast.eval.results import Results
from rcfast.eval.run.attack import Adversarial, adapted
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured
from rcfast.eval.run.examples import examples
from rcfast.eval.run.judges import judges, needed_by
from rcfast.eval.run.labels import AdversarialLabels, BenignLabels, CleanLabels, Labels, benign
from rcfast.eval.run.length import LearntLength, length
from rcfast.eval.run.protocol import judging
from rcfast.eval.run.store import write_atomic
from rcfast.eval.run.unit import Made, Unit
from rcfast.eval.run.voter import precision
from rcfast.hardware import divisor
from rcfast.regions import Cube

FOLDER = "export"
THREATS = {"Linf": "linf", "L2": "l2"}  # folders of RobustBench, and the setting that holds the budget


@dataclass(frozen=True)
class RoundedLabels(Labels):
    """What a defence says of adversarial examples once they are 8-bit images. Array: said [N] int64."""

    tried = True
    judge: str
    seed: int | None
    made: Adversarial
    alpha: float = 0.0

    def __str__(self) -> str:
        return f"{self.judge}: {self.made}, 8-bit"

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield from needed_by(ctx, self.judge)
        yield self.made

    def inputs(self, ctx: Context) -> dict[str, Any]:
        part = ctx.part(self.made)
        source = {"attack": part.digest, "clean": part.inputs["examples"], "alpha": self.alpha, "bits": 8}
        return self._inputs(ctx, source)

    def compute(self, ctx: Context) -> Made:
        stored = _images(ctx, self.made, self.alpha).flatten(0, 1).to(ctx.device, torch.float32)
        return self._made(ctx, stored / divisor(stored, 255))

    def size(self, ctx: Context) -> int:
        return self.made.size(ctx)


def _images(ctx: Context, made: Adversarial, alpha: float) -> torch.Tensor:
    """The adversarial examples of a part as 8-bit images [n,T,C,H,W]."""
    clean = examples(ctx).x[made.rows].cpu()[:, None]
    moved = adapted(clean, torch.from_numpy(ctx.arrays(made)["adversarial"]), alpha)
    return (moved * 255).round().to(torch.uint8)


class RobustBench(AllAttacks):
    name = "robustbench"
    title = "What was exported"
    reading = (
        "One JSON a defence and threat model, with the field names of RobustBench, in export/; examples.npz "
        "holds what was attacked, adversarial.npz the adversarial examples as 8-bit images. Robust: not broken "
        "by any attack of this run within the budget, judged by votes that the attacker did not see; 8-bit: "
        "judged again after rounding."
    )

    def needs(self, ctx: Context) -> Iterable[Unit]:
        every = all_labels(ctx)
        yield from every
        for unit in every:
            if isinstance(unit, AdversarialLabels):
                yield RoundedLabels(unit.judge, unit.seed, unit.made, unit.alpha)
        for own in judges(ctx):
            yield from benign(ctx, own)
            yield from (CleanLabels(own.name, seed) for seed in own.seeds)

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        found, rows = attempts(ctx, all_labels(ctx)), []
        _write_images(ctx, found)
        for own in judges(ctx):
            of_own = [attempt for attempt in found if attempt[0].name == own.name]
            for threat, setting in THREATS.items():
                row = _defence(ctx, own, of_own, threat, float(getattr(ctx.config.export, setting)))
                folder = ctx.out / FOLDER / ctx.dataset.name / threat
                write_atomic(folder / f"{own.name}.json", json.dumps(row, indent=1) + "\n")
                rows.append(
                    {key: row[key] for key in ("name", "eps", "clean_acc", "robust_acc", "robust_acc_8bit")}
                )
                rows[-1] |= {"threat": threat, "n": len(row["examples"])}
        return {"export": rows}

    def build(self, results: Results, folder: Path) -> Table | None:
        records: list[Record] = list(results.get("export", ()))  # type: ignore[call-overload]
        if not records:
            return None
        header = ("Defence", "Threat", "Budget", "Clean", "Robust", "Robust, 8-bit", "n")
        rows = [
            (
                *(label(r["name"]), r["threat"], f"{float(r['eps']):.4g}"),
                *(_percent(r[key]) for key in ("clean_acc", "robust_acc", "robust_acc_8bit")),
                str(r["n"]),
            )
            for r in records
        ]
        return Table(self.name, self.title, self.reading, records, header, rows, named=2)


def _percent(text: str | None) -> str:
    return MISSING if text is None else percent(float(text) / 100)


def _defence(ctx: Context, own: Measured, found: list[Attempt], threat: str, eps: float) -> dict[str, Any]:
    """The JSON of a defence under a threat model: RobustBench's fields, then ours."""
    drawn, config = examples(ctx), ctx.config
    count, truth = drawn.drawn, drawn.y[: drawn.drawn]
    entries: list[dict[str, Any]] = [
        {
            "index": int(drawn.index[i]),
            "label": int(truth[i]),
            "sha256": hashlib.sha256(drawn.x[i].cpu().numpy().astype("<f4").tobytes()).hexdigest(),
            "attacks": [],
        }
        for i in range(count)
    ]
    clean = np.stack([ctx.arrays(CleanLabels(own.name, seed))["said"] for seed in own.seeds]) != truth
    unseen = judging(len(own.seeds))
    broken = np.where(clean[0], clean[unseen].mean(0), 0.0)  # without any noise
    rounded = broken.copy()
    for attempt in found:
        outcome = list(_outcomes(ctx, *attempt, threat, eps))
        for i, one in enumerate(outcome):
            entries[i]["attacks"].append(one)
            broken[i] = max(broken[i], one["broken"])
            rounded[i] = max(rounded[i], one["broken_8bit"])
    said = [ctx.arrays(unit)["said"] for unit in benign(ctx, own) if isinstance(unit, BenignLabels)]
    right = np.concatenate(said) == np.tile(ctx.dataset.test.y.numpy(), len(own.seeds))
    vote: dict[str, Any] = {}
    if own.random:
        told = ("m", "stop", "alpha", "adversarial_alpha", "clip", "seeds", "dtype")
        vote = {key: getattr(config.vote, key) for key in told}
        vote["r"] = length(ctx) if ctx.find(LearntLength()) is not None else None
        if vote["r"] is not None:
            vote["dtype"] = precision(vote["dtype"], Cube(vote["r"]), ctx.dataset.test.x[:1].to(ctx.device))
    return {
        "link": None,
        "name": own.name,
        "authors": None,
        "additional_data": False,
        "number_forward_passes": config.vote.m if own.random else 1,
        "dataset": ctx.dataset.name,
        "venue": None,
        "architecture": config.model.source or "rcfast.models",
        "eps": f"{eps:.6g}",
        "clean_acc": f"{100 * right.mean():.2f}",
        "reported": None,
        "autoattack_acc": None,
        "robust_acc": f"{100 * (1 - broken.mean()):.2f}" if found else None,
        "robust_acc_8bit": f"{100 * (1 - rounded.mean()):.2f}" if found else None,
        "rcfast": __version__,
        "seed": config.seed,
        "vote": vote,
        "examples": entries,
    }


def _outcomes(
    ctx: Context, own: Measured, made: tuple[Adversarial, ...], alpha: float, threat: str, eps: float
) -> Iterator[dict[str, Any]]:
    """For each example what an attack achieves within the budget: the best of its targets.

    broken: the share of the vote seeds, the first one aside, that answer wrongly to the one handed in: the least
    noise among those that beat the first seed.
    """
    found, noise = judged(ctx, own, made, alpha), sizes(ctx, made, alpha)[threat]
    truth = examples(ctx).y[: examples(ctx).drawn]
    parts = [
        [ctx.arrays(RoundedLabels(own.name, seed, part, alpha))["said"] for part in made]
        for seed in own.seeds
    ]
    rounded = np.stack([np.concatenate(of_seed) for of_seed in parts]).reshape(found.said.shape)
    wrong, wrong_8bit = (said != truth[None, :, None] for said in (found.said, rounded))  # [S,N,T]
    within = noise <= eps * (1 + 1e-6)
    unseen = judging(len(own.seeds))
    for i in range(len(truth)):
        cost = np.where(wrong[0, i] & within[i], noise[i], math.inf)
        best = int(cost.argmin())
        there = bool(np.isfinite(cost[best]))
        yield {
            "attack": str(made[0].case),
            "alpha": alpha,
            "noise": float(noise[i, best]) if there else None,
            "broken": float(wrong[unseen, i, best].mean()) if there else 0.0,
            "broken_8bit": float(wrong_8bit[unseen, i, best].mean()) if there else 0.0,
        }


def _write_images(ctx: Context, found: list[Attempt]) -> None:
    """examples.npz, what peers are to attack; adversarial.npz, one array [N,T,C,H,W] uint8 for each attack."""
    drawn = examples(ctx)
    clean = drawn.x[: drawn.drawn].cpu().numpy()
    arrays = {"x": clean, "y": drawn.y[: drawn.drawn], "index": drawn.index[: drawn.drawn]}
    _save(ctx.out / FOLDER / "examples.npz", {**arrays, "targets": drawn.targets[: drawn.drawn]})
    images = {}
    for _, made, alpha in found:
        name = f"{made[0].case}{f' alpha={alpha:g}' if alpha else ''}"
        images[name] = torch.cat([_images(ctx, part, alpha) for part in made]).numpy()
    _save(ctx.out / FOLDER / "adversarial.npz", images)


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    held = io.BytesIO()
    np.savez_compressed(held, **arrays)  # type: ignore[arg-type]
    write_atomic(path, held.getvalue())


OUTPUT: Output = RobustBench()
