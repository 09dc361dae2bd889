"""Which region is worth most? Votes over several regions with several weights, on the same adversarial examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rcfast.eval.outputs.cells import noise_text
from rcfast.eval.outputs.compared_cases import ITSELF, compared, measured, shown
from rcfast.eval.outputs.compared_vote import ComparedVote
from rcfast.eval.outputs.output import Finding, Output
from rcfast.eval.outputs.records import (
    DASH,
    MISSING,
    attack_label,
    attack_record,
    columns,
    percent,
    percent_range,
    rounded,
    size_text,
)
from rcfast.eval.outputs.table import Bar, Cell, Line, Matrix, Record, Table
from rcfast.eval.results import AttackRow, Results
from rcfast.eval.run.compare import LearntSize
from rcfast.eval.run.compared import SaidOfAttacked, SaidOfClean, of_test
from rcfast.eval.run.context import Context
from rcfast.eval.run.unit import Unit
from rcfast.eval.statistics import wilson

SURE = 0.05
RATIO = {"": "ratio", "_low": "low", "_high": "high", "_n": "n"}  # the ends of the names of columns


class Regions(Output):
    name = "regions"
    title = "Which region is worth most?"
    section = "Regions and weights"
    derived = True
    reading = (
        "Every vote has the largest region that Algorithm 1 allows it, in steps of equal root mean square noise, so "
        "that all of them are as accurate. Columns of attacks: the same examples, made for the network; the last one: "
        "RegionCW on that very vote, the least noise with which it says the target. Success is judged by votes that "
        "the attacker has not seen, with 95% intervals that resample images; noise is the mean over successes, in the "
        "attack's norm. By the first's: the geometric mean over images of RegionCW's noise on this vote by that on the "
        "first, where both succeed, with the t interval over images. A region is worth more where the attack on itself "
        "needs more noise: what transfer fails at says little."
    )

    def needs(self, ctx: Context) -> Iterable[Unit]:
        for spec in ctx.config.compare.votes:
            yield LearntSize(spec)
            yield from of_test(ctx, spec)
            for seed in ctx.config.vote.seeds:
                yield SaidOfClean(spec, seed)
                for made in shown(ctx, spec):
                    yield SaidOfAttacked(spec, seed, made)

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        found = [measured(ctx, spec) for spec in ctx.config.compare.votes]
        return {"compared": compared(found)} if found else {}

    def build(self, results: Results, folder: Path) -> Table | None:
        found = results.get("compared", [])
        if not found:
            return None
        names = _attacks(found)
        records = [record for case in found for record in _records(results, case)]
        header: tuple[str, ...] = ("Region", "Weights", "Test accuracy", "Points")
        header += tuple(text for name in names for text in (attack_label(name), "Noise ± SE"))
        header += ("By the first's",)
        rows = [
            (
                *_named(case),
                *(_accuracy(case), f"{case['samples']:.0f}"),
                *(text for name in names for text in _texts(results, case, name)),
                _by_first(case) or MISSING,
            )
            for case in found
        ]
        matrix = _matrix(results, found, names)
        return Table(self.name, self.title, self.reading, records, header, rows, named=2, matrix=matrix)

    def findings(self, results: Results) -> Iterator[Finding]:
        found = results.get("compared", [])
        if len(found) < 2:
            return
        for name in _attacks(found):
            clear = [(case, case["against_first"][name]) for case in found[1:]]
            clear = [(case, gap) for case, gap in clear if gap["p"] < SURE]
            for word, sign in (("less", -1), ("more", 1)):
                others = [_short(case) for case, gap in clear if gap["difference"] * sign > 0]
                if others:
                    said = f"{attack_label(name)} succeeds {word} often against {', '.join(others)} than against "
                    yield Finding("", f"{said}{_short(found[0])} (p < {SURE}, Holm).")
        yield from _itself(found)

    def summary(self, results: Results) -> list[str]:
        found = results.get("compared", [])
        names = _attacks(found)
        rows = [["", "accuracy", *map(attack_label, names)]]
        for case in found:
            cells = [f"{_texts(results, case, name)[0]}, noise {_noise(case, name)}" for name in names]
            rows.append([_short(case), _accuracy(case), *cells])
        return ["Which region is worth most? (success on unseen votes)", *columns(rows)] if found else []


def _attacks(found: list[ComparedVote]) -> list[str]:
    return [row["attack"] for row in found[0]["attacks"]] if found else []


def _row(case: ComparedVote, name: str) -> AttackRow:
    return next(row for row in case["attacks"] if row["attack"] == name)


def _short(case: ComparedVote) -> str:
    return case["spec"].removesuffix("/count")


def _named(case: ComparedVote) -> tuple[str, str]:
    return re.sub(r"\d+\.\d{4,}", lambda size: f"{float(size[0]):.3g}", case["region"]), case["weights"]


def _accuracy(case: ComparedVote) -> str:
    return percent(case["correct"] / case["n"], case["n"])


def _noise(case: ComparedVote, name: str) -> str:
    mean = _row(case, name)["noise_mean"]
    return MISSING if mean is None else size_text(mean)


def _by_first(case: ComparedVote) -> str | None:
    """The noise of the attack on this vote by that of the attack on the first: 1.03 (1.02–1.05)."""
    found = case["noise_by_first"]
    if found is None:
        return None
    between = f"{found['low']:.3f}{DASH}{found['high']:.3f}" if found["low"] is not None else "one image"
    return f"{found['ratio']:.3f} ({between})"


def _texts(results: Results, case: ComparedVote, name: str) -> tuple[str, str]:
    r = attack_record(_row(case, name), results["dataset"]["name"])
    between = percent_range(r["rate_low"], r["rate_high"], r["n"])
    return f"{percent(r['rate'], r['n'])} ({between})", noise_text(r)


def _records(results: Results, case: ComparedVote) -> Iterator[Record]:
    accuracy = wilson(case["correct"], case["n"])
    for row in case["attacks"]:
        r = attack_record(row, results["dataset"]["name"])
        compared = case["against_first"].get(row["attack"])
        yield {
            "region": case["region"],
            "weights": case["weights"],
            "half_width": rounded(case["half_width"]),
            "accuracy": rounded(case["correct"] / case["n"]),
            "accuracy_low": rounded(accuracy.low),
            "accuracy_high": rounded(accuracy.high),
            "accuracy_n": case["n"],
            "points": rounded(case["samples"]),
            **{key: r[key] for key in ("attack", "norm", "rate", "rate_low", "rate_high", "n")},
            **{key: r[key] for key in ("noise_mean", "noise_se", "noise_n")},
            "difference": rounded(compared["difference"]) if compared else None,
            "p": rounded(compared["p"]) if compared else None,
            **_ratio(case, row["attack"]),
        }


def _ratio(case: ComparedVote, name: str) -> Record:
    found = (case["noise_by_first"] if name == ITSELF else None) or {}
    return {f"noise_by_first{end}": rounded(found.get(key)) for end, key in RATIO.items()}


def _matrix(results: Results, found: list[ComparedVote], names: list[str]) -> Matrix:
    heads = [("Vote", "region, weights"), ("Accuracy", "test"), *((attack_label(n), "") for n in names)]
    rows: list[tuple[tuple[str, str], list[Cell | None]]] = []
    for case in found:
        band = wilson(case["correct"], case["n"])
        cells: list[Cell | None] = [
            Cell(_accuracy(case), percent_range(band.low, band.high, case["n"]), of=f"{case['n']:,}")
        ]
        for name in names:
            r = attack_record(_row(case, name), results["dataset"]["name"])
            lines = [Line("noise", "noise", noise_text(r))] if noise_text(r) != MISSING else []
            if name == ITSELF and (ratio := _by_first(case)):
                lines.append(Line("by the first's", "noise", ratio))
            between = percent_range(r["rate_low"], r["rate_high"], r["n"])
            cells.append(
                Cell(
                    percent(r["rate"], r["n"]),
                    between,
                    bar=Bar(r["rate"], r["rate_low"], r["rate_high"]),
                    lines=tuple(lines),
                )
            )
        rows.append((_named(case), cells))
    return Matrix(heads, rows)


def _itself(found: list[ComparedVote]) -> Iterator[Finding]:
    """The noise that the attack on each vote needs."""
    rows = {_short(case): _row(case, ITSELF) for case in found}
    means = {name: row["noise_mean"] for name, row in rows.items() if row["noise_mean"] is not None}
    if means:
        most, least = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
        first = _short(found[0])
        said = f"Attacked itself, {most} needs the most noise, a mean L2 of {size_text(means[most])}, and {least} the "
        said += f"least, {size_text(means[least])}"
        if first not in (most, least):
            said += f"; {first} needs {size_text(means.get(first))}"
        fewest = min(row["success"] / row["n"] for row in rows.values())
        yield Finding("", f"{said}. Every vote is broken on {percent(fewest)} of the attempts at the least.")
    apart = [case for case in found if (ratio := case["noise_by_first"]) and not _holds_one(ratio)]
    if apart:
        said = ", ".join(f"{_short(case)} {_by_first(case)}" for case in apart)
        yield Finding(
            "",
            f"On the same examples, noise by that of {_short(found[0])}: {said}; 95% intervals each alone.",
        )


def _holds_one(ratio: dict[str, float | None]) -> bool:
    low, high = ratio["low"], ratio["high"]
    return low is None or high is None or low <= 1 <= high


OUTPUT = Regions()
