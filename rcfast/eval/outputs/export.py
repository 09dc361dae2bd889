"""Tables as CSV, JSON, Markdown and LaTeX. The bytes depend on the results alone."""

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

from rcfast.eval import outputs
from rcfast.eval.outputs.table import Record, Table
from rcfast.eval.results import Results
from rcfast.eval.run.store import write_atomic


def build(results: Results, folder: Path) -> dict[str, Table]:
    """The tables that have something to show, by name."""
    built = {output.name: output.build(results, folder) for output in outputs.of(results)}
    return {name: table for name, table in built.items() if isinstance(table, Table)}


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
    number = f"{table.name.replace('table', 'Table ')}. " if table.name.startswith("table") else ""
    lines = [f"## {number}{table.title}", ""]
    lines.append("| " + " | ".join(map(escape_markdown, table.header)) + " |")
    lines.append(
        "|" + "|".join(":---" if i < table.named else "---:" for i in range(len(table.header))) + "|"
    )
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
    columns = "".join("l" if i < table.named else "r" for i in range(len(table.header)))
    lines = [r"\begin{table}", r"\centering\scriptsize", rf"\caption{{{escape_latex(table.title)}.}}"]
    lines += [rf"\label{{tab:rcfast-{table.name}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(map(escape_latex, table.header)) + r" \\", r"\midrule"]
    previous = None
    for row in table.rows:
        if table.named > 1 and previous not in (None, row[0]):
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
    for table in build(results, out).values():
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
