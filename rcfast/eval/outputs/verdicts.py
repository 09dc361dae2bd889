"""What rows say in words: which attacks fail clearly more often, and what holds over all tables."""

from collections.abc import Iterable, Iterator
from statistics import median

from rcfast.eval.outputs.output import Finding
from rcfast.eval.outputs.records import (
    LABELS,
    NORMS,
    attack_label,
    attack_record,
    listed,
    mean_text,
    select,
)
from rcfast.eval.outputs.table import Record
from rcfast.eval.results import Results

LOW, HIGH = 0.05, 0.95  # what "blocked" and "broken" mean
TABLES = ("targeted", "untargeted", "combined")  # the groups of Tables 4 to 6


def cells(results: Results, group: str | tuple[str, ...], defence: str) -> dict[str, Record]:
    """Records of the attacks of a group against a defence, judged by unseen votes, by attack."""
    name = results["dataset"]["name"]
    rows = select(results, group, defence=defence)
    return {row["attack"]: attack_record(row, name) for row in rows if row["n"]}


def strongest(records: Iterable[Record]) -> Record | None:
    """The record with the highest rate, the first of equals."""
    return max((r for r in records if r["n"]), key=lambda r: r["rate"], default=None)


def clearly_fewer(point: dict[str, Record], other: dict[str, Record]) -> tuple[list[str], list[str]]:
    """(attacks measured on both, those whose interval lies wholly below that of the undefended network)."""
    both = [attack for attack in point if attack in other]
    return both, [attack for attack in both if other[attack]["rate_high"] < point[attack]["rate_low"]]


def names(attacks: Iterable[str]) -> str:
    """Names of attacks in a sentence."""
    return listed([attack_label(name) for name in attacks])


def noise_phrase(record: Record) -> str:
    """At which noise a rate is reached."""
    if record["noise_mean"] is None:
        return ""
    return f" at a mean {NORMS[record['norm']]} noise of {mean_text(record['noise_mean'], None)}"


def seeds(results: Results) -> Iterator[Finding]:
    """Whether another vote seed would have told another story: spreads beside the widths of the intervals."""
    name = results["dataset"]["name"]
    records = [attack_record(row, name) for row in select(results)]
    voted = [r for r in records if r["seeds"] > 1 and r["n"]]
    if not voted:
        return
    widest = max(voted, key=lambda r: r["seeds_high"] - r["seeds_low"])
    spread = widest["seeds_high"] - widest["seeds_low"]
    if not spread:
        said = f"Over {widest['seeds']} vote seeds no success rate moved at all"
    else:
        said = (
            f"Over {widest['seeds']} vote seeds no success rate moved by more than {100 * spread:.1f} points "
            f"({attack_label(widest['attack'])}, {round(spread * widest['n'])} of {widest['n']:,} examples)"
        )
    if all(r["seeds_high"] - r["seeds_low"] <= r["rate_high"] - r["rate_low"] for r in voted):
        yield Finding(LABELS["region"], said + ": the vote's randomness does not carry the result.", "good")
    else:
        said += ", more than its 95% interval is wide: a larger m would settle it."
        yield Finding(LABELS["region"], said, "bad")


def agreement(results: Results) -> Iterator[Finding]:
    """How often the paper's rates lie in our intervals."""
    name = results["dataset"]["name"]
    records = [attack_record(row, name) for row in select(results, TABLES, reading="defence")]
    compared = [r for r in records if r["paper_rate_in_interval"] is not None]
    if compared:
        inside = sum(r["paper_rate_in_interval"] for r in compared)
        gap = median(abs(r["rate_difference"]) for r in compared)
        yield Finding(
            "",
            f"Of {len(compared)} success rates that the paper prints for {name}, "
            f"{inside} lie in our 95% intervals; the median difference is {100 * gap:.1f} points. The "
            "paper's rates come from few examples too, so a value just outside is no contradiction.",
        )
