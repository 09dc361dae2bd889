"""Success against noise: what the best transferred examples, the best made for the vote, and random noise reach."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rcfast.eval.outputs import axes, vote_attacks
from rcfast.eval.outputs.output import Output
from rcfast.eval.outputs.plot import SIZE, Panel, Plot, on_axes
from rcfast.eval.outputs.records import NORMS, rounded
from rcfast.eval.outputs.table import Record
from rcfast.eval.results import Results, VoteAttackRow
from rcfast.eval.run.context import Context
from rcfast.eval.run.unit import Unit

LINES = {"transfer": "made for network", "adaptive": "made for vote", "random": "random"}


KIND_STYLES = {"transfer": (axes.ORANGE, "--"), "adaptive": (axes.BLUE, "-"), "random": (axes.GREY, ":")}


def _draw(ax: Any, curves: dict[str, Any], names: dict[str, str], norm: str) -> None:
    """Success against the noise allowed, one line for each way of making it, with 95% bands."""
    end = 1.05 * max(max(curve["at"]) for curve in curves.values()) or 1
    for key, (colour, line) in KIND_STYLES.items():
        if key not in curves:
            continue
        curve = curves[key]
        at, rate, low, high = (
            np.asarray([*curve[name], last])
            for name, last in (("at", end), *((n, curve[n][-1]) for n in ("rate", "low", "high")))
        )
        ax.fill_between(at, 100 * low, 100 * high, step="post", color=colour, alpha=0.14, linewidth=0)
        ax.step(at, 100 * rate, where="post", color=colour, linestyle=line, label=names[key], zorder=3)
    ax.set_xlim(0, end)
    ax.set_ylim(0, 100)
    ax.set_yticks(range(0, 101, 20))
    ax.set_xlabel(f"largest {norm} noise allowed")
    ax.set_ylabel("success by unseen votes, %")
    axes.soft_grid(ax)
    axes.legend(ax, 3)


class VoteNoise(Output):
    name = "vote_noise"
    title = "Success against noise, attacks on the vote"
    section = vote_attacks.SECTION
    reading = (
        "The share of examples and targets for which votes that the attacker never saw say the target, with noise of "
        "at most the value below and 95% bands: the best of what was made for the network, the best of what was made "
        "for the vote, and random noise of the size of the first attack on the vote, chosen by no vote: there the "
        "first seed judges, and any wrong label counts."
    )

    def needs(self, ctx: Context) -> Iterable[Unit]:
        return vote_attacks.needs(ctx)

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        return vote_attacks.OUTPUT.measure(ctx)

    def build(self, results: Results, folder: Path) -> Plot | None:
        rows = [row for row in results.get("vote_attacks", ()) if row["curve"] and row["kind"] in LINES]
        if not rows:
            return None
        records = [record for row in rows for record in _points(row)]
        panels = []
        for norm, name in NORMS.items():
            own = [row for row in rows if row["norm"] == norm]
            adaptive = [row for row in own if row["kind"] == "adaptive"]
            if not adaptive:
                continue
            best = max(adaptive, key=lambda row: (row["rate"], -(row["noise_mean"] or 0.0)))
            shown = {row["kind"]: row["curve"] for row in (*own, best)}
            panels.append(Panel(on_axes(_draw, shown, LINES, name), SIZE, f"{name} noise"))
        return Plot(self.name, self.title, records, panels)


def _points(row: VoteAttackRow) -> Iterator[Record]:
    curve = row["curve"] or {}
    for at, rate, low, high in zip(*(curve[name] for name in ("at", "rate", "low", "high")), strict=True):
        yield {
            **{"norm": row["norm"], "kind": row["kind"], "attack": row["attack"], "noise": rounded(at)},
            **{"success": rounded(rate), "success_low": rounded(low), "success_high": rounded(high)},
        }


OUTPUT = VoteNoise()
