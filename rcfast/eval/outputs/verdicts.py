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
from rcfast.eval.statistics import CONFIDENCE, holm

MOSTLY = 0.5  # share of a variance
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


def adjusted(results: Results, defence: str) -> dict[tuple[str, str], float]:
    """p-values of the comparisons with the undefended network by (group, attack), Holm over Tables 4 to 6."""
    rows = [row for row in select(results, TABLES, defence=defence) if row["versus_undefended"]]
    found = holm([row["versus_undefended"]["p"] for row in rows if row["versus_undefended"]])
    return {(row["group"], row["attack"]): p for row, p in zip(rows, found, strict=True)}


def clearly_fewer(results: Results, group: str, defence: str) -> tuple[list[str], list[str], list[str]]:
    """(attacks compared with the undefended network, those that succeed clearly less often, and others that do so).

    Clearly: the adjusted p of the paired comparison is below 0.05.
    """
    compared, p = cells(results, group, defence), adjusted(results, defence)
    both = [attack for attack in compared if (group, attack) in p]
    lower = [attack for attack in both if compared[attack]["difference"] < 0]
    clear = [attack for attack in lower if p[group, attack] < 1 - CONFIDENCE]
    return both, clear, [attack for attack in lower if attack not in clear]


def names(attacks: Iterable[str]) -> str:
    """Names of attacks in a sentence."""
    return listed([attack_label(name) for name in attacks])


def noise_phrase(record: Record) -> str:
    """At which noise a rate is reached."""
    if record["noise_mean"] is None:
        return ""
    return f" at a mean {NORMS[record['norm']]} noise of {mean_text(record['noise_mean'], None)}"


def seeds(results: Results) -> Iterator[Finding]:
    """Whether another vote seed would have told another story: the seeds' share of each rate's variance."""
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
    most = max(voted, key=lambda r: r["seeds_share"] or 0.0)
    share = most["seeds_share"] or 0.0
    said += f". Of the variance of a rate at most {share:.0%}"
    said += f" ({attack_label(most['attack'])})" if share else ""
    said += " comes from the vote's randomness, the rest from which images were drawn"
    if share <= MOSTLY:
        yield Finding(LABELS["region"], f"{said}.", "good")
    else:
        yield Finding(
            LABELS["region"], f"{said}: more vote seeds, or a larger m, would settle that one.", "bad"
        )


def agreement(results: Results) -> Iterator[Finding]:
    """How often chance and rounding explain the difference from the paper's rates."""
    name = results["dataset"]["name"]
    records = [attack_record(row, name) for row in select(results, TABLES, reading="defence")]
    compared = [r for r in records if r["paper_rate_agrees"] is not None]
    if compared:
        inside = sum(r["paper_rate_agrees"] for r in compared)
        gap = median(abs(r["rate_difference"]) for r in compared)
        yield Finding(
            "",
            f"Of {len(compared)} success rates that the paper prints for {name}, {inside} agree with ours: chance can "
            "explain the difference (95% intervals of it, in which the paper's own few examples count as well). The "
            f"median difference is {100 * gap:.1f} points.",
        )
