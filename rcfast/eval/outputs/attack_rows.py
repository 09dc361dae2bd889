"""From finished attacks and labels to rows: what each attack achieves against each defence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from rcfast.eval.results import AttackRow, Group, Reading
from rcfast.eval.run import attack, labels, vote_attack
from rcfast.eval.run.attack import Adversarial, Case, norm_of
from rcfast.eval.run.config import TARGETED, TRAINED
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured
from rcfast.eval.run.examples import examples
from rcfast.eval.run.judges import judges
from rcfast.eval.run.labels import AdversarialLabels, CleanLabels, Labels
from rcfast.eval.run.protocol import (
    COMBINED,
    NORMS,
    READINGS,
    Candidates,
    Outcome,
    targeted,
    untargeted,
)
from rcfast.eval.run.store import Arrays
from rcfast.eval.run.summary import summarise

# ---- which attacks


def plain(ctx: Context, network: str, *, with_deepfool: bool = True) -> list[Case]:
    """Return the attacks of the run on a network, without confidence."""
    names = [name for name in TARGETED if name in ctx.config.attacks.names]
    if with_deepfool and "DeepFool" in ctx.config.attacks.names:
        names.append("DeepFool")
    return [Case(network, name) for name in names]


def confident(ctx: Context, network: str) -> list[Case]:
    """Return T-CW-L2 with every confidence k of the run, in rising order, on a network."""
    own = ctx.config.attacks
    asked = network in own.confidence_models or (network not in TRAINED and "user" in own.confidence_models)
    if not asked or "T-CW-L2" not in own.names:
        return []
    return [Case(network, "T-CW-L2", k) for k in sorted(set(own.confidences))]


def labelled(ctx: Context, cases: Sequence[Case], alphas: Sequence[float] = (0.0,)) -> Iterator[Labels]:
    """Yield the labels of all drawn examples, attacked in some ways, by the defences that they are meant for.

    And those of the clean examples by the same defences.
    """
    for own in judges(ctx):
        if any(case.network == own.attacked for case in cases):
            yield from (CleanLabels(own.name, seed) for seed in own.seeds)
    for case in cases:
        yield from labels.adversarial(ctx, attack.parts(ctx, case, "drawn"), alphas=alphas)


def on_itself(ctx: Context, own: Measured, norm: float | None = None) -> list[Case]:
    """Return the attacks that know votes, in one norm or all: on the vote, or on a network that is its own defence."""
    if own.name != vote_attack.DEFENCE and own.attacked != own.name:
        return []
    names = vote_attack.names(ctx, norm)
    if own.name != vote_attack.DEFENCE:  # those of other libraries have attacks of their own for networks
        names = [name for name in names if ":" not in name]
    return [Case(own.name, name) for name in names]


def blocks_of(ctx: Context, case: Case) -> tuple[Adversarial, ...]:
    """Return the units that attack the drawn examples, whether a network or the vote is attacked."""
    if case.network == vote_attack.DEFENCE:
        return tuple(vote_attack.parts(ctx, case.attack))
    return tuple(attack.parts(ctx, case, "drawn"))


def labelled_on_itself(ctx: Context) -> Iterator[Labels]:
    """Yield the labels of all drawn examples under the attacks that know votes, by those who were attacked."""
    for own in judges(ctx):
        for case in on_itself(ctx, own):
            yield from (CleanLabels(own.name, seed) for seed in own.seeds)
            for part in blocks_of(ctx, case):
                yield from (AdversarialLabels(own.name, seed, part) for seed in own.seeds)


# ---- what they achieve


def candidates(ctx: Context, own: Measured, case: Case, alpha: float = 0.0) -> Candidates:
    """Return what a defence has said of all drawn examples, attacked on a network and moved on by alpha."""
    return judged(ctx, own, blocks_of(ctx, case), alpha)


def judged(ctx: Context, own: Measured, made: tuple[Adversarial, ...], alpha: float = 0.0) -> Candidates:
    """Return what a defence has said of adversarial examples, given as the units that made them, in their order."""
    return ctx.once(("judged", own.name, made, alpha), lambda: _judged(ctx, own, made, alpha))


def _judged(ctx: Context, own: Measured, made: tuple[Adversarial, ...], alpha: float) -> Candidates:
    success = [ctx.arrays(part)["success"] for part in made]
    targets = [
        examples(ctx).targets[part.rows] if part.case.targeted else examples(ctx).y[part.rows][:, None]
        for part in made
    ]
    said, lead = [], []
    for part, shape in zip(made, (one.shape for one in success), strict=True):
        found = [ctx.arrays(AdversarialLabels(own.name, seed, part, alpha)) for seed in own.seeds]
        said.append(np.stack([arrays["said"].reshape(shape) for arrays in found]))
        lead.append(np.stack([lead_of(arrays).reshape(shape) for arrays in found]))
    clean = [ctx.arrays(CleanLabels(own.name, seed)) for seed in own.seeds]
    return Candidates(
        success=np.concatenate(success),
        noise=sizes(ctx, made, alpha)[NORMS[made[0].norm]],
        targets=np.concatenate(targets),
        said=np.concatenate(said, axis=1),
        clean=np.stack([arrays["said"] for arrays in clean]),
        lead=np.concatenate(lead, axis=1),
        clean_lead=np.stack([lead_of(arrays) for arrays in clean]),
    )


def lead_of(arrays: Arrays) -> np.ndarray:
    """Return by which share of its votes each label leads; 1 where nothing is random or it was not recorded."""
    return arrays.get("lead", np.ones(len(arrays["said"]), np.float32))


def sizes(ctx: Context, made: tuple[Adversarial, ...], alpha: float = 0.0) -> dict[str, np.ndarray]:
    """Return the noise [N,T] of adversarial examples, moved on by alpha, in each norm."""
    return ctx.once(("sizes", made, alpha), lambda: _sizes(ctx, made, alpha))


def _sizes(ctx: Context, made: tuple[Adversarial, ...], alpha: float) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {name: [] for name in NORMS.values()}
    for part in made:
        clean = examples(ctx).x[part.rows].cpu()[:, None]
        moved = attack.adapted(clean, torch.from_numpy(ctx.arrays(part)["adversarial"]), alpha)
        delta = (moved - clean).flatten(2).double()
        found["L0"].append((delta != 0).sum(2).double().numpy())
        found["L2"].append(torch.linalg.vector_norm(delta, dim=2).numpy())
        found["Linf"].append(torch.linalg.vector_norm(delta, ord=math.inf, dim=2).numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def rows(
    ctx: Context,
    own: Measured,
    group: Group,
    name: str,
    cases: Sequence[Case],
    norm: float,
    *,
    any_label: bool = False,
    parameter: float | None = None,
    alpha: float = 0.0,
) -> Iterator[AttackRow]:
    """Yield one row for each reading. any_label: every label but the true one is a success."""
    truth = examples(ctx).y[: examples(ctx).drawn]

    def outcome(own: Measured, cases: Sequence[Case], reading: Reading) -> Outcome:
        found = [candidates(ctx, own, case, alpha) for case in cases]
        return untargeted(found, truth, reading) if any_label else targeted(found, reading)

    point = judges(ctx)[0]
    twins = [replace(case, network="point") for case in cases]
    paired = own.name != "point" and point.name == "point" and set(twins) <= known(ctx)
    for reading in READINGS:
        yield summarise(
            outcome(own, cases, reading),
            group=group,
            attack=name,
            norm=norm,
            defence=own.name,
            reading=reading,
            parameter=parameter,
            random=own.random,
            undefended=outcome(point, twins, reading) if paired and reading == "unseen" else None,
        )


def known(ctx: Context) -> set[Case]:
    """Return the attacks of the run on the undefended network."""
    direct = [case for own in judges(ctx) if own.name == "point" for case in on_itself(ctx, own)]
    return {*plain(ctx, "point"), *confident(ctx, "point"), *direct}


def targeted_rows(ctx: Context, own: Measured) -> Iterator[AttackRow]:
    """Yield Table 4."""
    for case in plain(ctx, own.attacked, with_deepfool=False):
        yield from rows(ctx, own, "targeted", case.attack, [case], norm_of(case.attack))


def untargeted_rows(ctx: Context, own: Measured) -> Iterator[AttackRow]:
    """Yield Table 5."""
    for case in plain(ctx, own.attacked):
        name = f"U{case.attack[1:]}" if case.targeted else case.attack
        yield from rows(ctx, own, "untargeted", name, [case], norm_of(case.attack), any_label=True)


def combined_rows(ctx: Context, own: Measured) -> Iterator[AttackRow]:
    """Yield Table 6."""
    single = {case.attack: case for case in plain(ctx, own.attacked)}
    for combined, members in COMBINED.items():
        cases = [single[f"T-{member}"] for member in members if f"T-{member}" in single]
        if len(cases) < len(members):
            continue
        if combined == "CA-L2":
            cases += [case for case in confident(ctx, own.attacked) if case.confidence]
        norm = norm_of(f"T-{members[0]}")
        yield from rows(ctx, own, "combined", f"T-{combined}", cases, norm)
        if combined == "CA-L2" and "DeepFool" in single:
            cases.append(single["DeepFool"])
        yield from rows(ctx, own, "combined", f"U-{combined}", cases, norm, any_label=True)
        if direct := on_itself(ctx, own, norm):
            cases += direct
            aimed = [case for case in cases if case.targeted]
            yield from rows(ctx, own, "combined", f"T-{combined}-V", aimed, norm)
            yield from rows(ctx, own, "combined", f"U-{combined}-V", cases, norm, any_label=True)


def confidence_rows(ctx: Context, own: Measured, *, any_label: bool) -> Iterator[AttackRow]:
    """Yield Figure 6, or Figure 7 where any label counts."""
    cases, name = confident(ctx, own.attacked), "U-CW-L2" if any_label else "T-CW-L2"
    for case in cases if any(case.confidence for case in cases) else []:
        k = case.confidence
        yield from rows(ctx, own, "confidence", name, [case], 2, any_label=any_label, parameter=k)


def adapted_cases(ctx: Context) -> list[Case]:
    """Return the attacks that Figure 8 adapts to the vote."""
    own = ctx.config.attacks
    return [Case("point", name) for name in own.adapted if name in own.names]


def adapted_rows(ctx: Context, own: Measured) -> Iterator[AttackRow]:
    """Yield Figure 8."""
    for case in adapted_cases(ctx) if own.attacked == "point" else []:
        for alpha in sorted(set(ctx.config.attacks.alphas)):
            name, norm = f"{case.attack}-A", norm_of(case.attack)
            yield from rows(ctx, own, "adapted", name, [case], norm, parameter=alpha, alpha=alpha)
