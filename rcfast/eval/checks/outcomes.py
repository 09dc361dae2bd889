"""Do the rates make sense beside each other? Each check compares outcomes [N, ...] bool on the same N examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rcfast.attacks.margins import per_row
from rcfast.attacks.result import Noise
from rcfast.eval.checks.check import Check, Kind, share
from rcfast.eval.statistics import clustered_rate, holm, paired_difference

ALPHA = 0.05
WEAK = 2.0  # times the noise that breaks the network the examples were made for

RISES = Kind(
    "success rises",
    "More confidence, budget or noise gives an attacker more choice: a rate that falls shows that the attack, not the "
    "defence, decides.",
    "Look at what changes where the rate falls: steps, starting points, the bound of the constant.",
)
RANDOM = Kind(
    "better than random noise",
    "If random noise of the same size fools the classifier as often, the attack's search has found nothing.",
    "Check the attack's gradients and steps; report accuracy under noise beside it.",
)
TRANSFER = Kind(
    "attacked itself",
    "Adversarial examples made for another network may miss a defence that a direct attack breaks: transfer alone "
    "flatters it.",
    "Run an attack that knows the defence (for a vote: RegionCW, OptMargin, APGD on the vote).",
)
WEAK_TARGET = Kind(
    "transfer to a weak target",
    "What stops at the boundary of the network it was made for may miss a defence that falls to little more noise: "
    "that the transferred examples fail says where they stop, not what the defence withstands.",
    "Quote the attack on the defence itself (T-RegionCW, CA-V), or transfer with more (attacks.confidences).",
)
BLACK_BOX = Kind(
    "white-box beats black-box",
    "Who sees the gradients knows more than who sees labels; if the latter gets further, the gradients mislead.",
    "Suspect masked gradients: use another loss, more steps, expectation over transformation.",
)
UNSEEN = Kind(
    "judged by unseen votes",
    "The points of a vote follow from its seed and the input, so an attacker who has the seed can search against the "
    "very votes that will be cast.",
    "Judge on seeds that the attack never used, or keep the seed secret (seed=None).",
)


def rises(about: str, values: Sequence[float], success: np.ndarray, *, name: str = "k") -> Check:
    """Fails where success [V, N, ...] falls from one of V rising values of a parameter to a later one.

    Each later value is compared with the best before it, on the same examples; Holm over these comparisons.
    """
    if len(values) < 2 or not success.size:
        return RISES.does_not_apply(about, "one value only")
    rates = success.reshape(len(values), -1).mean(1)
    before = [int(np.argmax(rates[: i + 1])) for i in range(len(values) - 1)]
    pairs = [paired_difference(success[best], success[i + 1]) for i, best in enumerate(before)]
    adjusted = holm([pair.p for pair in pairs])
    falls = [i for i, pair in enumerate(pairs) if pair.value > 0 and adjusted[i] < ALPHA]
    said = ", ".join(f"{rate:.0%} at {name} = {value:g}" for value, rate in zip(values, rates, strict=True))
    if falls:
        worst = max(falls, key=lambda i: pairs[i].value)
        said = (
            f"{rates[before[worst]]:.0%} at {name} = {values[before[worst]]:g} but {rates[worst + 1]:.0%} at "
        )
        said += f"{name} = {values[worst + 1]:g} (p = {adjusted[worst]:.2g})"
    return RISES.decides(not falls, about, said, values=list(values), rates=[float(rate) for rate in rates])


def better_than_random(about: str, adversarial: np.ndarray, random: np.ndarray) -> Check:
    """Fails where random noise fools the classifier as often as adversarial noise of the same size, [N, ...] bool."""
    if not adversarial.size:
        return RANDOM.does_not_apply(about, "no adversarial example")
    pair = paired_difference(adversarial, random)
    rate, other = float(adversarial.mean()), float(random.mean())
    measured = f"adversarial {rate:.1%}, random {other:.1%} (p = {pair.p:.2g})"
    if not rate and not other:
        return RANDOM.does_not_apply(about, measured)
    return RANDOM.decides(rate > other, about, measured, adversarial=rate, random=other, p=pair.p)


def attacked_itself(about: str, transferred: np.ndarray, direct: np.ndarray | None) -> Check:
    """Fails where a defence met transferred examples only, or these succeed more often than its own attack.

    transferred, direct [N, ...] bool: success against the defence; direct is None without an attack of its own, which
    fails even where the transferred ones succeed throughout: a direct attack may need less noise.
    """
    rate = float(transferred.mean()) if transferred.size else 0.0
    if direct is None:
        measured = f"transferred examples only, which succeed on {rate:.1%} of the images"
        return TRANSFER.fails(about, measured, transferred=rate, direct=None)
    pair = paired_difference(transferred, direct)
    own = float(direct.mean())
    measured = f"its own attack {own:.1%}, transferred {rate:.1%} (p = {pair.p:.2g})"
    good = not (pair.value > 0 and pair.p < ALPHA)
    return TRANSFER.decides(good, about, measured, transferred=rate, direct=own, p=pair.p)


def transfers(
    about: str, there: np.ndarray, here: np.ndarray, noise_there: np.ndarray, noise_here: np.ndarray | None
) -> Check:
    """Fails where transferred examples clearly lose success although the defence is weak.

    there, here [N, ...] bool: success of the same examples on the network they were made for, and on the defence;
    noise_there, noise_here [N]: the least noise that breaks each example of that network and, by attacks on itself, of
    the defence, inf for none. Weak is a defence whose median of that is at most twice the network's.
    """
    rates = {"there": float(there.mean()), "here": float(here.mean())} if there.size else {}
    if noise_here is None or not rates.get("there"):
        reason = "nothing succeeds where it was made" if noise_here is not None else "no attack on itself"
        return WEAK_TARGET.does_not_apply(about, reason)
    least, own = float(np.median(noise_there)), float(np.median(noise_here))
    weak = bool(np.isfinite(own) and own <= WEAK * least)
    pair = paired_difference(there, here)
    falls = bool(pair.value > 0 and pair.p < ALPHA)
    measured = f"{rates['there']:.1%} where they were made, {rates['here']:.1%} here (p = {pair.p:.2g}); half of the "
    measured += f"examples take a noise of {least:.3g} there, {own:.3g} here"
    found = {"noise_there": least, "noise_here": own}
    numbers = {name: value if np.isfinite(value) else None for name, value in found.items()}
    return WEAK_TARGET.decides(not (falls and weak), about, measured, **rates, **numbers)


def white_beats_black(about: str, white: np.ndarray, black: np.ndarray | None) -> Check:
    """Fails where attacks that see no gradients break more examples [N] bool than those that do."""
    if black is None or not white.size:
        return BLACK_BOX.does_not_apply(about, "no black-box attack was run")
    extra = int((black & ~white).sum())
    measured = f"white-box {white.mean():.1%}, black-box {black.mean():.1%}, "
    measured += f"{share(extra, len(white))} only by the latter"
    good = black.mean() <= white.mean()
    return BLACK_BOX.decides(
        bool(good), about, measured, white=float(white.mean()), black=float(black.mean()), extra=extra
    )


def judged_by_unseen(about: str, known: np.ndarray, fresh: np.ndarray | None) -> Check:
    """Fails where success was judged by votes that the attacker could search against: known [N, ...] bool only.

    fresh [S, N, ...] bool: the same examples by S seeds that the attack did not use. The gap is printed: it is what a
    known seed is worth to an attacker, and what rates by the known votes would overstate.
    """
    rate = float(known.mean()) if known.size else 0.0
    if fresh is None or not len(fresh):
        return UNSEEN.fails(about, f"judged by the votes the attack was made against: {rate:.1%}", known=rate)
    each = np.moveaxis(fresh, 0, -1).reshape(len(known), -1)
    interval = clustered_rate(each)
    mean = float(fresh.mean())
    measured = f"{rate:.1%} by the known votes, {mean:.1%} ({interval.low:.1%} to {interval.high:.1%}) by "
    measured += f"{len(fresh)} fresh seeds: a gap of {100 * (rate - mean):+.1f} points"
    return UNSEEN.passes(about, measured, known=rate, fresh=mean, gap=rate - mean)


def random_noise(clean: Tensor, like: Tensor, norm: float, *, seed: int = 0) -> Tensor:
    """Clean [N,...] with random noise of the size that `like` [N,...] has in norm 0, 2 or inf, inside [0,1].

    L0: as many coordinates, drawn at random, uniform on [0,1]; L2: a Gaussian direction; Linf: random signs. In L2 and
    Linf the noise is stretched until its size inside [0,1] is the same, as far as the box allows. Each row has random
    numbers of its own.
    """
    size = Noise.between(like, clean).of(norm).double().cpu()
    x = clean.double().cpu()
    dice = [torch.Generator().manual_seed(seed * 1_000_003 + row) for row in range(len(x))]
    if norm == 0:
        points = x.flatten(1).clone()
        for row, generator in enumerate(dice):
            chosen = torch.randperm(points.shape[1], generator=generator)[: int(size[row])]
            points[row, chosen] = torch.rand(len(chosen), generator=generator, dtype=torch.float64)
        return points.reshape(x.shape).to(clean)
    direction = torch.zeros_like(x)
    for row, generator in enumerate(dice):
        direction[row] = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64)
    if norm != 2:
        direction = direction.sign()
    return torch.where(per_row(size > 0, x), _stretched(x, direction, size, norm), x).to(clean)


def _stretched(x: Tensor, direction: Tensor, size: Tensor, norm: float) -> Tensor:
    """clip(x + s·direction) [n,...] with the smallest s that reaches `size` [n], or the end of the box."""
    low, high = torch.zeros_like(size), torch.ones_like(size)

    def point(scale: Tensor) -> Tensor:
        return (x + per_row(scale, x) * direction).clamp(0, 1)

    def reached(scale: Tensor) -> Tensor:
        return Noise.between(point(scale), x).of(norm) >= size

    while bool((~reached(high) & (high < 1e6)).any()):
        high = torch.where(reached(high), high, 2 * high)
    for _ in range(50):
        middle = (low + high) / 2
        enough = reached(middle)
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return point(high)
