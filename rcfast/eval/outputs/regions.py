"""Which region is worth most? Votes over several regions with several weights, on the same adversarial examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rcfast.eval.outputs import attack_rows
from rcfast.eval.outputs.cells import noise_text
from rcfast.eval.outputs.compared_vote import ComparedVote
from rcfast.eval.outputs.output import Finding, Output
from rcfast.eval.outputs.records import (
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
from rcfast.eval.run import attack
from rcfast.eval.run.attack import Adversarial, Case
from rcfast.eval.run.compare import LearntSize, parse, region
from rcfast.eval.run.compared import SaidOfAttacked, SaidOfClean, chosen, of_test, on_votes
from rcfast.eval.run.context import Context
from rcfast.eval.run.examples import examples
from rcfast.eval.run.protocol import Candidates, targeted
from rcfast.eval.run.summary import summarise
from rcfast.eval.run.unit import Unit
from rcfast.eval.statistics import holm, paired_difference, wilson

TRANSFERRED = ("T-CW-L2", "T-CW-L0", "T-JSMA")
ITSELF = "T-RegionCW"
SURE = 0.05


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
        "attack's norm. A region is worth more where the attack on itself needs more noise: what transfer fails at "
        "says little."
    )

    def needs(self, ctx: Context) -> Iterable[Unit]:
        for spec in ctx.config.compare.votes:
            yield LearntSize(spec)
            yield from of_test(ctx, spec)
            for seed in ctx.config.vote.seeds:
                yield SaidOfClean(spec, seed)
                for made in _made(ctx, spec):
                    yield SaidOfAttacked(spec, seed, made)

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        found = [_case(ctx, spec) for spec in ctx.config.compare.votes]
        return {"compared": _compared(found)} if found else {}

    def build(self, results: Results, folder: Path) -> Table | None:
        found = results.get("compared", [])
        if not found:
            return None
        names = _attacks(found)
        records = [record for case in found for record in _records(results, case)]
        header: tuple[str, ...] = ("Region", "Weights", "Test accuracy", "Points")
        header += tuple(text for name in names for text in (attack_label(name), "Noise ± SE"))
        rows = [
            (
                *_named(case),
                *(_accuracy(case), f"{case['samples']:.0f}"),
                *(text for name in names for text in _texts(results, case, name)),
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


def _cases(ctx: Context) -> list[Case]:
    """The attacks on the network whose examples all votes are shown."""
    return [Case("point", name) for name in TRANSFERRED if name in ctx.config.attacks.names] + [
        case for case in attack_rows.confident(ctx, "point") if case.confidence
    ]


def _made(ctx: Context, spec: str) -> Iterator[Adversarial]:
    for case in _cases(ctx):
        yield from attack.parts(ctx, case, "drawn")
    yield from on_votes(ctx, spec)


def _candidates(ctx: Context, spec: str, made: tuple[Adversarial, ...]) -> Candidates:
    """What a vote has said of adversarial examples, given as the units that made them."""
    seeds = ctx.config.vote.seeds
    found = [[ctx.arrays(SaidOfAttacked(spec, seed, part)) for part in made] for seed in seeds]
    clean = [ctx.arrays(SaidOfClean(spec, seed)) for seed in seeds]
    success = np.concatenate([ctx.arrays(part)["success"] for part in made])
    shape = success.shape
    norm = attack_rows.NORMS[made[0].norm]
    return Candidates(
        success=success,
        noise=attack_rows.sizes(ctx, made)[norm],
        targets=examples(ctx).targets[: len(success)],
        said=np.stack([np.concatenate([a["said"] for a in each]).reshape(shape) for each in found]),
        clean=np.stack([arrays["said"] for arrays in clean]),
        lead=np.stack([np.concatenate([a["lead"] for a in each]).reshape(shape) for each in found]),
        clean_lead=np.stack([arrays["lead"] for arrays in clean]),
    )


def _tried(ctx: Context, spec: str) -> dict[str, tuple[list[Candidates], float]]:
    """Of every attack what it offers, and its norm."""
    found: dict[str, tuple[list[Candidates], float]] = {}
    confident = []
    for case in _cases(ctx):
        made = tuple(attack.parts(ctx, case, "drawn"))
        own = _candidates(ctx, spec, made)
        if case.confidence:
            confident.append(own)
        else:
            found[case.attack] = [own], made[0].norm
    if confident and "T-CW-L2" in found:
        found["T-CA-L2"] = [*found["T-CW-L2"][0], *confident], 2
    found[ITSELF] = [_candidates(ctx, spec, tuple(on_votes(ctx, spec)))], 2
    return found


Successes = dict[str, np.ndarray]  # by attack, [N,T,S] bool: of S judging seeds and T targets of N examples


def _case(ctx: Context, spec: str) -> tuple[ComparedVote, Successes]:
    learnt, search = ctx.part(LearntSize(spec)).info, ctx.arrays(LearntSize(spec))
    said = [ctx.arrays(unit) for unit in of_test(ctx, spec)]
    right = np.concatenate([arrays["said"] for arrays in said]) == ctx.dataset.test.y.numpy()[chosen(ctx)]
    rows: list[AttackRow] = []
    successes = {}
    for name, (found, norm) in _tried(ctx, spec).items():
        outcome = targeted(found, "unseen")
        successes[name] = np.moveaxis(outcome.success, 0, -1)
        named: dict[str, Any] = {"group": "targeted", "attack": name, "defence": "region"}
        rows.append(summarise(outcome, norm=norm, reading="unseen", random=True, **named))
    case: ComparedVote = {
        "spec": spec,
        "region": repr(region(ctx, spec)),
        "weights": parse(spec)[1],
        "half_width": float(learnt["half_width"]),
        "half_widths": search["half_widths"].tolist(),
        "validation": search["accuracy"].tolist(),
        "point_accuracy": float(learnt["point_accuracy"]),
        "validation_n": int(learnt["n"]),
        "correct": int(right.sum()),
        "n": len(right),
        "samples": float(np.concatenate([arrays["samples"] for arrays in said]).mean()),
        "attacks": rows,
        "against_first": {},
    }
    return case, successes


def _compared(found: list[tuple[ComparedVote, Successes]]) -> list[ComparedVote]:
    """All votes, each compared with the first on the same examples; p for all comparisons of an attack (Holm)."""
    (_, first), *others = found
    for name, own in first.items():
        differences = [paired_difference(successes[name], own) for _, successes in others]
        for (case, _), found_, p in zip(others, differences, holm([d.p for d in differences]), strict=True):
            ends = {"low": found_.interval.low, "high": found_.interval.high}
            case["against_first"][name] = {"difference": found_.value, **ends, "p": float(p)}
    return [case for case, _ in found]


# ---- what is shown


def _attacks(found: list[ComparedVote]) -> list[str]:
    return [row["attack"] for row in found[0]["attacks"]] if found else []


def _row(case: ComparedVote, name: str) -> AttackRow:
    return next(row for row in case["attacks"] if row["attack"] == name)


def _short(case: ComparedVote) -> str:
    return case["spec"].removesuffix("/count")


def _named(case: ComparedVote) -> tuple[str, str]:
    return case["region"], case["weights"]


def _accuracy(case: ComparedVote) -> str:
    return percent(case["correct"] / case["n"], case["n"])


def _noise(case: ComparedVote, name: str) -> str:
    return size_text(_row(case, name)["noise_mean"])


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
        }


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
            noise = noise_text(r)
            cells.append(
                Cell(
                    percent(r["rate"], r["n"]),
                    percent_range(r["rate_low"], r["rate_high"], r["n"]),
                    bar=Bar(r["rate"], r["rate_low"], r["rate_high"]),
                    lines=(Line("noise", "noise", noise),) if noise != MISSING else (),
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
        said = f"Attacked itself, {most} needs the most noise, a mean L2 of {size_text(means[most])}, and {least} the "
        said += f"least, {size_text(means[least])}; {_short(found[0])} needs {size_text(means.get(_short(found[0])))}"
        fewest = min(row["success"] / row["n"] for row in rows.values())
        yield Finding("", f"{said}. Every vote is broken on {percent(fewest)} of the attempts at the least.")


OUTPUT = Regions()
