"""What the numbers say: the verdict in sentences, the key figures and the plain summary, all computed."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from textwrap import wrap
from typing import Literal

from rcfast.eval import paper
from rcfast.eval.progress import duration
from rcfast.eval.records import (
    LABELS,
    NORMS,
    Record,
    accuracy_record,
    attack_label,
    attack_record,
    defences,
    label,
    mean_text,
    number,
    percent,
    percent_range,
    points,
    select,
)
from rcfast.eval.results import DEFENCES, Results
from rcfast.eval.tables import GROUPS, attack_records

Tone = Literal["good", "bad", "plain"]
LOW, HIGH = 0.05, 0.95  # what "blocked" and "broken" mean below
POOR = 0.8  # a share of the undefended accuracy under which rates say nothing about robustness


@dataclass(frozen=True)
class Finding:
    """A sentence or two of the verdict about a defence ("" = the run); `tone` is how it reads for it."""

    about: str
    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Figure:
    """One key figure: a number, what it is, and what to hold it against."""

    value: str
    name: str
    detail: str


def _accuracy(results: Results) -> dict[str, Record]:
    name = results["dataset"]["name"]
    found = {row["defence"]: accuracy_record(row, name) for row in results.get("accuracy", ()) if row["n"]}
    return {defence: found[defence] for defence in defences(results) if defence in found}


def _cells(results: Results, group: str | tuple[str, ...], defence: str) -> dict[str, Record]:
    """Records of the attacks of a group against a defence, first reading, by attack."""
    name = results["dataset"]["name"]
    rows = select(results, group, defence=defence)
    return {row["attack"]: attack_record(row, name) for row in rows if row["n"]}


def _names(attacks: Iterable[str]) -> str:
    return _list([attack_label(name) for name in attacks])


def _list(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _strongest(records: Iterable[Record]) -> Record | None:
    """The record with the highest rate, the first of equals."""
    return max((r for r in records if r["n"]), key=lambda r: r["rate"], default=None)


def _fewer(point: dict[str, Record], other: dict[str, Record]) -> tuple[list[str], list[str]]:
    """(attacks measured on both, those whose interval lies wholly below that of the undefended network)."""
    both = [attack for attack in point if attack in other]
    return both, [attack for attack in both if other[attack]["rate_high"] < point[attack]["rate_low"]]


def _keeps(record: Record, point: Record) -> bool:
    """Whether the undefended network's accuracy is not above this one's 95% interval."""
    return bool(record["rate_high"] >= point["rate"])


def _noise(record: Record) -> str:
    if record["noise_mean"] is None:
        return ""
    return f" at a mean {NORMS[record['norm']]} noise of {mean_text(record['noise_mean'], None)}"


def _accuracy_finding(results: Results, defence: str) -> list[Finding]:
    found = _accuracy(results)
    point, record = found.get("point"), found.get(defence)
    if point is None or record is None:
        return []
    kept, n = _keeps(record, point), record["n"]
    poor = record["rate"] < POOR * point["rate"]
    difference = points(record["rate"] - point["rate"], n)
    said = (
        f"{percent(record['rate'], n)} of {n:,} benign test examples are labelled "
        f"correctly, {percent(point['rate'], point['n'])} by the undefended network "
        f"({difference} points, {'within' if kept else 'beyond'} the 95% interval)."
        + (" What attacks do to a classifier this poor says little." if poor else "")
    )
    return [Finding(label(defence), said, "good" if kept else "bad")]


def _group_findings(results: Results, defence: str, name: str, groups: tuple[str, ...]) -> list[Finding]:
    """How much less often the attacks of some groups succeed than on the undefended network."""
    point, other = _cells(results, groups, "point"), _cells(results, groups, defence)
    both, fewer = _fewer(point, other)
    best = _strongest(other.values())
    if not both or best is None:
        return []
    said = f"{len(fewer)} of {len(both)} {name} succeed clearly less often than on the "
    said += "undefended network"
    lower = [a for a in both if a not in fewer and other[a]["rate"] < point[a]["rate"]]
    if lower:
        verb = "is" if len(lower) == 1 else "are"
        said += f" ({len(lower)} more {verb} lower, but within the intervals)"
    if blocked := [a for a in both if other[a]["rate"] < LOW and point[a]["rate"] > HIGH]:
        verb = "falls" if len(blocked) == 1 else "fall"
        said += f"; {_names(blocked)} {verb} from above {HIGH:.0%} to below {LOW:.0%}"
    said += f". The strongest, {attack_label(best['attack'])}, reaches {percent(best['rate'])}{_noise(best)}."
    half = len(both) / 2
    tone: Tone = "good" if len(fewer) > half else "plain" if len(fewer) + len(lower) > half else "bad"
    return [Finding(label(defence), said, tone)]


def _robustness(results: Results, defence: str) -> list[Finding]:
    if defence in ("adversarial", "distillation"):
        return _group_findings(results, defence, "attacks", tuple(GROUPS.values()))
    return [
        finding
        for group in GROUPS.values()
        for finding in _group_findings(results, defence, f"{group} attacks", (group,))
    ]


def _confidence(results: Results) -> list[Finding]:
    said = []
    name = results["dataset"]["name"]
    for attack in dict.fromkeys(row["attack"] for row in select(results, "confidence", defence="region")):
        rows = select(results, "confidence", attack=attack, defence="region")
        curve = sorted((attack_record(r, name) for r in rows if r["n"]), key=lambda r: r["parameter"])
        reached = [r for r in curve if r["rate"] >= HIGH]
        best = reached[0] if reached else _strongest(curve)
        if best is None:
            continue
        plain = select(results, "confidence", attack=attack, defence="point")
        base = min(plain, key=lambda r: r["parameter"] or 0.0, default=None)
        text = f"With confidence k = {number(best['parameter'])}, {attack_label(attack)} reaches "
        text += f"{percent(best['rate'])} against the region-based classifier"
        if base and base["noise_mean"] and best["noise_mean"] is not None:
            ratio = best["noise_mean"] / base["noise_mean"]
            text += f", with {ratio:.1f} times the noise that it takes on the undefended network"
        said.append(Finding(LABELS["region"], text + ".", "bad" if reached else "plain"))
    return said


def _adapted(results: Results) -> list[Finding]:
    name = results["dataset"]["name"]
    best = _strongest(attack_record(r, name) for r in select(results, "adapted", defence="region"))
    if best is None:
        return []
    text = f"The best attack adapted to the region, {attack_label(best['attack'])} at alpha = "
    text += f"{number(best['parameter'])}, reaches {percent(best['rate'])} "
    text += f"({percent_range(best['rate_low'], best['rate_high'])})."
    return [Finding(LABELS["region"], text, "bad" if best["rate"] >= HIGH else "plain")]


def _seeds(results: Results) -> list[Finding]:
    """Whether another vote seed would have told another story: spreads beside the widths of the intervals."""
    name = results["dataset"]["name"]
    records = [attack_record(row, name) for row in select(results)]
    voted = [r for r in records if r["seeds"] > 1 and r["n"]]
    if not voted:
        return []
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
        return [
            Finding(LABELS["region"], said + ": the vote's randomness does not carry the result.", "good")
        ]
    return [
        Finding(
            LABELS["region"],
            said + ", more than its 95% interval is wide: a larger m would settle it.",
            "bad",
        )
    ]


def _agreement(results: Results) -> list[Finding]:
    records = [r for table in GROUPS for r in attack_records(results, table) if r["reading"] == "defence"]
    compared = [r for r in records if r["paper_rate_in_interval"] is not None]
    if not compared:
        return []
    inside = sum(r["paper_rate_in_interval"] for r in compared)
    gap = median(abs(r["rate_difference"]) for r in compared)
    return [
        Finding(
            "",
            f"Of {len(compared)} success rates that the paper prints for {results['dataset']['name']}, "
            f"{inside} lie in our 95% intervals; the median difference is {100 * gap:.1f} points. The "
            "paper's rates come from few examples too, so a value just outside is no contradiction.",
        )
    ]


def findings(results: Results) -> list[Finding]:
    """The verdict, one finding a sentence or two; only what was measured is spoken of.

    Region-based classification comes first, then a user's own defences, then the trained ones.
    """
    order = [d for d in defences(results) if d not in DEFENCES]
    said: list[Finding] = []
    for defence in ("region", *order, "adversarial", "distillation"):
        said += _accuracy_finding(results, defence) + _robustness(results, defence)
        if defence == "region":
            said += _confidence(results) + _adapted(results) + _seeds(results)
    return said + _agreement(results)


def headline(results: Results) -> str:
    """The verdict on the region-based classifier in one sentence."""
    accuracy = _accuracy(results)
    point, region = accuracy.get("point"), accuracy.get("region")
    parts = []
    if point and region:
        parts.append("keeps the network's accuracy" if _keeps(region, point) else "costs accuracy")
    both, fewer = _fewer(_cells(results, "targeted", "point"), _cells(results, "targeted", "region"))
    if both:
        stops = f"makes {len(fewer)} of {len(both)} targeted attacks succeed clearly less often"
        parts.append(stops if fewer else "stops no targeted attack measurably")
    best = _strongest(_cells(results, ("untargeted", "combined"), "region").values())
    if best and best["rate"] >= 0.5:
        parts.append(f"is still broken by {attack_label(best['attack'])} at {percent(best['rate'])}")
    if not parts:
        return "Too little was measured for a verdict on the region-based classifier."
    return f"Voting over a region {_list(parts)}."


def figures(results: Results) -> list[Figure]:
    """The key figures of the run, at most six."""
    accuracy, found = _accuracy(results), []
    point, region = accuracy.get("point"), accuracy.get("region")
    if region:
        detail = f"{percent(point['rate'], point['n'])} without it" if point else f"n = {region['n']:,}"
        found.append(Figure(percent(region["rate"], region["n"]), "accuracy of the vote", detail))
    if length := results.get("length"):
        printed = paper.length(results["dataset"]["name"])
        how = "learnt" if length.get("learnt", True) else "given"
        found.append(
            Figure(number(length["r"]), f"length r, {how}", f"{printed.text} in the paper" if printed else "")
        )
    for group, name in (("targeted", "T-CW-L2"), ("untargeted", "U-CW-L2")):
        vote, undefended = (_cells(results, group, defence).get(name) for defence in ("region", "point"))
        if vote and undefended:
            detail = f"{percent(undefended['rate'])} undefended"
            found.append(Figure(percent(vote["rate"]), f"{name} succeeds", detail))
    for group in ("targeted", "combined"):
        best = _strongest(_cells(results, group, "region").values())
        if best:
            found.append(
                Figure(percent(best["rate"]), f"strongest {group} attack", attack_label(best["attack"]))
            )
    return found


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def summary(results: Results, page: Path | None = None) -> str:
    """The end of a run as plain text: accuracies, r, every main rate with its Wilson 95% interval, warnings, time.

    page: where the report is.
    """
    dataset, names = results["dataset"], defences(results)
    lines = [
        f"{dataset['name']}: {dataset['num_classes']} labels, {dataset['sizes']['test']:,} test examples"
    ]
    if length := results.get("length"):
        how = f"learnt on {length['n']:,} validation examples" if length.get("learnt", True) else "given"
        lines.append(f"length r = {number(length['r'])}, {how}")
    if accuracy := _accuracy(results):
        lines += ["", "Accuracy on benign test examples (95% interval)"]
        lines += _columns(
            [
                [label(d), percent(r["rate"], r["n"]), percent_range(r["rate_low"], r["rate_high"], r["n"])]
                for d, r in ((d, accuracy[d]) for d in names if d in accuracy)
            ]
        )
    for table, group in GROUPS.items():
        records = [r for r in attack_records(results, table) if r["reading"] == "defence"]
        shown = [d for d in names if any(r["defence"] == d for r in records)]
        if not records:
            continue
        cells = {(r["attack"], r["defence"]): r for r in records}
        rows = [["", *map(label, shown)]]
        for attack in dict.fromkeys(r["attack"] for r in records):
            row = [attack]
            for defence in shown:
                r = cells.get((attack, defence))
                row.append(
                    f"{percent(r['rate'])} ({percent_range(r['rate_low'], r['rate_high'])})" if r else ""
                )
            rows.append(row)
        lines += ["", f"Success rate of {group} attacks (95% interval)", *_columns(rows)]
    lines += ["", *wrap(headline(results), 100), ""]
    lines += [f"warning: {text}" for text in results["warnings"]]
    if stages := results.get("stages"):
        lines.append(f"time of all stages, now or before: {duration(sum(s['seconds'] for s in stages))}")
    lines += [f"report: {page}"] if page else []
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"
