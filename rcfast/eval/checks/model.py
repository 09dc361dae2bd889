"""Can the classifier be evaluated as it stands? The flags of AutoAttack (Croce and Hein, 2020) and their like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rcfast.eval.checks.check import Check, Kind, share
from rcfast.eval.checks.optimisation import GRADIENTS, stable_predictions
from rcfast.running import Model

PASSES = 5
FEWEST_LABELS = 4

OUTPUTS = Kind(
    "outputs are logits",
    "Probabilities saturate: differences between labels vanish in rounding, and with them the gradients of an attack.",
    "Hand out what goes into the softmax.",
)
INFERENCE = Kind(
    "no optimisation at inference",
    "A classifier that takes gradients while it labels adapts to its input; attacks on a frozen model do not fit it.",
    "Attack the adaptation too: differentiate through it, or give the attack the same number of steps.",
)
LABELS = Kind(
    "enough labels",
    "Losses that compare the third largest logit, and targeted variants, need four labels.",
    "Use attacks on the cross-entropy or the margin only.",
)


@dataclass(frozen=True)
class Examined:
    """What was seen of a model on N inputs: labels [P, N] of P passes of the same inputs, and of its logits [N, L]
    their extremes; zero: examples whose gradient of the cross-entropy is zero or not finite (None without gradients);
    optimises: it took gradients while it labelled."""

    said: np.ndarray
    labels: int
    probabilities: bool
    zero: int | None
    optimises: bool

    @property
    def n(self) -> int:
        return int(self.said.shape[1])


def examine(model: Model, x: Tensor, y: Tensor, *, passes: int = PASSES) -> Examined:
    """Look at a model on x [N,...] in [0,1] with true labels y [N] int64: `passes` forward passes and one backward."""
    with torch.no_grad(), _gradients_taken() as taken:
        logits = [model(x).detach() for _ in range(passes)]
    first = logits[0].double()
    sums = (first.sum(1) - 1).abs()
    return Examined(
        said=torch.stack([part.argmax(1) for part in logits]).cpu().numpy(),
        labels=first.shape[1],
        probabilities=bool((first >= 0).all() and (sums < 1e-4).all()),
        zero=_zero_gradients(model, x, y),
        optimises=bool(taken),
    )


def _zero_gradients(model: Model, x: Tensor, y: Tensor) -> int | None:
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_(True)
        logits = model(leaf)
        if not logits.requires_grad:
            return None
        # In float64, or a sure classifier's gradient is zero by rounding of the softmax alone.
        (gradient,) = torch.autograd.grad(cross_entropy(logits.double(), y, reduction="sum"), leaf)
    sizes = gradient.flatten(1).abs().sum(1)
    return int((~(sizes > 0) | ~sizes.isfinite()).sum())


@contextmanager
def _gradients_taken() -> Iterator[list[str]]:
    """Notes each call of autograd meanwhile."""
    taken: list[str] = []

    def noting(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            taken.append(name)
            return real(*arguments, **named)

        return call

    with (
        mock.patch("torch.autograd.grad", noting("grad", torch.autograd.grad)),
        mock.patch("torch.autograd.backward", noting("backward", torch.autograd.backward)),
    ):
        yield taken


def flags(about: str, seen: Examined) -> list[Check]:
    """The checks of one model: stable labels, logits, gradients, no optimisation, enough labels."""
    return [
        stable_predictions(about, seen.said),
        OUTPUTS.decides(
            not seen.probabilities,
            about,
            "outputs sum to one" if seen.probabilities else "logits, not probabilities",
        ),
        _clean_gradients(about, seen),
        INFERENCE.decides(
            not seen.optimises,
            about,
            "takes gradients while it labels" if seen.optimises else "takes no gradients",
        ),
        LABELS.decides(seen.labels >= FEWEST_LABELS, about, f"{seen.labels} labels", labels=seen.labels),
    ]


def _clean_gradients(about: str, seen: Examined) -> Check:
    if seen.zero is None:
        return GRADIENTS.fails(about, "the outputs carry no gradient in the input")
    measured = f"{share(seen.zero, seen.n)} benign examples have a gradient of zero or none"
    return GRADIENTS.decides(not seen.zero, about, measured, zero=seen.zero, n=seen.n)
