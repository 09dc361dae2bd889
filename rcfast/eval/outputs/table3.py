"""Table 3: accuracy on benign test examples."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

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
from rcfast.eval.outputs.output import Finding, KeyFigure, Output
from rcfast.eval.outputs.records import (
    accuracy_record,
    columns,
    defences,
    label,
    number,
    percent,
    percent_range,
    points,
)
from rcfast.eval.outputs.table import Cell, Matrix, Record, Table
from rcfast.eval.results import Accuracy, Results
from rcfast.eval.run import labels
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured
from rcfast.eval.run.judges import judges
from rcfast.eval.run.unit import Unit

POOR = 0.8  # a share of the undefended accuracy under which rates say nothing about robustness


class Table3(Output):
    name = "table3"
    title = "Accuracy on benign test examples"
    reading = (
        "The share of the benign test set that each defence labels correctly. A defence should cost nothing"
        " here: its interval should reach the accuracy of the point-based network."
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
        header += ("Vote seeds",) if seeds else ()
        header += ("Paper", "Difference", "In interval") if published else ()
        rows: list[tuple[str, ...]] = []
        for r in records:
            row: tuple[str, ...] = (label(r["defence"]), f"{r['correct']:,}", f"{r['n']:,}")
            row += (percent(r["rate"], r["n"]), percent_range(r["rate_low"], r["rate_high"], r["n"]))
            row += (seeds_text(r),) if seeds else ()
            if published:
                row += (percent(r["paper_rate"]), points(r["rate_difference"], r["n"]))
                row += (yes_text(r["paper_rate_in_interval"]),)
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
            kept, n = keeps(record, point), record["n"]
            poor = record["rate"] < POOR * point["rate"]
            difference = points(record["rate"] - point["rate"], n)
            said = (
                f"{percent(record['rate'], n)} of {n:,} benign test examples are labelled "
                f"correctly, {percent(point['rate'], point['n'])} by the undefended network "
                f"({difference} points, {'within' if kept else 'beyond'} the 95% interval)."
                + (" What attacks do to a classifier this poor says little." if poor else "")
            )
            yield Finding(label(defence), said, "good" if kept else "bad")

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
        if not {"point", "region"} <= found.keys():
            return ""
        kept = keeps(found["region"], found["point"])
        return "keeps the network's accuracy" if kept else "costs accuracy"

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
    correct = [int((np.concatenate(said[seed]) == truth).sum()) for seed in own.seeds]
    return {
        "defence": own.name,
        "correct": correct[0],
        "n": len(truth),
        "per_seed": correct if own.random else [],
    }


def _records(results: Results) -> dict[str, Record]:
    name = results["dataset"]["name"]
    found = {row["defence"]: accuracy_record(row, name) for row in results.get("accuracy", ())}
    return {defence: found[defence] for defence in defences(results) if defence in found}


def accuracies(results: Results) -> dict[str, Record]:
    """Records by defence, of those that were measured on some example."""
    return {defence: record for defence, record in _records(results).items() if record["n"]}


def keeps(record: Record, point: Record) -> bool:
    """Whether the undefended network's accuracy is not above this one's 95% interval."""
    return bool(record["rate_high"] >= point["rate"])


def _matrix(results: Results, records: list[Record]) -> Matrix:
    name = results["dataset"]["name"]
    shown = [r for r in records if r["n"]]
    start = start_of(shown)
    rows: list[tuple[tuple[str, str], list[Cell | None]]] = []
    for r in shown:
        beside = seeds_line(r) + paper_lines(r, paper.accuracy(name, r["defence"]), None)
        correct = Cell(f"{r['correct']:,} of {r['n']:,}", numeric=True)
        cells: list[Cell | None] = [rate_cell(r, start=start), correct, Cell(lines=tuple(beside))]
        rows.append(((label(r["defence"]), ""), cells))
    heads = [("Defence", ""), ("Accuracy", f"tracks from {start:.0%} to 100%"), ("Correct", ""), ("", "")]
    return Matrix(heads, rows, narrow=True)


OUTPUT = Table3()
