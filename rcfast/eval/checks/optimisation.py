"""Did the attack work as an optimiser? Pintor et al., Indicators of attack failure (2022), on recorded numbers."""

from __future__ import annotations

import numpy as np

from rcfast.eval.checks.check import Check, Kind, share
from rcfast.eval.checks.trace import Trace
from rcfast.eval.statistics import paired_difference

ZERO = 0.05  # share of useless gradients from which an attack is blind too often
SLACK = 0.05  # by how much more noise than the best point on its path an attack may hand out
END = 0.1  # the last part of the passes
MOVING = 0.01  # of the way made so far, still made in that part
FLIPS = 0.1  # share of labels that may differ from one pass to the next

GRADIENTS = Kind(
    "gradients",
    "An attack that follows a gradient of zero or NaN stands still: that it fails says nothing about the defence.",
    "Attack a differentiable stand-in for what hides the gradient (BPDA), another loss, or without gradients.",
)
SILENT = Kind(
    "silent success",
    "The attack passed a point that was better than the one it returned, so that its rate is too low or its noise too "
    "large.",
    "Return the best point on the path, judged as the evaluation judges.",
)
MOVING_LOSS = Kind(
    "loss at the end of the budget",
    "Where the loss still falls when the budget ends, the attack failed for lack of steps, not against the defence.",
    "Give it more iterations, or larger steps.",
)
BUDGET = Kind(
    "twice the budget",
    "Where twice the iterations find more or closer adversarial examples, the rates and noises shown depend on the "
    "budget.",
    "Raise the iterations until doubling them changes nothing.",
)
UNSTABLE = Kind(
    "stable predictions",
    "Where the same input gets another label in the next pass, a search follows noise and a single judgement of its "
    "result is luck.",
    "Average gradients over draws (expectation over transformation) and judge on several seeds.",
)
UNBOUNDED = Kind(
    "unbounded attacks",
    "Without a bound on the noise every classifier can be fooled; an attack that cannot is broken or blind.",
    "Look at the failures one by one: gradients, loss, number of steps; try another attack.",
)


def gradients(about: str, trace: Trace) -> Check:
    """Fails where too many gradients, taken at points that were no success yet, are zero or not finite.

    Or where all of some example's are.
    """
    lost, of = trace.needed, trace.back[trace.needed]
    if not lost.any():
        return GRADIENTS.does_not_apply(about, "no gradient was taken before a success")
    useless = ~(trace.gradients[lost] > 0)
    blind = int(sum(useless[of == index].all() for index in np.unique(of)))
    rate = float(useless.mean())
    measured = f"{rate:.1%} of {len(useless):,} gradients are zero or not finite"
    measured += f", all of them in {share(blind, len(np.unique(of)))} examples" if blind else ""
    return GRADIENTS.decides(rate <= ZERO and not blind, about, measured, share=rate, blind=blind)


def silent_success(about: str, trace: Trace) -> Check:
    """Fails where an example returned as failed had a success on its path, or one with clearly less noise.

    One in twenty examples may be returned with up to 5% more noise than the best, for searches judge in batches.
    """
    if not len(trace):
        return SILENT.does_not_apply(about, "no example was attacked")
    forgotten = int((np.isinf(trace.returned) & np.isfinite(trace.best)).sum())
    kept = np.isfinite(trace.returned) & (trace.returned > 0)
    excess = trace.returned[kept] / np.maximum(trace.best[kept], 1e-12) - 1
    worse = int((excess > SLACK).sum())
    measured = f"{share(forgotten, len(trace))} examples failed with a success on their path, "
    measured += (
        f"{share(worse, len(trace))} were returned with over {SLACK:.0%} more noise than the best point there"
    )
    good = not forgotten and worse <= 0.05 * len(trace)
    return SILENT.decides(good, about, measured, forgotten=forgotten, worse=worse, n=len(trace))


def still_moving(about: str, trace: Trace) -> Check:
    """Fails where, in more than one failed example of twenty, the best margin rises in the last tenth of its passes.

    A rise counts that is more than 1% of the whole way from the first margin.
    """
    failed = np.flatnonzero(np.isinf(trace.returned))
    if not len(failed):
        return MOVING_LOSS.does_not_apply(about, f"all {len(trace)} examples succeeded")
    moving = sum(_rises_at_the_end(trace.margin[trace.row == index]) for index in failed)
    measured = (
        f"{share(moving, len(failed))} failed examples still gained margin in the last tenth of their passes"
    )
    return MOVING_LOSS.decides(moving <= 0.05 * len(failed), about, measured, moving=moving, n=len(failed))


def _rises_at_the_end(margins: np.ndarray) -> bool:
    if len(margins) < 2:
        return False
    best = np.maximum.accumulate(margins)
    late = best[-1] - best[int(len(best) * (1 - END)) - 1]
    return bool(late > MOVING * (best[-1] - best[0]))


def budget(about: str, once: np.ndarray, twice: np.ndarray) -> Check:
    """Fails where the noise [N, ...] with twice the iterations is clearly better than with the budget; inf is failure.

    Clearly: more successes, by more than one in twenty and by the paired test, or a median noise of the common
    successes that falls by more than 5%.
    """
    won, won_twice = np.isfinite(once), np.isfinite(twice)
    gain = paired_difference(won_twice, won)
    both = won & won_twice & (once > 0)
    ratio = float(np.median(twice[both] / once[both])) if both.any() else 1.0
    measured = (
        f"success {won.mean():.0%} with the budget and {won_twice.mean():.0%} with twice the iterations"
    )
    measured += f"; median noise of the common successes {ratio - 1:+.1%}" if both.any() else ""
    good = not (gain.value > 0.05 and (gain.p < 0.05 or not won.any())) and ratio > 1 - SLACK
    return BUDGET.decides(
        good, about, measured, once=float(won.mean()), twice=float(won_twice.mean()), noise_ratio=ratio
    )


def stable_predictions(about: str, said: np.ndarray) -> Check:
    """Fails where two of P passes or seeds differ on more than a tenth of the labels said [P, N], in the mean."""
    if said.shape[0] < 2 or not said.size:
        return UNSTABLE.does_not_apply(about, "labelled once only")
    passes = said.shape[0]
    pairs = [(said[i] != said[j]).mean() for i in range(passes) for j in range(i)]
    rate, ever = float(np.mean(pairs)), int((said != said[0]).any(0).sum())
    measured = f"two of {passes} passes differ on {rate:.1%} of the labels; "
    measured += f"{share(ever, said.shape[1])} inputs ever change"
    return UNSTABLE.decides(rate <= FLIPS, about, measured, disagreement=rate, changed=ever)


def unbounded(about: str, broken: np.ndarray) -> Check:
    """Fails where some example was broken by no attack without a bound: broken [A, N] bool, one row an attack."""
    if not broken.size:
        return UNBOUNDED.does_not_apply(about, "no attack without a bound")
    n, whole = broken.shape[1], int(broken.any(0).sum())
    best = int(broken.sum(1).max())
    measured = f"{share(whole, n)} examples are broken by some attack, {share(best, n)} by the best one"
    return UNBOUNDED.decides(whole == n, about, measured, broken=whole, n=n)
