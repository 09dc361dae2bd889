"""What an attack is given: the model, what answers inside it, and checks that end a mistake before any work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rcfast.classifier import RegionClassifier
from rcfast.hardware import full_float32
from rcfast.running import Model, device_of, evaluating, in_training, plain

TOLERANCE = 1e-6  # inputs may leave [0,1] by this much: image pipelines round


def network_of(model: Model) -> Model:
    """What answers for one point: the network of a vote, any other model itself."""
    return model.model if isinstance(model, RegionClassifier) else model


@contextmanager
def attacking(model: Model) -> Iterator[None]:
    """What is attacked in evaluation mode, in full float32. A vote does not hold the modules behind a callable: its
    network is put into that mode by itself."""
    with evaluating(model), evaluating(network_of(model)), full_float32():
        yield


def runnable(model: Model) -> Model:
    """The model as a function from inputs to logits, whatever it needs; a vote sees to that itself."""
    return model if isinstance(model, RegionClassifier) else plain(model)


def asked(model: Model, x: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Logits [N,L] of x [N,...], or what its vote gave the labels, and the forward passes behind them [N] int64."""
    said, spent = [], []
    for part in x.split(limit):
        if isinstance(model, RegionClassifier):
            votes = model.vote(part)  # whose weights need not sum to the number of points
            said.append(votes.counts.to(torch.float32))
            spent.append(votes.samples.to(x.device))
        else:
            said.append(model(part))
            spent.append(torch.ones(len(part), dtype=torch.int64, device=x.device))
    return torch.cat(said), torch.cat(spent)


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def check_inputs(model: Model, x: Tensor, labels: Tensor, *, batch: int | None) -> None:
    """Raises TypeError or ValueError for everything that can be seen without running the model."""
    if not callable(model):
        raise TypeError(f"model must be a module or callable from inputs to logits, got {_kind(model)}")
    if in_training(network_of(model)):
        raise ValueError("model must be in eval mode: call model.eval() first, dropout would blur the attack")
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x must be a float32 or float64 tensor, got {_kind(x)}")
    if x.dim() < 2 or (len(x) > 0 and not x[0].numel()):
        raise ValueError(f"x must have shape [N, ...] with at least one coordinate, got {tuple(x.shape)}")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise TypeError(f"labels must be an int64 tensor, got {_kind(labels)}")
    if labels.shape != x.shape[:1]:
        raise ValueError(f"labels must have shape [{len(x)}], one for each x, got {tuple(labels.shape)}")
    if labels.device != x.device:
        raise ValueError(f"labels must be on the device of x, {x.device}, got {labels.device}")
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ValueError(f"batch must be a positive integer or None, got {batch!r}")
    if isinstance(model, RegionClassifier) and isinstance(model.region.size, Tensor):
        name, shape = model.region.SIZE, list(model.region.size.shape)
        raise ValueError(
            f"{name} of the attacked vote must be one number for all examples, got a tensor {shape}"
        )
    device = device_of(model)
    if device is not None and device != x.device:
        raise ValueError(f"x must be on the device of the model, {device}, got {x.device}")
    if len(x):
        _check_range(x)


def _check_range(x: Tensor) -> None:
    outside = ~((x >= -TOLERANCE) & (x <= 1 + TOLERANCE))
    if outside.any():
        at = tuple(outside.nonzero()[0].tolist())
        value = float(x[at])
        if value != value:
            raise ValueError(f"x must not contain NaN, got NaN at index {list(at)}")
        raise ValueError(f"x must lie in [0, 1], got {value:.9g} at index {list(at)}")


def check_label_range(labels: Tensor, num_classes: int, *, name: str = "labels") -> None:
    """Raises ValueError unless labels [N] lie in [0, num_classes-1]."""
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        at = int(wrong.nonzero()[0])
        raise ValueError(f"{name} must lie in [0, {num_classes - 1}], got {int(labels[at])} at index {at}")


def check_targets(labels: Tensor, true_labels: Tensor) -> None:
    if not isinstance(true_labels, Tensor):
        raise TypeError(f"true_labels must be an int64 tensor, got {type(true_labels).__name__}")
    if true_labels.dtype != torch.int64 or true_labels.shape != labels.shape:
        kind = f"{true_labels.dtype} {tuple(true_labels.shape)}"
        raise ValueError(f"true_labels must be int64 of shape {tuple(labels.shape)}, got {kind}")
    same = labels == true_labels
    if same.any():
        at = int(same.nonzero()[0])
        raise ValueError(
            f"a target must differ from the true label, got {int(labels[at])} for both at index {at}"
        )


def clean_logits(model: Model, x: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Logits [N,L] of x [N,...], N >= 1, checked: shape, dtype, NaN, and that they are no probabilities.

    Beside them the forward passes that they took, [N] int64.
    """
    logits, spent = asked(runnable(model), x, limit)
    wrong = ~logits.isfinite().all(1)
    if wrong.any():
        raise ValueError(f"model must return finite logits, got NaN or infinity for the input at index "
                         f"{int(wrong.nonzero()[0])}")  # fmt: skip
    if isinstance(model, RegionClassifier):
        return logits, spent  # of votes
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-4).all()):
        raise ValueError(
            "model must return logits, got probabilities (every row is nonnegative and sums to 1): "
            "take the softmax off its end, a saturated softmax has no gradient to follow"
        )
    return logits, spent


def check_positive(**values: float) -> None:
    """Raises ValueError naming the first hyperparameter that is not a positive finite number."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive, got {value!r}")


def check_counts(**values: int) -> None:
    """Raises ValueError naming the first hyperparameter that is not a positive integer."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
