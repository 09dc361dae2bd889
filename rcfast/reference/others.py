"""The best pair of a saliency map, and convolutions."""

import torch
from torch import Tensor


def saliency_pair(a: Tensor, b: Tensor, free: Tensor, *, down: bool = False) -> Tensor:
    """The pair of coordinates that the saliency map of JSMA rates highest, (-1, -1) if none: int64 [B, 2].

    ``a``, ``b`` [B, n] float32: gradients of the target's logit and of the sum of the others; ``free`` [B, n]
    bool: coordinates that may be chosen. The pair p < q maximises the float32 score -(a_p + a_q)·(b_p + b_q),
    both sums and the product rounded, among those with a_p + a_q > 0 > b_p + b_q (``down``: with the signs
    the other way round); the lowest p, then the lowest q, wins ties. NaN never qualifies. Builds n×n tensors.
    """
    n = a.shape[1]
    alpha = a[:, :, None] + a[:, None, :]  # [B, n, n]
    beta = b[:, :, None] + b[:, None, :]
    right = (alpha < 0) & (beta > 0) if down else (alpha > 0) & (beta < 0)
    upper = torch.ones(n, n, dtype=torch.bool, device=a.device).triu(1)
    valid = right & upper & free[:, :, None] & free[:, None, :]
    score = torch.where(valid, alpha.abs() * beta.abs(), -1.0).flatten(1)  # a valid score may underflow to 0
    if n < 2:
        return torch.full((len(a), 2), -1, device=a.device)
    best = score.argmax(1)  # the first of equals, on every device
    return torch.where(valid.flatten(1).any(1)[:, None], torch.stack([best // n, best % n], 1), -1)


def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    padding: int = 0,
    relu: bool = False,
    pool: bool = False,
    added: Tensor | None = None,
    gate: Tensor | None = None,
) -> Tensor:
    """What ``conv3x3_`` writes, in the precision of its arguments: x [N, C, H, W], weight [K, C, 3, 3], bias [K]."""
    out = torch.nn.functional.conv2d(x, weight, bias, padding=padding)
    out = torch.nn.functional.max_pool2d(out, 2) if pool else out
    out = out if added is None else out + added
    out = out.relu() if relu else out
    return out if gate is None else torch.where(gate <= 0, 0, out)
