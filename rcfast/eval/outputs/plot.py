"""A figure as data: its records, and panels that know how to draw themselves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rcfast.eval.outputs.table import Record


@dataclass(frozen=True)
class Panel:
    """One part of a figure: `draw` fills a matplotlib (sub)figure of `size` (width, height in inches)."""

    draw: Callable[[Any], None]
    size: tuple[float, float]
    title: str = ""


@dataclass(frozen=True)
class Plot:
    """One figure: its data and the panels that show it."""

    name: str
    title: str
    records: list[Record]
    panels: list[Panel]
    head: Record = field(default_factory=dict)  # what the JSON says beside the rows
    square: bool = False  # an image grid, which the page shows smaller


SIZE = (5.0, 3.5)  # inches; text stays legible when a phone shows it in 9 cm


def on_axes(draw: Callable[..., None], *given: Any) -> Callable[[Any], None]:
    """Return what fills a figure by one pair of axes."""
    return lambda figure: draw(figure.add_subplot(), *given)
