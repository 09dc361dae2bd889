"""Figure 4: accuracy against the length r, on benign validation examples."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rcfast.eval.outputs import axes
from rcfast.eval.outputs.output import Output
from rcfast.eval.outputs.plot import SIZE, Panel, Plot, on_axes
from rcfast.eval.outputs.records import rounded
from rcfast.eval.outputs.table import Record
from rcfast.eval.results import Results
from rcfast.eval.run.context import Context
from rcfast.eval.run.length import FurtherLengths, searched
from rcfast.eval.run.unit import Unit
from rcfast.eval.statistics import wilson

NEAR = 0.03  # a panel looks closer where the curve falls further than this


class Figure4(Output):
    name = "figure4"
    title = "Accuracy against the length r"
    reading = (
        "The vote's accuracy on benign validation examples as the region grows. A learnt r is the last "
        "length before the curve falls below the dashed line of the network itself"
    )

    def read(self, results: Results) -> str:
        tolerance = results["config"]["length"]["tolerance"]
        return f"{self.reading} by more than {100 * tolerance:g} points." if tolerance else f"{self.reading}."

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield FurtherLengths()

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        more = ctx.arrays(FurtherLengths())
        own = searched(ctx)
        own["radii"] += more["radii"].tolist()
        own["accuracy"] += more["accuracy"].tolist()
        return {"length": own}

    def build(self, results: Results, folder: Path) -> Plot | None:
        own = results.get("length")
        if own is None or not own["radii"]:
            return None
        records: list[Record] = []
        for r, accuracy in zip(own["radii"], own["accuracy"], strict=True):
            correct = round(accuracy * own["n"])
            band = wilson(correct, own["n"])
            records.append(
                {
                    "r": rounded(r),
                    "accuracy": rounded(accuracy),
                    "accuracy_low": rounded(band.low),
                    "accuracy_high": rounded(band.high),
                    "correct": correct,
                    "n": own["n"],
                    "point_accuracy": rounded(own["point_accuracy"]),
                }
            )
        panels = [Panel(on_axes(axes.accuracy_against_r, own), SIZE, "whole curve")]
        if min(own["accuracy"]) < own["point_accuracy"] - NEAR:
            panels.insert(0, Panel(on_axes(axes.accuracy_against_r, own, NEAR), SIZE, "where r is learnt"))
        head = {"r": own["r"], "learnt": own.get("learnt", True)}
        return Plot(self.name, self.title, records, panels, head)


OUTPUT = Figure4()
