"""Accuracy of anything that maps a batch of inputs to scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data import Split


@dataclass(frozen=True)
class Accuracy:
    """`correct` of `n` examples; float(accuracy) is the share."""

    correct: int
    n: int

    def __float__(self) -> float:
        return self.correct / self.n if self.n else float("nan")

    def __str__(self) -> str:
        return f"{float(self):.2%} ({self.correct} of {self.n})"


@contextmanager
def mode(model: Callable[[Tensor], Tensor], training: bool) -> Iterator[None]:
    """Training or evaluation mode; afterwards every submodule has the mode it had."""
    before = {m: m.training for m in model.modules()} if isinstance(model, nn.Module) else {}
    if isinstance(model, nn.Module):
        model.train(training)
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was


def device_of(model: Callable[[Tensor], Tensor]) -> torch.device | None:
    """Where a module's parameters (else buffers) are; None for a callable or a module without any."""
    if not isinstance(model, nn.Module):
        return None
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), None)


def evaluate(model: Callable[[Tensor], Tensor], split: Split, batch_size: int = 500) -> Accuracy:
    """Count the examples of `split` whose largest score, `model(x).argmax(1)`, is at their label.

    model: module or callable from [B,…] to [B,L]; runs in evaluation and inference mode, in its own
        precision, and its mode is left as found. Batches are moved to its device.

    Raises ValueError for batch_size < 1 or an output that is not [B,L].
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    device, correct = device_of(model), 0
    with mode(model, training=False), torch.inference_mode():
        for x, y in zip(split.x.split(batch_size), split.y.split(batch_size), strict=True):
            scores = model(x if device is None else x.to(device))
            if scores.ndim != 2 or len(scores) != len(x):
                raise ValueError(f"model must return [{len(x)}, L], got {list(scores.shape)}")
            correct += int((scores.argmax(1) == y.to(scores.device)).sum())
    return Accuracy(correct, len(split))
