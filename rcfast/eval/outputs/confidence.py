"""What Figures 6 and 7 share: success and noise of CW-L2 against its confidence k."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from rcfast.eval.outputs import attack_rows, axes
from rcfast.eval.outputs.output import Finding, Output
from rcfast.eval.outputs.plot import SIZE, Panel, Plot, on_axes
from rcfast.eval.outputs.records import (
    LABELS,
    attack_label,
    attack_record,
    defences,
    number,
    percent,
    select,
)
from rcfast.eval.outputs.verdicts import HIGH, strongest
from rcfast.eval.results import Results
from rcfast.eval.run.context import Context
from rcfast.eval.run.judges import judges, networks
from rcfast.eval.run.unit import Unit


class ConfidenceCurves(Output):
    attack: ClassVar[str]
    any_label: ClassVar[bool] = False

    def needs(self, ctx: Context) -> Iterable[Unit]:
        for network in networks(ctx):
            cases = attack_rows.confident(ctx, network)
            yield from attack_rows.labelled(ctx, cases)
            twins = [replace(case, network="point") for case in cases]  # which they are compared with
            yield from attack_rows.labelled(ctx, [case for case in twins if case in attack_rows.known(ctx)])

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        any_label = self.any_label
        return {
            "attacks": [
                row
                for own in judges(ctx)
                for row in attack_rows.confidence_rows(ctx, own, any_label=any_label)
            ]
        }

    def build(self, results: Results, folder: Path) -> Plot | None:
        dataset = results["dataset"]["name"]
        rows = select(results, "confidence", attack=self.attack, reading=None)
        records = sorted(
            (attack_record(row, dataset) for row in rows),
            key=lambda r: (r["attack"], r["defence"], r["reading"], r["parameter"]),
        )
        curves = {
            defence: [r for r in records if r["defence"] == defence and r["reading"] == "unseen" and r["n"]]
            for defence in defences(results)
        }
        curves = {defence: found for defence, found in curves.items() if found}
        if not curves:
            return None
        names = axes.curve_names(list(curves))
        panels = [
            Panel(on_axes(axes.rate_curves, curves, names, "confidence k"), SIZE, "success rate"),
            Panel(on_axes(axes.noise_curves, curves, names, "confidence k"), SIZE, "noise"),
        ]
        return Plot(self.name, self.title, records, panels)

    def findings(self, results: Results) -> Iterator[Finding]:
        name = results["dataset"]["name"]
        rows = select(results, "confidence", attack=self.attack, defence="region")
        curve = sorted((attack_record(r, name) for r in rows if r["n"]), key=lambda r: r["parameter"])
        reached = [r for r in curve if r["rate"] >= HIGH]
        best = reached[0] if reached else strongest(curve)
        if best is None:
            return
        plain = select(results, "confidence", attack=self.attack, defence="point")
        base = min(plain, key=lambda r: r["parameter"] or 0.0, default=None)
        text = f"With confidence k = {number(best['parameter'])}, {attack_label(self.attack)} reaches "
        text += f"{percent(best['rate'])} against the region-based classifier"
        if base and base["noise_mean"] and best["noise_mean"] is not None:
            ratio = best["noise_mean"] / base["noise_mean"]
            text += f", with {ratio:.1f} times the noise that it takes on the undefended network"
        yield Finding(LABELS["region"], text + ".", "bad" if reached else "plain")
