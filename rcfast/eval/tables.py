"""Tables 2 to 6 as CSV, JSON, Markdown and LaTeX.

CSV and JSON hold both readings of which candidate an untargeted or combined attack hands in; Markdown and
LaTeX hold the first: the least noise among those that succeed against the defence itself. The bytes depend on
the results alone.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rcfast.eval import paper
from rcfast.eval.records import (
    MISSING,
    NORMS,
    Record,
    accuracy_record,
    attack_label,
    attack_record,
    defences,
    label,
    mean_text,
    percent,
    percent_range,
    points,
    select,
    signed,
)
from rcfast.eval.records import decimals as noise_decimals
from rcfast.eval.results import Results
from rcfast.eval.store import write_atomic

TITLES = {
    "table2": "Sizes of the data splits",
    "table3": "Accuracy on benign test examples",
    "table4": "Targeted attacks",
    "table5": "Untargeted attacks",
    "table6": "Combined attacks",
}
GROUPS = {"table4": "targeted", "table5": "untargeted", "table6": "combined"}
_CELL_NOTE = (
    "Success: share of all n adversarial examples that get the defence to answer the target (targeted) or "
    "anything but the true label (untargeted), with its Wilson 95% interval. Noise: mean ± standard error "
    "over the successful ones, in the attack's norm."
)


@dataclass(frozen=True)
class Table:
    """One table: `records` go to CSV and JSON, `header` and `rows` (text) to Markdown and LaTeX."""

    name: str
    title: str
    note: str
    records: list[Record]
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def _published_note(results: Results) -> str:
    dataset = results["dataset"]["name"]
    if paper.publishes(dataset):
        return (
            f"Paper: {paper.document()['source']}; differences are ours minus the paper's, whose value lies "
            "in our interval when one that rounds to it does."
        )
    return f"The paper reports no values for {dataset}."


def _sizes(results: Results) -> Table | None:
    dataset, published = results["dataset"], paper.split(results["dataset"]["name"])
    records: list[Record] = []
    for index, part in enumerate(("train", "validation", "test")):
        size = dataset["sizes"][part]  # type: ignore[literal-required]
        records.append({"split": part, "size": size, "paper_size": published[index] if published else None})
    header: tuple[str, ...] = ("Split", "Examples") + (("Paper",) if published else ())
    rows: list[tuple[str, ...]] = [
        (r["split"], f"{r['size']:,}") + ((f"{r['paper_size']:,}",) if published else ()) for r in records
    ]
    return Table("table2", TITLES["table2"], _published_note(results), records, header, rows)


def _seeds_text(record: Record) -> str:
    if record["seeds"] < 2:
        return MISSING
    if record["seeds_low"] == record["seeds_high"]:
        return f"all equal ({record['seeds']})"
    spread = percent_range(record["seeds_low"], record["seeds_high"], record["n"])
    return f"{spread} ({record['seeds']})"


def _yes(value: bool | None) -> str:
    return MISSING if value is None else "yes" if value else "no"


def _accuracies(results: Results) -> Table | None:
    name = results["dataset"]["name"]
    found = {row["defence"]: accuracy_record(row, name) for row in results.get("accuracy", ())}
    records = [found[defence] for defence in defences(results) if defence in found]
    if not records:
        return None
    published, seeds = paper.publishes(name), any(r["seeds"] > 1 for r in records)
    header: tuple[str, ...] = ("Defence", "Correct", "n", "Accuracy", "95% interval")
    header += ("Vote seeds",) if seeds else ()
    header += ("Paper", "Difference", "In interval") if published else ()
    rows: list[tuple[str, ...]] = []
    for r in records:
        row: tuple[str, ...] = (
            label(r["defence"]),
            f"{r['correct']:,}",
            f"{r['n']:,}",
            percent(r["rate"], r["n"]),
        )
        row += (percent_range(r["rate_low"], r["rate_high"], r["n"]),)
        row += (_seeds_text(r),) if seeds else ()
        if published:
            row += (percent(r["paper_rate"]), points(r["rate_difference"], r["n"]))
            row += (_yes(r["paper_rate_in_interval"]),)
        rows.append(row)
    note = "Accuracy with its Wilson 95% interval. " + _published_note(results)
    return Table("table3", TITLES["table3"], note, records, header, rows)


def noise_text(record: Record) -> str:
    """Mean noise ± standard error and the number of successful examples behind it."""
    if record["noise_mean"] is None:
        return MISSING
    return f"{mean_text(record['noise_mean'], record['noise_se'])} (n = {record['noise_n']:,})"


def noise_difference_text(record: Record) -> str:
    """Our mean noise minus the paper's, with the decimals of ours."""
    if record["noise_difference"] is None:
        return MISSING
    digits = noise_decimals(record["noise_mean"], record["noise_se"])
    return signed(record["noise_difference"], digits)


def attack_records(results: Results, table: str) -> list[Record]:
    """Records of "table4", "table5" or "table6": attacks in the paper's order, then defences, readings."""
    first = {attack: index for index, attack in enumerate(paper.attacks(table))}
    order = {defence: index for index, defence in enumerate(defences(results))}
    name = results["dataset"]["name"]
    records = [attack_record(row, name) for row in select(results, GROUPS[table], reading=None)]
    return sorted(
        records,
        key=lambda r: (first.get(r["attack"], len(first)), r["attack"], order[r["defence"]], r["reading"]),
    )


