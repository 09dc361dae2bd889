"""From finished attacks and labels to rows: what each attack achieves against each defence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from rcfast.eval.results import AttackRow, Group
from rcfast.eval.run import attack, labels
from rcfast.eval.run.attack import Case
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
    summarise,
    targeted,
    untargeted,
)

NORM = {"JSMA": 0, "CW-L0": 0, "FGSM": math.inf, "IGSM": math.inf, "CW-Linf": math.inf, "CW-L2": 2}


def norm_of(name: str) -> float:
    """Return the norm in which an attack's noise is counted: 0, 2 or inf."""
    return 2 if name == "DeepFool" else NORM[name[2:]]


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


# ---- what they achieve


def candidates(ctx: Context, own: Measured, case: Case, alpha: float = 0.0) -> Candidates:
    """Return what a defence has said of all drawn examples, attacked in one way and moved on by alpha."""
    return ctx.once(("candidates", own.name, case, alpha), lambda: _candidates(ctx, own, case, alpha))


def _candidates(ctx: Context, own: Measured, case: Case, alpha: float) -> Candidates:
    parts = list(attack.parts(ctx, case, "drawn"))
    success = [ctx.arrays(part)["success"] for part in parts]
    targets = [
        examples(ctx).targets[part.rows] if case.targeted else examples(ctx).y[part.rows][:, None]
        for part in parts
    ]
    said = [
        np.stack([ctx.arrays(AdversarialLabels(own.name, seed, part, alpha))["said"] for seed in own.seeds])
        for part in parts
    ]
    shaped = [one.reshape(-1, *other.shape) for one, other in zip(said, success, strict=True)]
    return Candidates(
        success=np.concatenate(success),
        noise=sizes(ctx, case, alpha)[NORMS[norm_of(case.attack)]],
        targets=np.concatenate(targets),
        said=np.concatenate(shaped, axis=1),
        clean=np.stack([ctx.arrays(CleanLabels(own.name, seed))["said"] for seed in own.seeds]),
    )


def sizes(ctx: Context, case: Case, alpha: float = 0.0) -> dict[str, np.ndarray]:
    """Return the noise [N,T] of all drawn examples, attacked in one way and moved on by alpha, in each norm."""
    return ctx.once(("sizes", case, alpha), lambda: _sizes(ctx, case, alpha))


def _sizes(ctx: Context, case: Case, alpha: float) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {name: [] for name in NORMS.values()}
    for part in attack.parts(ctx, case, "drawn"):
        clean = examples(ctx).x[part.rows].cpu()[:, None]
        made = torch.from_numpy(ctx.arrays(part)["adversarial"])
        delta = (attack.adapted(clean, made, alpha) - clean).flatten(2).double()
        found["L0"].append((delta != 0).sum(2).double().numpy())
        found["L2"].append(torch.linalg.vector_norm(delta, dim=2).numpy())
        found["Linf"].append(torch.linalg.vector_norm(delta, ord=math.inf, dim=2).numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def rows(
    ctx: Context,
    own: Measured,
    group: Group,
    name: str,
    found: Sequence[Candidates],
    norm: float,
    *,
    any_label: bool = False,
    parameter: float | None = None,
) -> Iterator[AttackRow]:
    """Yield one row for each reading. any_label: every label but the true one is a success."""
    truth = examples(ctx).y[: examples(ctx).drawn]
    for reading in READINGS:
        yield summarise(
            untargeted(found, truth, reading) if any_label else targeted(found, reading),
            group=group,
            attack=name,
            norm=norm,
            defence=own.name,
            reading=reading,
            parameter=parameter,
            random=own.random,
        )


def targeted_rows(ctx: Context, own: Measured) -> Iterator[AttackRow]:
    """Yield Table 4."""
    for case in plain(ctx, own.attacked, with_deepfool=False):
        found = [candidates(ctx, own, case)]
        yield from rows(ctx, own, "targeted", case.attack, found, norm_of(case.attack))


def untargeted_rows(ctx: Context, own: Measured) -> Iterator[AttackRow]:
    """Yield Table 5."""
    for case in plain(ctx, own.attacked):
        name = f"U{case.attack[1:]}" if case.targeted else case.attack
        found = [candidates(ctx, own, case)]
        yield from rows(ctx, own, "untargeted", name, found, norm_of(case.attack), any_label=True)


def combined_rows(ctx: Context, own: Measured) -> Iterator[AttackRow]:
    """Yield Table 6."""
    single = {case.attack: case for case in plain(ctx, own.attacked)}
    for combined, members in COMBINED.items():
        cases = [single[f"T-{member}"] for member in members if f"T-{member}" in single]
        if len(cases) < len(members):
            continue
        if combined == "CA-L2":
            cases += [case for case in confident(ctx, own.attacked) if case.confidence]
        found = [candidates(ctx, own, case) for case in cases]
        norm = norm_of(f"T-{members[0]}")
        yield from rows(ctx, own, "combined", f"T-{combined}", found, norm)
        if combined == "CA-L2" and "DeepFool" in single:
            found.append(candidates(ctx, own, single["DeepFool"]))
        yield from rows(ctx, own, "combined", f"U-{combined}", found, norm, any_label=True)


def confidence_rows(ctx: Context, own: Measured, *, any_label: bool) -> Iterator[AttackRow]:
    """Yield Figure 6, or Figure 7 where any label counts."""
    cases, name = confident(ctx, own.attacked), "U-CW-L2" if any_label else "T-CW-L2"
    for case in cases if any(case.confidence for case in cases) else []:
        k, found = case.confidence, [candidates(ctx, own, case)]
        yield from rows(ctx, own, "confidence", name, found, 2, any_label=any_label, parameter=k)


def adapted_cases(ctx: Context) -> list[Case]:
    """Return the attacks that Figure 8 adapts to the vote."""
    own = ctx.config.attacks
    return [Case("point", name) for name in own.adapted if name in own.names]


def adapted_rows(ctx: Context, own: Measured) -> Iterator[AttackRow]:
    """Yield Figure 8."""
    for case in adapted_cases(ctx) if own.attacked == "point" else []:
        for alpha in sorted(set(ctx.config.attacks.alphas)):
            found, norm = [candidates(ctx, own, case, alpha)], norm_of(case.attack)
            yield from rows(ctx, own, "adapted", f"{case.attack}-A", found, norm, parameter=alpha)
