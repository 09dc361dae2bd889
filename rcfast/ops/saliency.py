"""The best pair of a saliency map."""

import torch
from torch import Tensor

from .native import check, check_device, operator, run


@operator(
    "saliency_pair_(Tensor(a!) out, Tensor(b!) workspace, Tensor a, Tensor b, Tensor free, bool down) -> ()"
)
def _saliency_pair_(out: Tensor, workspace: Tensor, a: Tensor, b: Tensor, free: Tensor, down: bool) -> None:
    if out.numel() == 0:
        return
    tensors = (out, a, b, free, workspace)
    run("saliency_pair", (*(t.data_ptr() for t in tensors), *a.shape, down), out)


_SALIENCY_TILE = 256  # kSaliencyTile of csrc/kernels.h


def saliency_pair(a: Tensor, b: Tensor, free: Tensor, *, down: bool = False) -> Tensor:
    """The pair of coordinates that the saliency map of JSMA rates highest, (-1, -1) if none: int64 [B, 2].

    The pair p < q maximises the float32 score -(a_p + a_q)·(b_p + b_q), both sums and the product rounded, among
    those with a_p + a_q > 0 > b_p + b_q (down: with the signs the other way round); the lowest p, then the lowest q,
    wins ties. The search is exact over all pairs without an n×n tensor, and gives the same pair on every device.

    Args:
        a: float32 [B, n], gradient of the target's logit; NaN never qualifies.
        b: float32 [B, n], gradient of the sum of the other logits.
        free: bool [B, n], coordinates that may be chosen.
        down: seek the pair that is to be lowered.

    Raises:
        TypeError: a dtype other than the above.
        ValueError: a shape or device other than the above, or n beyond 2^31.
    """
    if a.dim() != 2 or a.shape[1] > 2**31:
        raise ValueError(f"a must have shape [B, n] with n up to 2^31, got {list(a.shape)}")
    check("a", a, (torch.float32,), tuple(a.shape))
    check("b", b, (torch.float32,), tuple(a.shape))
    check("free", free, (torch.bool,), tuple(a.shape))
    check_device("b", b, a)
    check_device("free", free, a)
    if a.shape[1] == 0:
        return a.new_full((len(a), 2), -1, dtype=torch.int64)
    out = torch.empty(len(a), 2, dtype=torch.int64, device=a.device)
    tiles = 0 if a.device.type == "cpu" else -(-a.shape[1] // _SALIENCY_TILE)
    workspace = torch.empty(len(a), 2 * tiles + 1, dtype=torch.float32, device=a.device)
    _saliency_pair_(out, workspace, a.contiguous(), b.contiguous(), free.contiguous(), down)
    return out
