"""The tally of labels."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .native import DTYPES, check, check_device, operator, run

MAX_SEGMENTS = 64  # kMaxSegments of csrc/kernels.h


@operator("vote_(Tensor(a!) counts, Tensor logits, SymInt[] ends) -> ()")
def _vote_(counts: Tensor, logits: Tensor, ends: list[int]) -> None:
    if logits.numel() == 0:
        return
    tensors = (counts.data_ptr(), logits.data_ptr(), DTYPES[logits.dtype])
    run("vote", (*tensors, *logits.shape, list(ends)), counts)


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
    if logits.dim() != 3:
        raise ValueError(f"logits must have shape [B, s, L], got {list(logits.shape)}")
    if logits.dtype not in DTYPES:
        raise TypeError(f"logits must be float32, float16 or bfloat16, got {logits.dtype}")
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
