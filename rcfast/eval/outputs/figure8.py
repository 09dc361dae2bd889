"""Figure 8: attacks adapted to the vote, success against alpha."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rcfast.eval.outputs import attack_rows, axes
from rcfast.eval.outputs.output import Finding, Output
from rcfast.eval.outputs.plot import SIZE, Panel, Plot, on_axes
from rcfast.eval.outputs.records import (
    LABELS,
    attack_label,
    attack_record,
    defences,
    label,
    number,
    percent,
    percent_range,
    select,
)
from rcfast.eval.outputs.verdicts import HIGH, strongest
from rcfast.eval.results import Results
from rcfast.eval.run.context import Context
from rcfast.eval.run.judges import judges
from rcfast.eval.run.unit import Unit


class Figure8(Output):
    name = "figure8"
    title = "Adapted attacks: success against alpha"
    reading = (
        "Adversarial examples pushed further along their own noise by the share alpha, with 95% bands: a "
        "small step may stay in the reach of the true label, a large one may leave the target's."
    )

    def needs(self, ctx: Context) -> Iterable[Unit]:
        alphas = sorted(set(ctx.config.attacks.alphas))
        return attack_rows.labelled(ctx, attack_rows.adapted_cases(ctx), alphas)

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        return {"attacks": [row for own in judges(ctx) for row in attack_rows.adapted_rows(ctx, own)]}

    def build(self, results: Results, folder: Path) -> Plot | None:
        dataset = results["dataset"]["name"]
        records = sorted(
            (attack_record(row, dataset) for row in select(results, "adapted", reading=None)),
            key=lambda r: (r["defence"], r["attack"], r["reading"], r["parameter"]),
        )
        panels = []
        for defence in defences(results):
            rows = [r for r in records if r["defence"] == defence and r["reading"] == "unseen" and r["n"]]
            attacks = list(dict.fromkeys(r["attack"] for r in rows))
            curves = {attack: [r for r in rows if r["attack"] == attack] for attack in attacks}
            if curves:
                names = axes.curve_names(attacks)
                draw = on_axes(axes.rate_curves, curves, names, "alpha (added share of noise)")
                panels.append(Panel(draw, SIZE, label(defence)))
        return Plot(self.name, self.title, records, panels) if panels else None

    def findings(self, results: Results) -> Iterator[Finding]:
        name = results["dataset"]["name"]
        best = strongest(attack_record(r, name) for r in select(results, "adapted", defence="region"))
        if best is not None:
            text = f"The best attack adapted to the region, {attack_label(best['attack'])} at alpha = "
            text += f"{number(best['parameter'])}, reaches {percent(best['rate'])} "
            text += f"({percent_range(best['rate_low'], best['rate_high'])})."
            yield Finding(LABELS["region"], text, "bad" if best["rate"] >= HIGH else "plain")


OUTPUT = Figure8()
