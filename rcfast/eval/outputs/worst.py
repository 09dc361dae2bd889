"""The worst case of every defence: what breaks it, at which noise, and whether it was attacked itself."""

from collections.abc import Iterable, Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from rcfast.eval import outputs
from rcfast.eval.outputs import envelope
from rcfast.eval.outputs.outcomes import Attempt, attempts
from rcfast.eval.outputs.output import Finding, KeyFigure, Output
from rcfast.eval.outputs.records import (
    NORMS,
    attacked_itself,
    columns,
    label,
    percent,
    percent_range,
    rounded,
    size_text,
)
from rcfast.eval.outputs.table import Bar, Cell, Line, Matrix, Record, Table
from rcfast.eval.results import Results, WorstCase
from rcfast.eval.run.context import Context
from rcfast.eval.run.judges import judges
from rcfast.eval.run.labels import AdversarialLabels, CleanLabels
from rcfast.eval.run.unit import Unit
from rcfast.eval.statistics import clustered_rate, steps

POINTS = 60  # of a curve at most
BROKEN = 0.95


def labels_of(ctx: Context, names: Iterable[str]) -> list[Unit]:
    """Return the labels that some outputs ask for."""
    others = [output for output in map(outputs.get, names) if not output.derived]
    needed = [unit for output in others for unit in output.needs(ctx)]
    return [unit for unit in needed if isinstance(unit, AdversarialLabels | CleanLabels)]


def all_labels(ctx: Context) -> list[Unit]:
    """Return the labels of all that the run tries: what the other outputs asked for label, or all where none does."""
    return labels_of(ctx, ctx.outputs) or labels_of(ctx, outputs.names())


class AllAttacks(Output):
    """An output over all attacks of the run, whatever other outputs they belong to."""

    section = "The worst case"
    derived = True

    def needs(self, ctx: Context) -> Iterable[Unit]:
        return all_labels(ctx)


class Worst(AllAttacks):
    name = "worst"
    title = "What the best of all attacks achieves"
    reading = (
        "For each example the attacker hands in the best of everything that was tried, over all attacks, "
        "targets and strengths; any wrong label counts. Of what beats the votes that the attacker sees it is "
        "the one with the largest lead; other votes judge. The median is the noise that suffices for half of "
        "the examples, failures counted as infinite. Where no attack was made against the defence itself, its "
        "numbers say what transfer achieves, not what an attacker can."
    )

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        found = attempts(ctx, all_labels(ctx))
        rows = []
        for own in judges(ctx):
            of_own = [attempt for attempt in found if attempt[0].name == own.name]
            if of_own:
                rows.append(_row(ctx, of_own))
        return {"worst": rows}

    def build(self, results: Results, folder: Path) -> Table | None:
        records = [_record(row) for row in results.get("worst", ())]
        if not records:
            return None
        header: tuple[str, ...] = ("Defence", "Broken", "95% interval", "n", "Same votes", "Wrong already")
        header += tuple(f"Median {name}" for name in NORMS.values()) + ("Attacks", "On itself")
        rows = [_texts(r) for r in records]
        return Table(self.name, self.title, self.reading, records, header, rows, matrix=_matrix(records))

    def findings(self, results: Results) -> Iterator[Finding]:
        found = {row["defence"]: _record(row) for row in results.get("worst", ())}
        point = found.get("point")
        for defence, r in found.items():
            if defence == "point":
                continue
            said = f"In the worst case {percent(r['rate'])} of {r['n']} examples "
            said += f"({percent_range(r['rate_low'], r['rate_high'])}) are broken"
            if r["median_L2"] is not None:
                said += f", half of them with an L2 noise of at most {size_text(r['median_L2'])}"
                if point and point["median_L2"] is not None:
                    said += f" ({size_text(point['median_L2'])} on the undefended network)"
            itself = attacked_itself(results, defence)
            said += (
                "."
                if itself
                else ". It was not attacked itself: these are examples made for another network."
            )
            tone = "bad" if r["rate"] >= BROKEN else "plain"
            yield Finding(label(defence), said, tone)  # type: ignore[arg-type]

    def key_figures(self, results: Results) -> Iterator[KeyFigure]:
        found = {row["defence"]: _record(row) for row in results.get("worst", ())}
        region, point = found.get("region"), found.get("point")
        if region is None:
            return
        itself = attacked_itself(results, "region")
        detail = (
            f"by the best of {region['attacks']} attacks" if itself else "by transfer, not attacked itself"
        )
        yield KeyFigure(percent(region["rate"]), "broken in the worst case", detail)
        value = size_text(region["median_L2"])
        detail = f"{size_text(point['median_L2'])} undefended" if point else ""
        yield KeyFigure(value, "median L2 noise that breaks the vote", detail)

    def clause(self, results: Results) -> str:
        found = {row["defence"]: _record(row) for row in results.get("worst", ())}
        region, point = found.get("region"), found.get("point")
        if region is None:
            return ""
        said = f"is broken on {percent(region['rate'])} of the examples in the worst case"
        if region["median_L2"] is not None and point and point["median_L2"] is not None:
            said += (
                f", at a median L2 noise of {size_text(region['median_L2'])} where the undefended network "
            )
            said += f"takes {size_text(point['median_L2'])}"
        return (
            said if attacked_itself(results, "region") else f"{said} (by transfer alone, not attacked itself)"
        )

    def summary(self, results: Results) -> list[str]:
        records = [_record(row) for row in results.get("worst", ())]
        if not records:
            return []
        rows = [["", "broken", "median L0", "median L2", "median L∞", ""]]
        for r in records:
            broken = f"{percent(r['rate'])} ({percent_range(r['rate_low'], r['rate_high'])})"
            medians = [size_text(r[f"median_{norm}"]) for norm in NORMS]
            mark = "" if r["on_itself"] else "not attacked itself"
            rows.append([label(r["defence"]), broken, *medians, mark])
        return ["Worst case over all attacks (95% interval; noise that suffices for half)", *columns(rows)]


