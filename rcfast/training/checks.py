"""Errors before any work: what a training run is given."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data import TOLERANCE, Images, Split
from ..running import device_of, evaluating, plain


def check_run(seed: object, checkpoint: str | os.PathLike[str] | None) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if checkpoint is not None and Path(checkpoint).is_dir():
        raise ValueError(f"checkpoint must be a file, got the folder {checkpoint}")


def check_split(
    split: object,
    what: str,
    num_classes: int | None = None,
    shape: torch.Size | None = None,
    *,
    may_be_empty: bool = False,
) -> None:
    """Types, shapes and ranges of a Split; `num_classes` bounds its labels, `shape` is that of an example."""
    if not isinstance(split, Split):
        raise TypeError(f"{what} must be an rcfast.data.Split, got {type(split).__name__}")
    if len(split) == 0 and not may_be_empty:
        raise ValueError(f"{what} must not be empty")
    if split.x.dtype != torch.float32:
        raise TypeError(f"{what}.x must be float32, got {str(split.x.dtype).removeprefix('torch.')}")
    if split.y.dtype != torch.int64:
        raise TypeError(f"{what}.y must be int64, got {str(split.y.dtype).removeprefix('torch.')}")
    if split.x.ndim < 2 or split.y.ndim != 1:
        raise ValueError(
            f"{what} must be x [N,…] and y [N], got {list(split.x.shape)} and {list(split.y.shape)}"
        )
    if shape is not None and split.x.shape[1:] != shape:
        raise ValueError(f"{what}.x must have examples of shape {list(shape)}, got {list(split.x.shape[1:])}")
    if not isinstance(split.x, Images):  # which are 8-bit, and so in range
        _check_range(split.x, what)
    check_labels(split.y, what, num_classes)


def _check_range(x: Tensor, what: str) -> None:
    inside = (x >= -TOLERANCE) & (x <= 1 + TOLERANCE)
    if not inside.all():  # NaN is not inside either
        place = (~inside).nonzero()[0].tolist()
        raise ValueError(f"{what}.x must lie in [0, 1], got {float(x[tuple(place)]):g} at {place}")


def check_labels(y: Tensor, what: str, num_classes: int | None = None) -> None:
    """Labels y [N] lie in 0 … num_classes − 1. Raises ValueError."""
    wrong = (y < 0) | (y >= (num_classes if num_classes is not None else torch.inf))
    if wrong.any():
        at = int(wrong.nonzero()[0])
        bound = "be 0 or more" if num_classes is None else f"lie in [0, {num_classes - 1}]"
        raise ValueError(f"{what}.y: labels must {bound}, got {int(y[at])} at index {at}")


def check_model(model: object, data: Split) -> int:
    """The number of classes L of a trainable model that maps these examples to logits [N,L]."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("model has no parameter to train")
    sample = data.x[:2].to(device_of(model), copy=True)
    with evaluating(model):
        logits = plain(model)(sample)
    if not logits.isfinite().all():
        raise ValueError(f"model must return finite floating-point logits, got {logits[0].tolist()}")
    return logits.shape[1]
