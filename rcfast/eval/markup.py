"""The tables of the report as HTML: success rates as bars with their intervals, the paper's mark beside."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from math import floor
from typing import Any

from rcfast.eval import paper
from rcfast.eval.records import (
    NORMS,
    Record,
    accuracy_record,
    attack_label,
    defences,
    label,
    mean_text,
    percent,
    percent_range,
    points,
)
from rcfast.eval.results import Results
from rcfast.eval.tables import Table, attack_records, noise_difference_text


def scroll(table: str, name: str) -> str:
    """A box in which a wide table moves sideways without the page; the keyboard reaches it too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}">{table}</div>'


def _bar(record: Record, start: float = 0.0) -> str:
    """A track from `start` to 1: the rate filled (a dot on a cut track), its interval, the paper's mark."""

    def at(value: float) -> str:
        return f"{100 * (value - start) / (1 - start):.2f}%"

    width = 100 * (record["rate_high"] - record["rate_low"]) / (1 - start)
    parts = f'<i class="range" style="left:{at(record["rate_low"])};width:{width:.2f}%"></i>'
    if record["paper_rate"] is not None:
        parts += f'<i class="mark" style="left:{at(record["paper_rate"])}"></i>'
    if start:
        parts += f'<i class="dot" style="left:{at(record["rate"])}"></i>'
    else:
        parts = f'<i class="fill" style="width:{at(record["rate"])}"></i>' + parts
    return f'<span class="bar" aria-hidden="true">{parts}</span>'


def _cut(records: Sequence[Record]) -> float:
    """Where a track for high shares begins: 95% and above are told apart by hundredths, others by tenths."""
    values = [v for r in records for v in (r["rate_low"], r["paper_rate"]) if v is not None]
    step = 0.01 if min(values, default=0) > 0.95 else 0.1
    return max(0.0, floor(min(values, default=0) / step - 1e-9) * step)


def _verdict(inside: bool | None) -> str:
    """Whether the paper's value lies in our interval, as a sign with its words for screen readers."""
    if inside is None:
        return ""
    word, sign = ("in the interval", "✓") if inside else ("outside the interval", "≠")
    return f' <span class="{"in" if inside else "out"}" title="{word}" aria-label="{word}">{sign}</span>'


def _line(kind: str, name: str, text: str) -> str:
    return f'<span class="line {kind}"><span class="name">{name}</span> {text}</span>'


def _paper_lines(record: Record, rate: paper.Printed | None, noise: paper.Printed | None) -> str:
    if rate is None:
        return ""
    difference = points(record["rate_difference"], record["n"])
    text = f"{rate.text}% ({difference})" + _verdict(record["paper_rate_in_interval"])
    lines = _line("paper", "paper", text)
    if noise is not None:
        gap = "" if record["noise_difference"] is None else f" ({noise_difference_text(record)})"
        text = f"{noise.text}{gap}" + _verdict(record["paper_noise_in_interval"])
        lines += _line("paper", "its noise", text)
    return lines


def _seeds_line(record: Record) -> str:
    if record["seeds"] < 2:
        return ""
    if record["seeds_low"] == record["seeds_high"]:
        return _line("seeds", f"{record['seeds']} vote seeds", "all equal")
    spread = percent_range(record["seeds_low"], record["seeds_high"], record["n"])
    return _line("seeds", f"{record['seeds']} vote seeds", spread)


def _rate(record: Record, n_shown: bool, start: float = 0.0) -> str:
    n = record["n"]
    interval = percent_range(record["rate_low"], record["rate_high"], n)
    of = f' <span class="n">n = {n:,}</span>' if n_shown else ""
    return f'<b>{percent(record["rate"], n)}</b> <span class="ci">{interval}</span>{of}{_bar(record, start)}'


def _cell(record: Record | None, other: Record | None, n_shown: bool, dataset: str) -> str:
    if record is None or not record["n"]:
        return '<td class="cell none">not measured</td>'
    text = _rate(record, n_shown)
    if record["noise_mean"] is not None:
        mean = mean_text(record["noise_mean"], record["noise_se"])
        text += _line("noise", "noise", f'{mean} <span class="n">({record["noise_n"]:,})</span>')
    if other is not None and other["success"] != record["success"]:
        text += _line("second", "chosen by the network", percent(other["rate"], other["n"]))
    printed = paper.cell(dataset, record["attack"], record["defence"])
    beside = _paper_lines(record, printed.success, printed.noise) if printed else ""
    return f'<td class="cell">{text}{_seeds_line(record)}{beside}</td>'


def attack_table(results: Results, table: Table) -> str:
    """Tables 4 to 6: attacks in rows, defences in columns."""
    records, dataset = attack_records(results, table.name), results["dataset"]["name"]
    found = {(r["attack"], r["defence"], r["reading"]): r for r in records}
    columns = [d for d in defences(results) if any(r["defence"] == d for r in records)]
    head = "".join(f'<th scope="col">{escape(label(d))}</th>' for d in columns)
    rows = []
    for attack in dict.fromkeys(r["attack"] for r in records):
        own = [r for r in records if r["attack"] == attack]
        same = len({r["n"] for r in own}) == 1
        of = f" · <span>n = {own[0]['n']:,}</span>" if same else ""
        cells = "".join(
            _cell(found.get((attack, d, "defence")), found.get((attack, d, "model")), not same, dataset)
            for d in columns
        )
        name = f'{escape(attack_label(attack))}<span class="of">{NORMS[own[0]["norm"]]}{of}</span>'
        rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    body = f'<thead><tr><th scope="col">Attack</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
    return scroll(f'<table class="matrix">{body}</table>', table.title)


def accuracy_table(results: Results, table: Table) -> str:
    """Table 3: one defence in a row."""
    name = results["dataset"]["name"]
    found = {row["defence"]: accuracy_record(row, name) for row in results.get("accuracy", ()) if row["n"]}
    start, rows = _cut(list(found.values())), []
    for defence in (d for d in defences(results) if d in found):
        record = found[defence]
        beside = _seeds_line(record) + _paper_lines(record, paper.accuracy(name, defence), None)
        rows.append(
            f'<tr><th scope="row">{escape(label(defence))}</th>'
            f'<td class="cell">{_rate(record, False, start)}</td>'
            f'<td class="number">{record["correct"]:,} of {record["n"]:,}</td>'
            f'<td class="cell">{beside}</td></tr>'
        )
    of = f'<span class="of">tracks from {start:.0%} to 100%</span>'
    head = f'<th scope="col">Defence</th><th scope="col">Accuracy{of}</th>'
    head += '<th scope="col" class="number">Correct</th><td></td>'
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return scroll(f'<table class="matrix rows">{body}</table>', table.title)


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]], name: str) -> str:
    """A small table of text; all but the first column are numbers."""
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in header)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return scroll(f'<table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>', name)


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value as text), in their order; empty ones are left out."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += flat(value, f"{prefix}{key}.")
        elif value not in ("", [], None):
            text = ", ".join(map(_value, value)) if isinstance(value, list | tuple) else _value(value)
            found.append((f"{prefix}{key}", text))
    return found


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _breakable(name: str) -> str:
    return re.sub(r"([._])", r"\1<wbr>", escape(name))


def settings(values: Sequence[tuple[str, str]]) -> str:
    """Names and values as a list that fills as many columns as fit."""
    rows = "".join(f"<div><dt>{_breakable(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in values)
    return f'<dl class="settings">{rows}</dl>'
