"""What the run and the report know of a table or figure: everything about one stands in one file."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rcfast.eval.outputs.plot import Plot
from rcfast.eval.outputs.table import Table
from rcfast.eval.results import Results

if TYPE_CHECKING:
    from rcfast.eval.run.context import Context
    from rcfast.eval.run.unit import Unit

Tone = Literal["good", "bad", "plain"]


@dataclass(frozen=True)
class Finding:
    """A sentence or two of the verdict about a defence ("" = the run); `tone` is how it reads for it."""

    about: str
    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class KeyFigure:
    """A number, what it is, and what to hold it against."""

    value: str
    name: str
    detail: str


class Output(ABC):
    """One table or figure. Only what was asked for is planned, measured and shown.

    name: what `--only` takes and what its files are called. title: its heading. reading: how to read it, a
    sentence or two.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    section: ClassVar[str] = ""  # of the page; "" = that of all tables, or of all figures
    reading: ClassVar[str] = ""
    derived: ClassVar[bool] = (
        False  # whether it is made from the work of other outputs, and so is none of theirs
    )

    @property
    def label(self) -> str:
        """Table 4 for table4, nothing for a name that holds no number."""
        found = re.fullmatch(r"(table|figure)(\d+)", self.name)
        return f"{found[1].capitalize()} {found[2]}" if found else ""

    def needs(self, ctx: Context) -> Iterable[Unit]:
        """The units of work it is made from; what those need comes by itself."""
        return ()

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        """What it puts into results.json, from finished units; files beside that are written here too."""
        return {}

    def files(self, results: Results) -> Iterable[str]:
        """Names of the files beside results.json that `build` reads."""
        return ()

    @abstractmethod
    def build(self, results: Results, folder: Path) -> Table | Plot | None:
        """The table or figure; None where there is nothing to show. folder: where `files` lie."""

    def read(self, results: Results) -> str:
        """How to read it."""
        return self.reading

    def legend(self, results: Results) -> str:
        """What it has in common with other outputs; the page says it at the first of them."""
        return ""

    def findings(self, results: Results) -> Iterable[Finding]:
        """What it says about the defences."""
        return ()

    def key_figures(self, results: Results) -> Iterable[KeyFigure]:
        """The numbers that stand at the top of the page."""
        return ()

    def clause(self, results: Results) -> str:
        """Its part of the headline, a verb phrase that follows "Voting over a region"."""
        return ""

    def summary(self, results: Results) -> list[str]:
        """Its lines of the text at the end of a run."""
        return []
