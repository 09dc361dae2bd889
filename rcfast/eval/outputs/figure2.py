"""Figure 2: which labels the network gives to points around one benign example and around its adversarial ones."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rcfast.classifier import RegionClassifier
from rcfast.eval.outputs import axes
from rcfast.eval.outputs.output import Output
from rcfast.eval.outputs.plot import Panel, Plot
from rcfast.eval.outputs.records import attack_label
from rcfast.eval.outputs.table import Record
from rcfast.eval.results import Histograms, Results
from rcfast.eval.run import attack
from rcfast.eval.run.attack import Case, NetworkAttack
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import region_classifier
from rcfast.eval.run.examples import DrawnExamples, examples
from rcfast.eval.run.length import LearntLength, length
from rcfast.eval.run.networks import network
from rcfast.eval.run.pace import Pace
from rcfast.eval.run.unit import Made, Unit, explained
from rcfast.eval.run.versions import LABELS
from rcfast.regions import Cube

ATTACKS = ("T-CW-L2", "T-CW-L0", "T-CW-Linf")
R = 0.3  # half-width where there is no region-based classifier
COLUMNS, SHOWN = 5, 20  # histograms in a row, and at most, per attack


@dataclass(frozen=True)
class LabelHistograms(Unit):
    """Votes around an example of the first label there is. Arrays: benign [L]; <attack> [T,L], <attack>-success [T]."""

    kind, stage = "histogram", "vote"

    def __str__(self) -> str:
        return "the votes of Figure 2"

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield DrawnExamples()
        yield LearntLength()
        yield from _attacks(ctx)

    def inputs(self, ctx: Context) -> dict[str, Any]:
        vote, own, point = ctx.config.vote, examples(ctx), network(ctx, "point")
        r = length(ctx) or R
        return {
            "version": LABELS,
            "network": point.digest,
            "r": r,
            "m": vote.histogram_m,
            "clip": vote.clip,
            "chunk": vote.chunk,
            "dtype": point.voter(vote.dtype, Cube(r)).arithmetic(point.like),
            "seed": vote.seeds[0],
            "example": int(own.index[_row(ctx)]),
            "test": ctx.dataset.test.fingerprint,
            "attacks": {unit.case.attack: ctx.part(unit).digest for unit in _attacks(ctx)},
        }

    def compute(self, ctx: Context) -> Made:
        own, row, r = examples(ctx), _row(ctx), length(ctx) or R
        every = dataclasses.replace(ctx.config.vote, m=ctx.config.vote.histogram_m, stop="none")
        votes = region_classifier(network(ctx, "point"), r, every, seed=every.seeds[0])
        arrays = {"benign": self._counts(votes, own.x[row : row + 1])[0]}
        for unit in _attacks(ctx):
            found = ctx.arrays(unit)
            made = torch.from_numpy(found["adversarial"][row - unit.start]).to(ctx.device)
            arrays[unit.case.attack] = self._counts(votes, made)
            arrays[f"{unit.case.attack}-success"] = found["success"][row - unit.start]
        return Made(arrays, {"true_label": int(own.y[row]), "m": every.m, "r": r, "row": row})

    def seconds(self, ctx: Context, pace: Pace) -> float:
        points = 1 + len(list(_attacks(ctx))) * examples(ctx).targets.shape[1]
        return points * ctx.config.vote.histogram_m * pace.forward

    def _counts(self, votes: RegionClassifier, x: torch.Tensor) -> np.ndarray:
        with torch.no_grad(), explained(str(self)):
            counts = votes.vote(x).counts
        return counts.cpu().numpy().astype(np.int64)


def _wanted(ctx: Context) -> bool:
    """Whether there are attacks to show."""
    return any(name in ctx.config.attacks.names for name in ATTACKS)


def _there(ctx: Context) -> bool:
    """Whether there is an example of one of the labels of a grid."""
    return bool((examples(ctx).grid >= 0).any())


def _row(ctx: Context) -> int:
    return next(int(row) for row in examples(ctx).grid if row >= 0)


def _attacks(ctx: Context) -> Iterator[NetworkAttack]:
    for name in ATTACKS:
        if name in ctx.config.attacks.names:
            yield from attack.parts(ctx, Case("point", name), "histogram")


class Figure2(Output):
    name = "figure2"
    title = "Labels of points around a benign example and around its adversarial examples"
    reading = (
        "Bars say which labels the network gives to random points around the example named above them: blue"
        " is the true label, orange the target. Where blue is highest, the vote undoes the attack."
    )

    def needs(self, ctx: Context) -> Iterable[Unit]:
        if _wanted(ctx):
            yield DrawnExamples()
            if _there(ctx):
                yield LabelHistograms()

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        if not (_wanted(ctx) and _there(ctx)):
            return {}
        unit = LabelHistograms()
        info, found = ctx.part(unit).info, ctx.arrays(unit)
        targets = examples(ctx).targets[info["row"]]
        histograms: Histograms = {
            "true_label": info["true_label"],
            "m": info["m"],
            "r": info["r"],
            "benign": found["benign"].tolist(),
            "attacks": {
                name: {
                    "targets": targets[found[f"{name}-success"]].tolist(),
                    "counts": found[name][found[f"{name}-success"]].tolist(),
                }
                for name in ATTACKS
                if name in found
            },
        }
        return {"histograms": histograms}

    def build(self, results: Results, folder: Path) -> Plot | None:
        data = results.get("histograms")
        if not data or not data["attacks"]:
            return None
        records = [*_records(data, "benign", None, data["benign"])]
        for name, found in data["attacks"].items():
            for target, counts in zip(found["targets"], found["counts"], strict=True):
                records += _records(data, name, target, counts)
        panels = [_panel(data, name) for name in data["attacks"]]
        head = {"r": data["r"], "m": data["m"], "true_label": data["true_label"]}
        return Plot(self.name, self.title, records, panels, head)


def _records(data: Histograms, name: str, target: int | None, counts: Sequence[int]) -> Iterator[Record]:
    head = {"attack": name, "true_label": data["true_label"], "target": target, "m": sum(counts)}
    for index, count in enumerate(counts):
        yield {**head, "label": index, "count": count}


def _panel(data: Histograms, name: str) -> Panel:
    cells = min(SHOWN, 1 + len(data["attacks"][name]["targets"]))
    rows = -(-cells // COLUMNS)

    def draw(figure: Any) -> None:
        grid = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
        axes.histograms(list(grid.flat), data, name, SHOWN)
        figure.supxlabel("label of the point", fontsize=9)
        figure.supylabel("share of points, %", fontsize=9)

    return Panel(draw, (4.2, 0.55 + 1.05 * rows), attack_label(name))


OUTPUT = Figure2()