def _row(ctx: Context, of_own: list[Attempt]) -> WorstCase:
    own = of_own[0][0]
    found = envelope.tried(ctx, own, of_own)
    whole = envelope.broken(found, "L2", np.array([inf]))[..., 0]
    interval = clustered_rate(whole)
    direct = [
        str(made[0].case) for _, made, alpha in of_own if made[0].case.network == own.name and not alpha
    ]
    curves = {}
    for norm in NORMS:
        first = envelope.least(found.noise[norm], found.wrong[0])
        last = found.noise[norm].max(initial=0.0)
        at = np.unique(np.concatenate([[0.0], steps(first, most=POINTS), [last]]))
        curves[norm] = vars(envelope.curve(found, norm, at))
    return {
        "defence": own.name,
        "n": len(whole),
        "rate": float(whole.mean()),
        "interval": [interval.low, interval.high],
        "known_rate": float(found.wrong[0].any(1).mean()),
        "already": float(found.wrong[found.judging, :, 0].mean()),
        "random": own.random,
        "attacks": len(of_own),
        "on_itself": direct,
        "curves": curves,  # type: ignore[typeddict-item]
    }


def _record(row: WorstCase) -> Record:
    record: Record = {
        "defence": row["defence"],
        "n": row["n"],
        "rate": rounded(row["rate"]),
        "rate_low": rounded(row["interval"][0]),
        "rate_high": rounded(row["interval"][1]),
        "same_votes_rate": rounded(row["known_rate"]) if row["random"] else None,
        "already": rounded(row["already"]),
        "attacks": row["attacks"],
        "on_itself": len(row["on_itself"]),
    }
    for norm in NORMS:
        curve = envelope.Curve(**row["curves"][norm])
        record[f"median_{norm}"] = rounded(curve.first(curve.rate))
        record[f"median_{norm}_low"] = rounded(curve.first(curve.high))
        record[f"median_{norm}_high"] = rounded(curve.first(curve.low))
    return record


def _median_range(r: Record, norm: str) -> str:
    low, high = (r[f"median_{norm}_{end}"] for end in ("low", "high"))
    return f"{size_text(low)}–{size_text(high)}" if low is not None else ""


def _texts(r: Record) -> tuple[str, ...]:
    row: tuple[str, ...] = (label(r["defence"]), percent(r["rate"], r["n"]))
    row += (percent_range(r["rate_low"], r["rate_high"], r["n"]), f"{r['n']:,}")
    row += (percent(r["same_votes_rate"]), percent(r["already"]))
    for norm in NORMS:
        between = _median_range(r, norm)
        row += (size_text(r[f"median_{norm}"]) + (f" ({between})" if between else ""),)
    return (*row, f"{r['attacks']:,}", f"{r['on_itself']:,}" if r["on_itself"] else "none")


def _matrix(records: list[Record]) -> Matrix:
    rows: list[tuple[tuple[str, str], list[Cell | None]]] = []
    for r in records:
        lines = []
        if r["same_votes_rate"] not in (None, r["rate"]):
            lines.append(Line("second", "judged by the attacker's votes", percent(r["same_votes_rate"])))
        if r["already"]:
            lines.append(Line("second", "wrong already", percent(r["already"])))
        cells: list[Cell | None] = [
            Cell(
                percent(r["rate"], r["n"]),
                percent_range(r["rate_low"], r["rate_high"], r["n"]),
                bar=Bar(r["rate"], r["rate_low"], r["rate_high"]),
                lines=tuple(lines),
            )
        ]
        for norm in NORMS:
            value = r[f"median_{norm}"]
            cells.append(Cell(size_text(value), _median_range(r, norm)))
        itself = Line("second", "", f"{r['on_itself']:,} on itself") if r["on_itself"] else None
        mark = itself or Line("untested", "", "not attacked itself")
        cells.append(Cell(f"{r['attacks']:,}", lines=(mark,)))
        rows.append(((label(r["defence"]), f"n = {r['n']:,}"), cells))
    heads = [("Defence", ""), ("Broken", "by some attack")]
    heads += [(f"Median {name}", "noise") for name in NORMS.values()] + [("Attacks", "tried")]
    return Matrix(heads, rows)


OUTPUT = Worst()
