"""The tally of labels: of equal votes, and of weighted ones."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .native import DTYPES, address, check, check_device, operator, run
from .sampling import channels

UNITS = 1 << 24  # of a weight of 1: kUnits of csrc/core/softmax.h
_MODES = {"softmax": 0, "margin": 1, "weighted": 2}

MAX_SEGMENTS = 64  # kMaxSegments of csrc/kernels.h


@operator("vote_(Tensor(a!) counts, Tensor logits, SymInt[] ends) -> ()")
def _vote_(counts: Tensor, logits: Tensor, ends: list[int]) -> None:
    if logits.numel() == 0:
        return
    tensors = (counts.data_ptr(), logits.data_ptr(), DTYPES[logits.dtype])
    run("vote", (*tensors, *logits.shape, list(ends)), counts)


@operator("vote_soft_(Tensor(a!) totals, Tensor(b!) cast, Tensor logits, Tensor? weights, str kind) -> ()")
def _vote_soft_(totals: Tensor, cast: Tensor, logits: Tensor, weights: Tensor | None, kind: str) -> None:
    if logits.numel() == 0:
        return
    pointers = (totals.data_ptr(), cast.data_ptr(), logits.data_ptr(), address(weights))
    run("vote_soft", (*pointers, DTYPES[logits.dtype], *logits.shape, _MODES[kind]), totals)


@operator("distance_(Tensor(a!) out, Tensor points, Tensor x) -> ()")
def _distance_(out: Tensor, points: Tensor, x: Tensor) -> None:
    if points.numel() == 0:
        out.zero_()
        return
    sizes = (*points.shape[:2], math.prod(points.shape[2:]), channels("points", points))
    run("distance", (out.data_ptr(), points.data_ptr(), DTYPES[points.dtype], x.data_ptr(), *sizes), out)


def vote_(counts: Tensor, logits: Tensor, ends: Sequence[int] = ()) -> None:
    """Add the histogram over samples of the argmax of ``logits`` to ``counts``.

    Ties go to the lowest label. A row with a NaN casts no vote: the sum of ``counts`` then falls short of the
    samples.

    Args:
        counts: int32 [B, L], contiguous; added to. With ``ends``: [B, K, L], a histogram for each segment.
        logits: [B, s, L] float32, float16 or bfloat16.
        ends: where the K segments of the samples end: rising (a segment may be empty), the last is s.

    Raises:
        TypeError: a dtype other than the above.
        ValueError: a shape, device, layout or end other than the above, or more than 64 segments.
    """
    _check_logits(logits)
    batch, samples, labels = logits.shape
    segments = list(ends)
    if segments:
        rising = all(a <= b for a, b in pairwise([0, *segments])) and segments[-1] == samples
        if not rising or len(segments) > MAX_SEGMENTS:
            raise ValueError(
                f"ends must rise to {samples} in at most {MAX_SEGMENTS} segments, got {segments}"
            )
    check("counts", counts, (torch.int32,), (batch, len(segments), labels) if segments else (batch, labels))
    check_device("logits", logits, counts)
    if not counts.is_contiguous():
        raise ValueError(f"counts must be contiguous, got strides {list(counts.stride())}")
    _vote_(counts, logits.contiguous(), segments)


def vote_soft_(
    totals: Tensor, cast: Tensor, logits: Tensor, *, mode: str, weights: Tensor | None = None
) -> None:
    """Add what every point of ``logits`` gives its labels to ``totals``, in units of 2^-24, and count the points.

    A point gives at most 2^24 units in all. They are integers, rounded down to within twelve units of a probability
    (7e-7): sums over points have no order, and are the same in any chunk, on any number of threads and any device.

    Args:
        totals: int64 [B, L], contiguous; added to.
        cast: int32 [B], contiguous; added to: the rows without a NaN, which alone give anything.
        logits: [B, s, L] float32, float16 or bfloat16.
        mode: "softmax" gives each label its probability, "margin" the argmax (ties to the lowest label) the
            difference between the two greatest probabilities, "weighted" the argmax the point's weight.
        weights: int32 [B, s], units from 0 to 2^24 (a promise, not checked), for "weighted" alone.

    Raises:
        TypeError: a dtype other than the above.
        ValueError: a shape, device, layout or mode other than the above.
    """
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, _MODES))}, got {mode!r}")
    if (weights is not None) != (mode == "weighted"):
        raise ValueError(f"weights belong to mode 'weighted' alone, got mode {mode!r}")
    _check_logits(logits)
    check("totals", totals, (torch.int64,), (logits.shape[0], logits.shape[2]))
    check("cast", cast, (torch.int32,), (logits.shape[0],))
    tensors = {"totals": totals, "cast": cast}
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, got strides {list(tensor.stride())}")
    if weights is not None:
        check("weights", weights, (torch.int32,), tuple(logits.shape[:2]))
        weights = weights.contiguous()
        check_device("weights", weights, totals)
    for name, tensor in (("cast", cast), ("logits", logits)):
        check_device(name, tensor, totals)
    _vote_soft_(totals, cast, logits.contiguous(), weights, mode)


def distance_(out: Tensor, points: Tensor, x: Tensor) -> None:
    """Fill ``out`` with the L2 distances of ``points`` from their examples, the same bits on every machine.

    Args:
        out: float32 [B, s], contiguous; overwritten.
        points: [B, s, ...] float32, float16 or bfloat16, contiguous or channels_last.
        x: [B, ...] float32.

    Raises:
        TypeError: a dtype other than the above.
        ValueError: a shape, device or layout other than the above.
    """
    if points.dim() < 3:
        raise ValueError(f"points must have shape [B, s, ...], got {list(points.shape)}")
    if points.dtype not in DTYPES:
        raise TypeError(f"points must be float32, float16 or bfloat16, got {points.dtype}")
    check("x", x, (torch.float32,), (points.shape[0], *points.shape[2:]))
    check("out", out, (torch.float32,), tuple(points.shape[:2]))
    if not out.is_contiguous():
        raise ValueError(f"out must be contiguous, got strides {list(out.stride())}")
    for name, tensor in (("points", points), ("x", x)):
        check_device(name, tensor, out)
    channels("points", points)
    _distance_(out, points, x.contiguous())


def _check_logits(logits: Tensor) -> None:
    if logits.dim() != 3:
        raise ValueError(f"logits must have shape [B, s, L], got {list(logits.shape)}")
    if logits.dtype not in DTYPES:
        raise TypeError(f"logits must be float32, float16 or bfloat16, got {logits.dtype}")
