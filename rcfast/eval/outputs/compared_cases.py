"""What votes that are compared with each other say of the same adversarial examples, and what breaks each of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rcfast.eval.outputs import attack_rows
from rcfast.eval.outputs.compared_vote import ComparedVote
from rcfast.eval.results import AttackRow
from rcfast.eval.run import attack
from rcfast.eval.run.attack import Adversarial, Case
from rcfast.eval.run.compare import LearntSize, parse, region
from rcfast.eval.run.compared import SaidOfAttacked, SaidOfClean, chosen, of_test, on_votes
from rcfast.eval.run.context import Context
from rcfast.eval.run.examples import examples
from rcfast.eval.run.protocol import Candidates, targeted
from rcfast.eval.run.summary import summarise
from rcfast.eval.statistics import holm, paired_difference, paired_ratio

TRANSFERRED = ("T-CW-L2", "T-CW-L0", "T-JSMA")
ITSELF = "T-RegionCW"


def _cases(ctx: Context) -> list[Case]:
    """The attacks on the network whose examples all votes are shown."""
    return [Case("point", name) for name in TRANSFERRED if name in ctx.config.attacks.names] + [
        case for case in attack_rows.confident(ctx, "point") if case.confidence
    ]


def shown(ctx: Context, spec: str) -> Iterator[Adversarial]:
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


Found = dict[str, np.ndarray]  # by attack, [N,T,S]: noise, inf for failures, of S judging seeds and T targets


def measured(ctx: Context, spec: str) -> tuple[ComparedVote, Found]:
    learnt, search = ctx.part(LearntSize(spec)).info, ctx.arrays(LearntSize(spec))
    said = [ctx.arrays(unit) for unit in of_test(ctx, spec)]
    right = np.concatenate([arrays["said"] for arrays in said]) == ctx.dataset.test.y.numpy()[chosen(ctx)]
    rows: list[AttackRow] = []
    noises = {}
    for name, (found, norm) in _tried(ctx, spec).items():
        outcome = targeted(found, "unseen")
        noises[name] = np.moveaxis(np.where(outcome.success, outcome.noise, np.inf), 0, -1)
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
        "noise_by_first": None,
    }
    return case, noises


def compared(found: list[tuple[ComparedVote, Found]]) -> list[ComparedVote]:
    """All votes, each compared with the first on the same examples; p for all comparisons of an attack (Holm)."""
    (_, first), *others = found
    for name, own in first.items():
        differences = [paired_difference(np.isfinite(noises[name]), np.isfinite(own)) for _, noises in others]
        for (case, _), gap, p in zip(others, differences, holm([d.p for d in differences]), strict=True):
            ends = {"low": gap.interval.low, "high": gap.interval.high}
            case["against_first"][name] = {"difference": gap.value, **ends, "p": float(p)}
    for case, noises in others:
        ratio = paired_ratio(noises[ITSELF], first[ITSELF])
        if ratio.n:
            low, high = (ratio.interval.low, ratio.interval.high) if ratio.n > 1 else (None, None)
            case["noise_by_first"] = {"ratio": ratio.value, "low": low, "high": high, "n": ratio.n}
    return [case for case, _ in found]
