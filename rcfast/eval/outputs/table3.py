"""Table 3: accuracy on benign test examples."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rcfast.eval import paper
from rcfast.eval.outputs.cells import (
    legend,
    paper_lines,
    published_note,
    rate_cell,
    seeds_line,
    seeds_text,
    start_of,
    yes_text,
)
from rcfast.eval.outputs.output import Finding, KeyFigure, Output, Tone
from rcfast.eval.outputs.records import (
    MISSING,
    accuracy_record,
    columns,
    defences,
    label,
    number,
    p_text,
    percent,
    percent_range,
    points,
)
from rcfast.eval.outputs.table import Cell, Line, Matrix, Record, Table
from rcfast.eval.results import Accuracy, Results
from rcfast.eval.run import labels
from rcfast.eval.run.config import Protocol
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured
from rcfast.eval.run.judges import judges
from rcfast.eval.run.summary import versus
from rcfast.eval.run.unit import Unit
from rcfast.eval.statistics import CONFIDENCE

POOR = 0.8  # a share of the undefended accuracy under which rates say nothing about robustness


class Table3(Output):
    name = "table3"
    title = "Accuracy on benign test examples"
    reading = (
        "The share of the benign test set that each defence labels correctly. A defence should cost nothing "
        "here: the same images are labelled by all, so that what it loses and gains against the undefended "
        "network is counted image by image (McNemar's exact test, Tango's interval)."
    )

    def needs(self, ctx: Context) -> Iterable[Unit]:
        for own in judges(ctx):
            yield from labels.benign(ctx, own)

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        return {"accuracy": [_count(ctx, own) for own in judges(ctx)]}

    def build(self, results: Results, folder: Path) -> Table | None:
        name, records = results["dataset"]["name"], list(_records(results).values())
        if not records:
            return None
        published, seeds = paper.publishes(name), any(r["seeds"] > 1 for r in records)
        header: tuple[str, ...] = ("Defence", "Correct", "n", "Accuracy", "95% interval")
        header += ("Lost", "Gained", "Against undefended", "p")
        header += ("Vote seeds",) if seeds else ()
        header += ("Paper", "Difference", "Agrees") if published else ()
        rows: list[tuple[str, ...]] = []
        for r in records:
            row: tuple[str, ...] = (label(r["defence"]), f"{r['correct']:,}", f"{r['n']:,}")
            row += (percent(r["rate"], r["n"]), percent_range(r["rate_low"], r["rate_high"], r["n"]))
            row += _versus_texts(r)
            row += (seeds_text(r),) if seeds else ()
            if published:
                row += (percent(r["paper_rate"]), points(r["rate_difference"], r["n"]))
                row += (yes_text(r["paper_rate_agrees"]),)
            rows.append(row)
        note = "Accuracy with its Wilson 95% interval. " + published_note(name)
        return Table(self.name, self.title, note, records, header, rows, matrix=_matrix(results, records))

    def read(self, results: Results) -> str:
        return f"{self.reading} {legend(results['dataset']['name'])}".rstrip()

    def findings(self, results: Results) -> Iterator[Finding]:
        found = accuracies(results)
        point = found.pop("point", None)
        for defence, record in found.items() if point else ():
            assert point is not None
            n, poor = record["n"], record["rate"] < POOR * point["rate"]
            said = (
                f"{percent(record['rate'], n)} of {n:,} benign test examples are labelled "
                f"correctly, {percent(point['rate'], point['n'])} by the undefended network"
            )
            if record["difference"] is not None:
                said += f": {record['lost']:,} lost, {record['gained']:,} gained ({_versus_text(record)}). "
                said += f"It {accuracy_words(results, record)}"
            said += "." + (" What attacks do to a classifier this poor says little." if poor else "")
            yield Finding(label(defence), said, _TONES[verdict(results, record)])

    def key_figures(self, results: Results) -> Iterator[KeyFigure]:
        found = accuracies(results)
        point, region = found.get("point"), found.get("region")
        if region:
            detail = f"{percent(point['rate'], point['n'])} without it" if point else f"n = {region['n']:,}"
            yield KeyFigure(percent(region["rate"], region["n"]), "accuracy of the vote", detail)
        if length := results.get("length"):
            printed = paper.length(results["dataset"]["name"])
            how = "learnt" if length.get("learnt", True) else "given"
            detail = f"{printed.text} in the paper" if printed else ""
            yield KeyFigure(number(length["r"]), f"length r, {how}", detail)

    def clause(self, results: Results) -> str:
        found = accuracies(results)
        if "region" not in found or found["region"]["difference"] is None:
            return ""
        return accuracy_words(results, found["region"])

    def summary(self, results: Results) -> list[str]:
        rows = [
            [label(d), percent(r["rate"], r["n"]), percent_range(r["rate_low"], r["rate_high"], r["n"])]
            for d, r in accuracies(results).items()
        ]
        return ["Accuracy on benign test examples (95% interval)", *columns(rows)] if rows else []


def _count(ctx: Context, own: Measured) -> Accuracy:
    truth = ctx.dataset.test.y.numpy()
    said: dict[int | None, list[np.ndarray]] = {}
    for unit in labels.benign(ctx, own):
        said.setdefault(unit.seed, []).append(ctx.arrays(unit)["said"])
    right = [np.concatenate(said[seed]) == truth for seed in own.seeds]
    counts = [int(one.sum()) for one in right]
    return {
        "defence": own.name,
        "correct": counts[0],
        "n": len(truth),
        "per_seed": counts if own.random else [],
        "versus_undefended": versus(right[0], _undefended(ctx)) if own.name != "point" else None,
    }


def _undefended(ctx: Context) -> np.ndarray:
    """Which test images [N] the undefended network labels correctly."""
    (point,) = (own for own in judges(ctx) if own.name == "point")
    said = np.concatenate([ctx.arrays(unit)["said"] for unit in labels.benign(ctx, point)])
    return np.asarray(said == ctx.dataset.test.y.numpy())


def _records(results: Results) -> dict[str, Record]:
    name = results["dataset"]["name"]
    found = {row["defence"]: accuracy_record(row, name) for row in results.get("accuracy", ())}
    return {defence: found[defence] for defence in defences(results) if defence in found}


def accuracies(results: Results) -> dict[str, Record]:
    """Records by defence, of those that were measured on some example."""
    return {defence: record for defence, record in _records(results).items() if record["n"]}


_TONES: dict[str, Tone] = {"costs": "bad", "keeps": "good", "gains": "good", "open": "plain"}


def margin(results: Results) -> float:
    """How much accuracy a defence may lose and still be said to keep it."""
    return float(results["config"].get("protocol", {}).get("margin", Protocol.margin))


def verdict(results: Results, record: Record) -> Literal["costs", "gains", "keeps", "open"]:
    """What the comparison with the undefended network shows: a change, none beyond the margin, or nothing yet."""
    if record["difference"] is None:
        return "open"
    if record["difference_p"] < 1 - CONFIDENCE:
        return "costs" if record["difference"] < 0 else "gains"
    return "keeps" if record["difference_low"] >= -margin(results) else "open"


def accuracy_words(results: Results, record: Record) -> str:
    """The verdict as a verb phrase."""
    n, most = record["n"], f"{100 * margin(results):g}"
    return {
        "costs": f"costs {points(abs(record['difference']), n)[1:]} points of accuracy",
        "gains": f"gains {points(record['difference'], n)[1:]} points of accuracy",
        "keeps": f"keeps the network's accuracy to within {most} points",
        "open": f"may cost over {most} points of accuracy or none (too few test examples to tell)",
    }[verdict(results, record)]


def _versus_text(r: Record) -> str:
    low, high = (points(r[f"difference_{end}"], r["n"]) for end in ("low", "high"))
    return f"{points(r['difference'], r['n'])} points, {low} to {high}, {p_text(r['difference_p'])}"


def _versus_texts(r: Record) -> tuple[str, ...]:
    if r["difference"] is None:
        return (MISSING,) * 4
    low, high = (points(r[f"difference_{end}"], r["n"]) for end in ("low", "high"))
    difference = f"{points(r['difference'], r['n'])} ({low} to {high})"
    return (f"{r['lost']:,}", f"{r['gained']:,}", difference, p_text(r["difference_p"])[4:])


def _matrix(results: Results, records: list[Record]) -> Matrix:
    name = results["dataset"]["name"]
    shown = [r for r in records if r["n"]]
    start = start_of(shown)
    rows: list[tuple[tuple[str, str], list[Cell | None]]] = []
    for r in shown:
        beside = [Line("second", "beside undefended", _versus_text(r))] if r["difference"] is not None else []
        beside += seeds_line(r) + paper_lines(r, paper.accuracy(name, r["defence"]), None)
        correct = Cell(f"{r['correct']:,} of {r['n']:,}", numeric=True)
        cells: list[Cell | None] = [rate_cell(r, start=start), correct, Cell(lines=tuple(beside))]
        rows.append(((label(r["defence"]), ""), cells))
    heads = [("Defence", ""), ("Accuracy", f"tracks from {start:.0%} to 100%"), ("Correct", ""), ("", "")]
    return Matrix(heads, rows, narrow=True)


OUTPUT = Table3()
