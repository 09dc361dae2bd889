"""From finished units to checks: which question is put to which network, attack and defence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rcfast.attacks import External
from rcfast.eval import checks
from rcfast.eval.checks import Check
from rcfast.eval.outputs import envelope
from rcfast.eval.outputs.attack_rows import candidates, confident, plain
from rcfast.eval.outputs.outcomes import Attempt, attempts
from rcfast.eval.outputs.records import label
from rcfast.eval.outputs.worst import all_labels
from rcfast.eval.run import attack
from rcfast.eval.run.attack import Case, norm_of
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured
from rcfast.eval.run.diagnosis import ExaminedNetwork, TracedAttack, has_iterations, noisy, observed, trace_of
from rcfast.eval.run.examples import examples
from rcfast.eval.run.judges import judges, networks
from rcfast.eval.run.protocol import NORMS, Candidates
from rcfast.eval.run.unit import Unit


def looked_at(ctx: Context, case: Case) -> Iterator[Unit]:
    """Yield the units in which an attack was observed: as it is and, where it has iterations, with twice as many."""
    yield observed(ctx, case)
    if has_iterations(ctx, case):
        yield TracedAttack(case, 2)


def made(ctx: Context) -> Iterator[Check]:
    """Yield all checks of a run: of the networks, of the attacks on them, of the defences."""
    for network in networks(ctx):
        yield from checks.flags(label(network), ExaminedNetwork(network).result(ctx))
        yield _unbounded(ctx, network)
        if ctx.config.checks.examples:
            for case in plain(ctx, network):
                yield from _observed(ctx, case)
    for own in judges(ctx):
        yield from _confidence(ctx, own)
        if ctx.config.checks.examples:
            yield from (_random(ctx, own, case) for case in plain(ctx, own.attacked))
        yield from _judged(ctx, own)


def _unbounded(ctx: Context, network: str) -> Check:
    """Whether each example is broken by some attack on the network itself."""
    broken = [
        np.concatenate([ctx.arrays(part)["success"].any(1) for part in attack.parts(ctx, case, "drawn")])
        for case in plain(ctx, network)
    ]
    empty = np.zeros((0, examples(ctx).drawn), bool)
    return checks.unbounded(label(network), np.stack(broken) if broken else empty)


def _observed(ctx: Context, case: Case) -> Iterator[Check]:
    about, found = f"{case.attack} on {label(case.network)}", trace_of(ctx, case)
    yield checks.gradients(about, found)
    yield checks.silent_success(about, found)
    yield checks.still_moving(about, found)
    if len(found) and has_iterations(ctx, case):
        yield checks.budget(about, found.returned, TracedAttack(case, 2).result(ctx).returned)


def _confidence(ctx: Context, own: Measured) -> Iterator[Check]:
    """Whether success rises with k, by the first vote seed."""
    cases = confident(ctx, own.attacked)
    if len(cases) > 1:
        success = [_targeted(candidates(ctx, own, case)) for case in cases]
        about = f"T-CW-L2 against {label(own.name)}"
        yield checks.rises(about, [case.confidence for case in cases], np.stack(success))


def _targeted(found: Candidates) -> np.ndarray:
    """Which targets [N,T] are reached, by the first vote seed."""
    return np.asarray(found.success & (found.said[0] == found.targets))


def _random(ctx: Context, own: Measured, case: Case) -> Check:
    """Adversarial noise beside random noise of its size: any wrong label counts, by the first vote seed."""
    unit, found = noisy(ctx, own, case), candidates(ctx, own, case)
    rows, truth = slice(0, unit.stop), examples(ctx).y[: unit.stop, None]
    said, there = ctx.arrays(unit)["said"].reshape(found.success[rows].shape), found.success[rows]
    about = f"{case.attack} against {label(own.name)}"
    return checks.better_than_random(about, there & (found.said[0, rows] != truth), there & (said != truth))


def _judged(ctx: Context, own: Measured) -> Iterator[Check]:
    """What a defence says again and again, and by whom it was attacked."""
    about = label(own.name)
    found = [candidates(ctx, own, case) for case in plain(ctx, own.attacked)]
    if not found:
        return
    chosen = np.stack(
        [_chosen(one, examples(ctx).y[: examples(ctx).drawn]) for one in found], axis=2
    )  # [S,N,A]
    if own.random:
        said = np.concatenate([one.said.reshape(len(own.seeds), -1) for one in found], axis=1)
        yield checks.stable_predictions(about, said)
        yield checks.judged_by_unseen(about, chosen[0], chosen[1:])
    made = [attempt for attempt in attempts(ctx, all_labels(ctx)) if attempt[0].name == own.name]
    if own.attacked != own.name:
        direct = [attempt for attempt in made if attempt[1][0].case.network == own.name]
        transferred = [attempt for attempt in made if attempt not in direct]
        broken = _broken(ctx, own, direct) if direct else None
        yield checks.attacked_itself(about, _broken(ctx, own, transferred), broken)
        yield from _transfers(ctx, own, direct)
    black = [attempt for attempt in made if _black_box(ctx, attempt[1][0].case)]
    white = [attempt for attempt in made if attempt not in black]
    by_white, by_black = (_fooled(ctx, own, some) if some else None for some in (white, black))
    yield checks.white_beats_black(about, chosen[0].any(1) if by_white is None else by_white, by_black)


def _transfers(ctx: Context, own: Measured, direct: Sequence[Attempt]) -> Iterator[Check]:
    """What becomes of the best transferred examples in each norm, by the votes that attackers see."""
    network = next((judge for judge in judges(ctx) if judge.name == own.attacked), None)
    there = [a for a in attempts(ctx, all_labels(ctx)) if network and a[0].name == network.name]
    for norm, name in NORMS.items():
        cases = [case for case in plain(ctx, own.attacked) if norm_of(case.attack) == norm]
        cases += confident(ctx, own.attacked) if norm == 2 else []
        aimed = [case for case in cases if case.targeted] or cases
        if not (aimed and network and there):
            continue
        found = [candidates(ctx, own, case) for case in dict.fromkeys(aimed)]
        truth = examples(ctx).y[: examples(ctx).drawn, None]
        here = [
            one.success & (one.said[0] == one.targets if aimed[0].targeted else one.said[0] != truth)
            for one in found
        ]
        yield checks.transfers(
            f"{name} attacks against {label(own.name)}",
            np.any([one.success for one in found], axis=0),
            np.any(here, axis=0),
            _least(ctx, network, there, name),
            _least(ctx, own, direct, name) if direct else None,
        )


def _least(ctx: Context, own: Measured, made: Sequence[Attempt], norm: str) -> np.ndarray:
    """The least noise [N] of some attacks that breaks each example, by the votes that attackers see; inf for none."""
    found = envelope.tried(ctx, own, made)
    return envelope.least(found.noise[norm], found.wrong[0])


def _black_box(ctx: Context, case: Case) -> bool:
    """Whether an attack is shown no gradient: one of another library that sees votes alone."""
    if case.attack not in ctx.config.attacks.vote or ":" not in case.attack:
        return False  # ours, or one of which the run knows the examples alone
    made = attack.make(ctx.config, case)
    return isinstance(made, External) and not made.points


def _broken(ctx: Context, own: Measured, made: Sequence[Attempt]) -> np.ndarray:
    """Whether the best of some attacks breaks each example, by the votes that judge: bool [N,J]."""
    return envelope.broken(envelope.tried(ctx, own, made), "L2", np.array([np.inf]))[..., 0]


def _fooled(ctx: Context, own: Measured, made: Sequence[Attempt]) -> np.ndarray:
    """Whether some attack of these breaks each example, by the votes that attackers see: bool [N]."""
    return np.asarray(envelope.tried(ctx, own, made).wrong[0].any(1))


def _chosen(found: Candidates, truth: np.ndarray) -> np.ndarray:
    """Success [S,N] (any wrong label) by every vote seed of the least noisy candidate that the first seed accepts."""
    wins = found.success & (found.said != truth[None, :, None])
    pick = np.where(wins[0], found.noise, np.inf).argmin(1)
    return np.asarray(np.take_along_axis(wins, pick[None, :, None], 2)[..., 0] & wins[0].any(1))
