"""Records as cells of the page: the rate with its interval and bar, then small lines beside it."""

from collections.abc import Sequence
from math import floor

from rcfast.eval import paper
from rcfast.eval.outputs.records import (
    MISSING,
    decimals,
    mean_text,
    percent,
    percent_range,
    points,
    signed,
)
from rcfast.eval.outputs.table import Bar, Cell, Line, Record

LEGEND = (
    "The large number is the success rate; its 95% interval stands beside it and as a line on the bar. "
    "Below it the mean noise ± standard error, with the number of successful examples behind it in "
    "brackets, and the median noise of all of them, with failures as infinite."
)
PAPER_LEGEND = (
    "The orange mark is the paper's value, said again below with the difference (ours minus the paper's); ✓"
    " means that chance can explain the difference, since the paper's examples are few as well, ≠ that it cannot."
)


def legend(dataset: str, own: str = "") -> str:
    """How cells are read, with the paper's mark where the paper reports on the data set."""
    return " ".join(filter(None, (own, PAPER_LEGEND if paper.publishes(dataset) else "")))


def published_note(dataset: str) -> str:
    """What a table's note says of the paper's values."""
    if paper.publishes(dataset):
        return (
            f"Paper: {paper.document()['source']}; differences are ours minus the paper's, which agrees when the 95% "
            "interval of the difference, the paper's own examples counted, reaches zero or what rounding can hide."
        )
    return f"The paper reports no values for {dataset}."


def start_of(records: Sequence[Record]) -> float:
    """Where a track for high shares begins: 95% and above are told apart by hundredths, others by tenths."""
    values = [v for r in records for v in (r["rate_low"], r["paper_rate"]) if v is not None]
    step = 0.01 if min(values, default=0) > 0.95 else 0.1
    return max(0.0, floor(min(values, default=0) / step - 1e-9) * step)


def rate_cell(
    record: Record, *, n_shown: bool = False, start: float = 0.0, lines: Sequence[Line] = ()
) -> Cell:
    """A rate with its interval and its bar."""
    n = record["n"]
    return Cell(
        value=percent(record["rate"], n),
        interval=percent_range(record["rate_low"], record["rate_high"], n),
        of=f"n = {n:,}" if n_shown else "",
        bar=Bar(record["rate"], record["rate_low"], record["rate_high"], record["paper_rate"], start),
        lines=tuple(lines),
    )


def noise_line(record: Record) -> list[Line]:
    if record["noise_mean"] is None:
        return []
    mean = mean_text(record["noise_mean"], record["noise_se"])
    return [Line("noise", "noise", mean, of=f"({record['noise_n']:g})")]


def seeds_line(record: Record) -> list[Line]:
    if record["seeds"] < 2:
        return []
    name = f"{record['seeds']} vote seeds"
    if record["seeds_low"] == record["seeds_high"]:
        return [Line("seeds", name, "all equal")]
    return [Line("seeds", name, percent_range(record["seeds_low"], record["seeds_high"], record["n"]))]


def paper_lines(record: Record, rate: paper.Printed | None, noise: paper.Printed | None) -> list[Line]:
    if rate is None:
        return []
    difference = points(record["rate_difference"], record["n"])
    lines = [Line("paper", "paper", f"{rate.text}% ({difference})", agrees=record["paper_rate_agrees"])]
    if noise is not None:
        gap = "" if record["noise_difference"] is None else f" ({noise_difference_text(record)})"
        lines.append(Line("paper", "its noise", f"{noise.text}{gap}", agrees=record["paper_noise_agrees"]))
    return lines


def seeds_text(record: Record) -> str:
    """How far apart the vote seeds are, for Markdown and LaTeX."""
    if record["seeds"] < 2:
        return MISSING
    if record["seeds_low"] == record["seeds_high"]:
        return f"all equal ({record['seeds']})"
    spread = percent_range(record["seeds_low"], record["seeds_high"], record["n"])
    return f"{spread} ({record['seeds']})"


def yes_text(value: bool | None) -> str:
    return MISSING if value is None else "yes" if value else "no"


def noise_text(record: Record) -> str:
    """Mean noise ± standard error and the number of successful examples behind it."""
    if record["noise_mean"] is None:
        return MISSING
    return f"{mean_text(record['noise_mean'], record['noise_se'])} (n = {record['noise_n']:g})"


def noise_difference_text(record: Record) -> str:
    """Our mean noise minus the paper's, with the decimals of ours."""
    if record["noise_difference"] is None:
        return MISSING
    digits = decimals(record["noise_mean"], record["noise_se"])
    return signed(record["noise_difference"], digits)
