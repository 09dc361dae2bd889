"""Security curves: the accuracy that is left against the noise allowed, in the worst case and for each attack."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rcfast.eval.outputs import axes
from rcfast.eval.outputs.attack_rows import judged
from rcfast.eval.outputs.outcomes import attempts
from rcfast.eval.outputs.plot import SIZE, Panel, Plot, on_axes
from rcfast.eval.outputs.records import NORMS, rounded
from rcfast.eval.outputs.table import Record
from rcfast.eval.outputs.worst import OUTPUT as WORST
from rcfast.eval.outputs.worst import AllAttacks, all_labels
from rcfast.eval.results import Results, SecurityCurve
from rcfast.eval.run import protocol
from rcfast.eval.run.context import Context
from rcfast.eval.run.examples import examples
from rcfast.eval.statistics import steps

POINTS = 30  # of an attack's curve at most
ALL = "all attacks"


class Curves(AllAttacks):
    name = "curves"
    title = "Accuracy left against the noise that is allowed"
    reading = (
        "What the best of all attacks leaves of the accuracy on the attacked examples, when noise up to the "
        "value below is allowed, with 95% bands; lower is worse for the defence. Dotted: judged by the votes "
        "that the attacker chose by, which bounds what more votes could have told. A defence that was not "
        "attacked itself may lie lower than drawn. The data have a curve for each attack as well."
    )

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        found: list[SecurityCurve] = []
        drawn = examples(ctx)
        truth = drawn.y[: drawn.drawn]
        for own, made, alpha in attempts(ctx, all_labels(ctx)):
            outcome = protocol.untargeted([judged(ctx, own, made, alpha)], truth, "unseen")
            noise = np.where(outcome.already, 0.0, np.where(outcome.success, outcome.noise, np.inf))
            at = np.unique(np.concatenate([[0.0], steps(noise, most=POINTS)]))
            found.append(
                {
                    "defence": own.name,
                    "attack": attack_name(str(made[0].case).rpartition(" on ")[0], alpha),
                    "norm": protocol.NORMS[made[0].norm],  # type: ignore[typeddict-item]
                    "at": at.tolist(),
                    "rate": (noise[..., None] <= at).mean((0, 1, 2)).tolist(),
                }
            )
        envelopes = {} if WORST.name in ctx.outputs else WORST.measure(ctx)  # which the figure shows
        return {"curves": found, **envelopes}

    def build(self, results: Results, folder: Path) -> Plot | None:
        worst = results.get("worst", ())
        records = [*_envelopes(results), *_attacks(results)]
        if not worst or not records:
            return None
        panels = []
        for norm, name in NORMS.items():
            lines = {row["defence"]: row["curves"][norm] for row in worst}
            shown = {row["defence"]: row["random"] for row in worst}
            draw = on_axes(axes.security_curves, lines, axes.curve_names(list(lines)), name, shown)
            panels.append(Panel(draw, SIZE, f"{name} noise"))
        return Plot(self.name, self.title, records, panels)


def attack_name(said: str, alpha: float) -> str:
    """An attack's name with its strength; any wrong label counts, so that it is the untargeted form."""
    name = f"U{said[1:]}" if said.startswith("T-") else said
    return f"{name} alpha={alpha:g}" if alpha else name


def _envelopes(results: Results) -> Iterator[Record]:
    for row in results.get("worst", ()):
        for norm in NORMS:
            curve = row["curves"][norm]
            for at, rate, low, high in zip(
                curve["at"], curve["rate"], curve["low"], curve["high"], strict=True
            ):
                yield _point(row["defence"], ALL, norm, at, rate, low, high)


def _attacks(results: Results) -> Iterator[Record]:
    for own in results.get("curves", ()):
        for at, rate in zip(own["at"], own["rate"], strict=True):
            yield _point(own["defence"], own["attack"], own["norm"], at, rate)


def _point(
    defence: str,
    attack: str,
    norm: str,
    at: float,
    rate: float,
    low: float | None = None,
    high: float | None = None,
) -> Record:
    return {
        "defence": defence,
        "attack": attack,
        "norm": norm,
        "noise": rounded(at),
        "success": rounded(rate),
        "success_low": rounded(low),
        "success_high": rounded(high),
    }


OUTPUT = Curves()
