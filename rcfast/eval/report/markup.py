"""Tables of the report as HTML: rates as bars with their intervals, marks and small lines beside them."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rcfast.eval.outputs.table import Bar, Cell, Line, Matrix


def scroll(table: str, name: str) -> str:
    """A box in which a wide table moves sideways without the page; the keyboard reaches it too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}">{table}</div>'


def _bar(bar: Bar) -> str:
    """A track from `start` to 1: the rate filled (a dot on a cut track), its interval, the mark."""

    def at(value: float) -> str:
        return f"{100 * (value - bar.start) / (1 - bar.start):.2f}%"

    width = 100 * (bar.high - bar.low) / (1 - bar.start)
    parts = f'<i class="range" style="left:{at(bar.low)};width:{width:.2f}%"></i>' if width > 0 else ""
    if bar.mark is not None:
        parts += f'<i class="mark" style="left:{at(bar.mark)}"></i>'
    if bar.start:
        parts += f'<i class="dot" style="left:{at(bar.value)}"></i>'
    else:
        parts = f'<i class="fill" style="width:{at(bar.value)}"></i>' + parts
    return f'<span class="bar" aria-hidden="true">{parts}</span>'


def _sign(agrees: bool | None) -> str:
    """Whether a value agrees with ours, as a sign with its words for screen readers."""
    if agrees is None:
        return ""
    word, sign = ("agrees", "✓") if agrees else ("differs", "≠")
    return f' <span class="{"in" if agrees else "out"}" title="{word}" aria-label="{word}">{sign}</span>'


def _line(line: Line) -> str:
    of = f' <span class="n">{escape(line.of)}</span>' if line.of else ""
    text = f"{escape(line.text)}{of}{_sign(line.agrees)}"
    name = f'<span class="name">{escape(line.name)}</span> ' if line.name else ""
    return f'<span class="line {line.kind}">{name}{text}</span>'


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return '<td class="cell none">not measured</td>'
    if cell.numeric:
        return f'<td class="number">{escape(cell.value)}</td>'
    text = ""
    if cell.value:
        interval = f' <span class="ci">{escape(cell.interval)}</span>' if cell.interval else ""
        of = f' <span class="n">{escape(cell.of)}</span>' if cell.of else ""
        text = f"<b>{escape(cell.value)}</b>{interval}{of}{_bar(cell.bar) if cell.bar else ''}"
    kind = "cell" if cell.bar or not cell.value else "cell slim"
    return f'<td class="{kind}">{text}{"".join(map(_line, cell.lines))}</td>'


def matrix(table: Matrix, name: str) -> str:
    """A table of cells."""

    def heading(title: str, of: str, numeric: bool) -> str:
        if not title:
            return "<td></td>"
        kind = ' class="number"' if numeric else ""
        return f'<th scope="col"{kind}>{_named(title, of)}</th>'

    first = table.rows[0][1] if table.rows else [None] * (len(table.columns) - 1)
    numeric = [False, *(cell is not None and cell.numeric for cell in first)]
    heads = "".join(heading(*column, flag) for column, flag in zip(table.columns, numeric, strict=True))
    rows = "".join(
        f'<tr><th scope="row">{_named(*row)}</th>{"".join(map(_cell, cells))}</tr>'
        for row, cells in table.rows
    )
    body = f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody>"
    return scroll(f'<table class="matrix{" rows" if table.narrow else ""}">{body}</table>', name)


def _named(title: str, of: str) -> str:
    """A heading with its small print, whose last part does not break."""
    if not of:
        return escape(title)
    *before, last = of.split(" · ")
    small = f"{escape(before[0])} · <span>{escape(last)}</span>" if before else escape(last)
    return f'{escape(title)}<span class="of">{small}</span>'


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
