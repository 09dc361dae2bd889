"""From attacks on the vote to rows: what each achieves against votes that it has never seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rcfast.eval.outputs import attack_rows, transfer
from rcfast.eval.outputs.attack_rows import sizes
from rcfast.eval.results import VoteAttackRow
from rcfast.eval.run import vote_attack
from rcfast.eval.run.attack import Adversarial, Case, norm_of
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured
from rcfast.eval.run.diagnosis import NoisyLabels
from rcfast.eval.run.examples import examples
from rcfast.eval.run.judges import judges
from rcfast.eval.run.protocol import NORMS
from rcfast.eval.run.vote_attack import JudgedExamples
from rcfast.eval.statistics import clustered_mean, clustered_rate, clustered_rates, steps

POINTS = 60  # of a curve at most


@dataclass(frozen=True)
class Judged:
    """Adversarial examples of N examples with T items each, by S judges.

    success, rounded [S,N,T] bool; own [N,T] bool, by the votes that the attacker knows; noise, share [N,T].
    """

    success: np.ndarray
    rounded: np.ndarray
    own: np.ndarray
    noise: np.ndarray
    share: np.ndarray

    @property
    def holds(self) -> np.ndarray:
        """Where most judges see a success: [N,T] bool."""
        return np.asarray(2 * self.success.sum(0) > len(self.success))


def judged(ctx: Context, made: tuple[Adversarial, ...]) -> Judged:
    """Return what unseen votes say of all drawn examples, attacked in one way."""
    found = [ctx.arrays(JudgedExamples(part)) for part in made]
    return Judged(
        **{name: np.concatenate([one[name] for one in found], axis=1) for name in ("success", "rounded")},
        **{name: np.concatenate([one[name] for one in found]) for name in ("own", "share")},
        noise=sizes(ctx, made)[NORMS[made[0].norm]],
    )


def best(of: Sequence[Judged]) -> Judged:
    """Return what an attacker with several hands in: the least noisy that the known votes take, else the first."""
    cost = np.stack([np.where(one.own, one.noise, np.inf) for one in of])
    pick = cost.argmin(0)[None]

    def chosen(name: str) -> np.ndarray:
        every = np.stack([getattr(one, name) for one in of], axis=-3)  # [...,K,N,T]
        index = np.broadcast_to(pick, (*every.shape[:-3], 1, *pick.shape[1:]))
        return np.take_along_axis(every, index, axis=-3)[..., 0, :, :]

    return Judged(**{name: chosen(name) for name in ("success", "rounded", "own", "noise", "share")})


def rows(ctx: Context) -> Iterator[VoteAttackRow]:
    """Yield, norm by norm, the best transfer, each attack on the vote, the best of all, random noise of the size of the
    first attack's, and the same attacks on the networks."""
    for norm, name in NORMS.items():
        on_vote = vote_attack.names(ctx, norm)
        if not on_vote:
            continue
        transferred = transfer.parts(ctx, norm)
        targeted: list[Judged] = []
        if transferred:
            targeted.append(judged(ctx, transferred))
            yield _row(ctx, "transfer", transferred[0].case.attack, norm, targeted[0])
        for attack in on_vote:
            made = tuple(vote_attack.parts(ctx, attack))
            found = judged(ctx, made)
            aimed = made[0].case.targeted
            yield _row(ctx, "adaptive", attack, norm, found, targeted=aimed, queries=_queries(ctx, made))
            if aimed:
                targeted.append(found)
        if len(targeted) > 1:
            yield _row(ctx, "best", f"T-CA-{name}-V", norm, best(targeted))
        yield _random(ctx, on_vote[0], norm)
        for own in judges(ctx):
            if own.name != vote_attack.DEFENCE:
                yield from (_on_network(ctx, case) for case in attack_rows.on_itself(ctx, own, norm))


def _queries(ctx: Context, made: tuple[Adversarial, ...]) -> float:
    return float(np.concatenate([ctx.arrays(part)["queries"] for part in made]).mean())


def _row(
    ctx: Context,
    kind: str,
    attack: str,
    norm: float,
    own: Judged,
    *,
    targeted: bool = True,
    queries: float | None = None,
) -> VoteAttackRow:
    holds, each = own.holds, np.moveaxis(own.success, 0, -1)  # [N,T,S]
    network = _least_on_network(ctx, norm) if targeted else np.full(holds.shape, np.inf)
    both = holds & np.isfinite(network) & (network > 0)
    interval = clustered_rate(each)
    return {
        **_common(kind, attack, norm, vote_attack.DEFENCE, own.noise, holds),
        "rate": float(each.mean()),
        "interval": [interval.low, interval.high],
        "per_seed": own.success.sum((1, 2)).tolist(),
        "rounded": float(own.rounded.mean()),
        "own_seed": float(own.own.mean()),
        "ratio": float(own.noise[both].mean() / network[both].mean()) if both.any() else None,
        "share": float(np.median(own.share[holds])) if holds.any() else None,
        "share_low": float(own.share[holds].min()) if holds.any() else None,
        "queries": queries,
        "curve": curve(own.noise, own.success),
    }


