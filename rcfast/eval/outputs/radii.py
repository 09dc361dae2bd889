"""Certified accuracy as a curve over all radii."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rcfast.eval.outputs import axes
from rcfast.eval.outputs.certified import NORMS, SECTION
from rcfast.eval.outputs.certified import OUTPUT as TABLE
from rcfast.eval.outputs.output import Output
from rcfast.eval.outputs.plot import SIZE, Panel, Plot, on_axes
from rcfast.eval.outputs.records import rounded
from rcfast.eval.outputs.table import Record
from rcfast.eval.results import Results
from rcfast.eval.run.context import Context
from rcfast.eval.run.unit import Unit
from rcfast.eval.statistics import wilson


class Radii(Output):
    name = "radii"
    title = "Certified accuracy against every radius"
    section = SECTION
    derived = True
    reading = (
        "What is proven of each region, in the norm of its theorem: the share of test examples with the right label "
        "throughout the ball of that radius. Full lines: networks trained with the noise of the region; dotted: the "
        "plain network."
    )

    def needs(self, ctx: Context) -> Iterable[Unit]:
        return TABLE.needs(ctx)

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        return TABLE.measure(ctx)

    def build(self, results: Results, folder: Path) -> Plot | None:
        found = results.get("certified", [])
        if not found:
            return None
        records: list[Record] = []
        for case in found:
            for at, correct in zip(case["at"], case["correct"], strict=True):
                band = wilson(correct, case["n"])
                records.append(
                    {
                        "region": case["region"],
                        "trained_with_it": case["noisy"],
                        "norm": case["norm"],
                        "radius": rounded(at),
                        "rate": rounded(correct / case["n"]),
                        "rate_low": rounded(band.low),
                        "rate_high": rounded(band.high),
                    }
                )
        panels = [
            Panel(on_axes(axes.certified_curves, own, norm), SIZE, f"{norm.replace('inf', '∞')}")
            for norm in NORMS
            if (own := [case for case in found if case["norm"] == norm])
        ]
        return Plot(self.name, self.title, records, panels)


OUTPUT = Radii()