def _attacks(results: Results, table: str) -> Table | None:
    records = attack_records(results, table)
    if not records:
        return None
    published, seeds = paper.publishes(results["dataset"]["name"]), any(r["seeds"] > 1 for r in records)
    header: tuple[str, ...] = ("Attack", "Defence", "Success", "95% interval", "n", "Noise ± SE")
    header += ("Vote seeds",) if seeds else ()
    header += ("Paper", "Difference", "In interval") if published else ()
    header += ("Paper noise", "Difference", "In interval") if published else ()
    rows: list[tuple[str, ...]] = []
    for r in records:
        if r["reading"] != "defence":
            continue
        row: tuple[str, ...] = (
            f"{attack_label(r['attack'])} ({NORMS[r['norm']]})",
            label(r["defence"]),
            percent(r["rate"], r["n"]),
        )
        row += (percent_range(r["rate_low"], r["rate_high"], r["n"]), f"{r['n']:,}", noise_text(r))
        row += (_seeds_text(r),) if seeds else ()
        if published:
            row += (
                percent(r["paper_rate"]),
                points(r["rate_difference"], r["n"]),
                _yes(r["paper_rate_in_interval"]),
            )
            row += (
                MISSING if r["paper_noise"] is None else f"{r['paper_noise']:g}",
                noise_difference_text(r),
            )
            row += (_yes(r["paper_noise_in_interval"]),)
        rows.append(row)
    return Table(table, TITLES[table], f"{_CELL_NOTE} {_published_note(results)}", records, header, rows)


def build(results: Results) -> dict[str, Table]:
    """The tables that were asked for and have something to show, by name."""
    makers: dict[str, Callable[[], Table | None]] = {
        "table2": lambda: _sizes(results),
        "table3": lambda: _accuracies(results),
        "table4": lambda: _attacks(results, "table4"),
        "table5": lambda: _attacks(results, "table5"),
        "table6": lambda: _attacks(results, "table6"),
    }
    asked = results.get("outputs", list(makers))
    built = {name: make() for name, make in makers.items() if name in asked}
    return {name: table for name, table in built.items() if table is not None}


def csv_text(records: Sequence[Record]) -> str:
    """Records as CSV with a header line; None is an empty field, a bool true or false."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({k: str(v).lower() if isinstance(v, bool) else v for k, v in record.items()})
    return buffer.getvalue()


def json_text(document: object) -> str:
    """A JSON document as text, with stable bytes."""
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def markdown(table: Table) -> str:
    """The table for GitHub and friends; the first column is left, all others right aligned."""
    lines = [f"## {table.name.replace('table', 'Table ')}. {table.title}", ""]
    lines.append("| " + " | ".join(map(escape_markdown, table.header)) + " |")
    left = {0, 1} if "Attack" in table.header else {0}
    lines.append("|" + "|".join(":---" if i in left else "---:" for i in range(len(table.header))) + "|")
    lines += ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in table.rows]
    return "\n".join([*lines, "", escape_markdown(table.note), ""])


def escape_markdown(text: str) -> str:
    """Text that renders as itself inside a table cell, whatever a user's defence is called."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", " ".join(text.split()))


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "∞": r"$\infty$",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "—": "---",
    **{character: f"\\{character}" for character in "&%$#_"},
}


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as itself."""
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
    return re.sub(r"\bL(?:([02])\b|\$\\infty\$)", lambda m: f"$L_{m[1] or chr(92) + 'infty'}$", escaped)


def latex(table: Table) -> str:
    """A table environment for \\usepackage{booktabs}; a little space sets the attacks apart."""
    columns = "".join("l" if i < 1 + ("Attack" in table.header) else "r" for i in range(len(table.header)))
    lines = [r"\begin{table}", r"\centering\scriptsize", rf"\caption{{{escape_latex(table.title)}.}}"]
    lines += [rf"\label{{tab:rcfast-{table.name}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(map(escape_latex, table.header)) + r" \\", r"\midrule"]
    previous = None
    for row in table.rows:
        if "Attack" in table.header and previous not in (None, row[0]):
            lines.append(r"\addlinespace")
        previous = row[0]
        lines.append(" & ".join(map(escape_latex, row)) + r" \\")
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        rf"\par\smallskip {escape_latex(table.note)}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def write(results: Results, out: Path) -> list[Path]:
    """Write each table as <out>/tables/<name>.csv, .json, .md and .tex; return the paths.

    Raises:
        StoreError: the files cannot be written.
    """
    paths = []
    for table in build(results).values():
        head = {"table": table.name, "title": table.title, "dataset": results["dataset"]["name"]}
        texts = {
            "csv": csv_text(table.records),
            "json": json_text({**head, "note": table.note, "rows": table.records}),
            "md": markdown(table),
            "tex": latex(table),
        }
        for ending, text in texts.items():
            paths.append(out / "tables" / f"{table.name}.{ending}")
            write_atomic(paths[-1], text)
    return paths