def _common(
    kind: str, attack: str, norm: float, defence: str, noise: np.ndarray, holds: np.ndarray
) -> VoteAttackRow:
    mean = clustered_mean(noise, holds)
    return {  # type: ignore[typeddict-item]
        "kind": kind,
        "attack": attack,
        "norm": NORMS[norm],
        "defence": defence,
        "n": int(holds.size),
        "examples": len(holds),
        "noise_mean": mean.mean,
        "noise_se": mean.se,
        "noise_n": int(holds.sum()),
        "rounded": None,
        "own_seed": None,
        "per_seed": [],
        "ratio": None,
        "share": None,
        "share_low": None,
        "queries": None,
        "curve": None,
    }


def _least_on_network(ctx: Context, norm: float) -> np.ndarray:
    """The least noise [N,T] with which an attack has made the undefended network say the target, inf where none has."""
    cases = [case for case, alpha in transfer.tried(ctx, norm) if not alpha and not case.confidence]
    cases += [
        case
        for own in judges(ctx)
        if own.name == "point"
        for case in attack_rows.on_itself(ctx, own, norm)
        if case.targeted
    ]
    shape = examples(ctx).targets[: examples(ctx).drawn].shape
    least = np.full(shape, np.inf)
    for case in cases:
        least = np.minimum(least, _noise_of(ctx, case))
    return least


def _noise_of(ctx: Context, case: Case) -> np.ndarray:
    """The noise [N,T] of an attack on a network, inf where it failed."""
    made = attack_rows.blocks_of(ctx, case)
    success = np.concatenate([ctx.arrays(part)["success"] for part in made])
    found: np.ndarray = np.where(success, sizes(ctx, made)[NORMS[made[0].norm]], np.inf)
    return found


def _on_network(ctx: Context, case: Case) -> VoteAttackRow:
    """The same attack on a network, where nothing is drawn and the network's own label is the judge."""
    noise = _noise_of(ctx, case)
    success = np.isfinite(noise)
    interval = clustered_rate(success)
    least = [_noise_of(ctx, other) for other in _same_norm(ctx, case.network, norm_of(case.attack))]
    known = np.min(least, axis=0) if least and case.targeted else np.full(noise.shape, np.inf)
    both = success & np.isfinite(known) & (known > 0)
    row = _common(
        "network", case.attack, norm_of(case.attack), case.network, np.where(success, noise, 0), success
    )
    row["rate"], row["interval"] = float(success.mean()), [interval.low, interval.high]
    row["ratio"] = float(noise[both].mean() / known[both].mean()) if both.any() else None
    return row


def _same_norm(ctx: Context, network: str, norm: float) -> list[Case]:
    """The targeted attacks of the paper on a network, in one norm."""
    return [
        case for case in attack_rows.plain(ctx, network) if case.targeted and norm_of(case.attack) == norm
    ]


def beside(ctx: Context, own: Measured, norm: float) -> Iterator[Adversarial]:
    """Yield what stands beside the attacks on a network that know votes: the paper's, in one norm."""
    for network in dict.fromkeys(case.network for case in attack_rows.on_itself(ctx, own, norm)):
        for case in _same_norm(ctx, network, norm):
            yield from attack_rows.blocks_of(ctx, case)


def _random(ctx: Context, attack: str, norm: float) -> VoteAttackRow:
    """Random noise of the size of an attack's examples, by the votes of the first seed; any wrong label counts."""
    made = tuple(vote_attack.parts(ctx, attack))
    noise, truth = sizes(ctx, made)[NORMS[norm]], examples(ctx).y[: examples(ctx).drawn, None]
    said = np.concatenate([ctx.arrays(unit)["said"] for unit in noisy(ctx, attack)])
    wrong = said.reshape(noise.shape) != truth
    interval = clustered_rate(wrong)
    row = _common("random", attack, norm, vote_attack.DEFENCE, noise, wrong)
    row["rate"], row["interval"] = float(wrong.mean()), [interval.low, interval.high]
    row["curve"] = curve(noise, wrong[None])
    return row


def noisy(ctx: Context, attack: str) -> Iterator[NoisyLabels]:
    """Yield what the vote says of random noise of the size of an attack's."""
    for part in vote_attack.parts(ctx, attack):
        yield NoisyLabels(vote_attack.DEFENCE, ctx.config.vote.seeds[0], part, part.stop)


def curve(noise: np.ndarray, success: np.ndarray) -> dict[str, list[float]]:
    """Return the share of successes with noise of at most `at`: noise [N,T], success [S,N,T] bool."""
    at = np.unique(np.concatenate([[0.0], steps(np.where(success.any(0), noise, np.inf), most=POINTS)]))
    within = np.moveaxis(success, 0, -1)[..., None] & (noise[..., None, None] <= at)  # [N,T,S,G]
    within = within.reshape(len(noise), -1, len(at))
    low, high = clustered_rates(within)
    rate = within.mean((0, 1))
    return {"at": at.tolist(), "rate": rate.tolist(), "low": low.tolist(), "high": high.tolist()}
