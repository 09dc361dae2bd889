"""A table as data: its records for CSV and JSON, its text for Markdown and LaTeX, its cells for the page."""

from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """A track from `start` to 1 with a value, its interval, and a mark; all of them shares in [0, 1]."""

    value: float
    low: float
    high: float
    mark: float | None = None
    start: float = 0.0


@dataclass(frozen=True)
class Line:
    """A small line of a cell: a name and its text. `of`: how many examples; `agrees`: a sign for yes or no."""

    kind: str  # noise, second, seeds or paper: how it looks
    name: str
    text: str
    of: str = ""
    agrees: bool | None = None


@dataclass(frozen=True)
class Cell:
    """One cell of the page: a number with its interval, a bar, small lines; all optional, all plain text."""

    value: str = ""
    interval: str = ""
    of: str = ""
    bar: Bar | None = None
    lines: tuple[Line, ...] = ()
    numeric: bool = False  # nothing but a number


@dataclass(frozen=True)
class Matrix:
    """What the page shows in place of plain text: (heading, small print) of columns and rows, and their cells.

    A cell of None was not measured. narrow: rows hold one cell beside plain numbers.
    """

    columns: list[tuple[str, str]]
    rows: list[tuple[tuple[str, str], list[Cell | None]]]
    narrow: bool = False


@dataclass(frozen=True)
class Table:
    """One table: `records` go to CSV and JSON, `header` and `rows` (text) to Markdown and LaTeX."""

    name: str
    title: str
    note: str
    records: list[Record]
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    named: int = 1  # columns at the left that hold names and not numbers
    matrix: Matrix | None = field(default=None, compare=False)
