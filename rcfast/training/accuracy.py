"""Accuracy of anything that maps a batch of inputs to scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..data import Split
from ..running import device_of, evaluating, labels_of, plain, warn_of_randomness
from .checks import check_labels, check_split


@dataclass(frozen=True)
class Accuracy:
    """`correct` of `n` examples; float(accuracy) is the share."""

    correct: int
    n: int

    def __float__(self) -> float:
        return self.correct / self.n if self.n else float("nan")

    def __str__(self) -> str:
        return f"{float(self):.2%} ({self.correct} of {self.n})"


def evaluate(model: Callable[[Tensor], Any], split: Split, batch_size: int = 500) -> Accuracy:
    """Count the examples of `split` whose largest score, `model(x).argmax(1)`, is at their label.

    model: module or callable from [B,…] to [B,L]; runs in evaluation mode without gradients, in its own
        precision, on copies of the examples, and its mode is left as found. Batches are moved to its device.

    Raises TypeError or ValueError for what is no model, a split whose examples are not float32 in [0,1] with
    labels int64 [N] from 0 to L−1, batch_size < 1, or an output that is not [B,L] or holds NaN.
    """
    if not callable(model):
        raise TypeError(f"model must be a module or a callable, got {type(model).__name__}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise TypeError(f"batch_size must be an integer, got {batch_size!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    check_split(split, "split", may_be_empty=True)
    run, correct = plain(model), 0
    if not len(split):
        return Accuracy(0, 0)
    device = device_of(model) or split.x.device
    needs = run.needs(split.x[:1].to(device))
    warn_of_randomness(needs, "its accuracy")
    check_labels(split.y, "split", needs.labels)
    with evaluating(model):
        for x, y in zip(split.x.split(batch_size), split.y.split(batch_size), strict=True):
            scores = run(x.to(device, copy=True))
            correct += int((labels_of(scores) == y.to(scores.device)).sum())
    return Accuracy(correct, len(split))
