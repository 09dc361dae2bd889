"""The tally of labels."""

import torch
from torch import Tensor

from .native import DTYPES, check, check_device, operator, run


@operator("vote_(Tensor(a!) counts, Tensor logits) -> ()")
def _vote_(counts: Tensor, logits: Tensor) -> None:
    if logits.numel() == 0:
        return
    run("vote", (counts.data_ptr(), logits.data_ptr(), DTYPES[logits.dtype], *logits.shape), counts)


def vote_(counts: Tensor, logits: Tensor) -> None:
    """Add the histogram over samples of the argmax of ``logits`` to ``counts``.

    Ties go to the lowest label. A row with a NaN casts no vote: the sum of ``counts`` then falls short of the
    samples.

    Args:
        counts: int32 [B, L], contiguous; added to.
        logits: [B, s, L] float32, float16 or bfloat16.

    Raises:
        TypeError: a dtype other than the above.
        ValueError: a shape, device or layout other than the above.
    """
    if logits.dim() != 3:
        raise ValueError(f"logits must have shape [B, s, L], got {list(logits.shape)}")
    if logits.dtype not in DTYPES:
        raise TypeError(f"logits must be float32, float16 or bfloat16, got {logits.dtype}")
    check("counts", counts, (torch.int32,), (logits.shape[0], logits.shape[2]))
    check_device("logits", logits, counts)
    if not counts.is_contiguous():
        raise ValueError(f"counts must be contiguous, got strides {list(counts.stride())}")
    _vote_(counts, logits.contiguous())
