"""3×3 convolutions on the CPU."""

import torch
from torch import Tensor

from .native import address, check, check_device, native, operator


@operator(
    "conv3x3_(Tensor(a!) out, Tensor x, Tensor weights, Tensor bias, SymInt padding, bool relu=False, "
    "bool pool=False, Tensor? added=None, Tensor? gate=None) -> ()"
)
def _conv3x3_(
    out: Tensor,
    x: Tensor,
    weights: Tensor,
    bias: Tensor,
    padding: int,
    relu: bool = False,
    pool: bool = False,
    added: Tensor | None = None,
    gate: Tensor | None = None,
) -> None:
    if out.numel() == 0:
        return
    if out.device.type != "cpu":
        raise RuntimeError(f"conv3x3_ runs on the CPU alone, got tensors on {out.device}")
    images, channels, height, width = x.shape
    native().conv3x3(
        *(out.data_ptr(), x.data_ptr(), weights.data_ptr(), bias.data_ptr(), address(added), address(gate)),
        *(images, height, width, channels, out.shape[1], padding),
        *(weights.shape[0] == _TRANSFORMED, relu, pool, torch.get_num_threads()),
    )


_TRANSFORMED = 36  # planes of Winograd's transformed weights
CONV_FILTERS = 16  # kConvFilters of csrc/kernels.h
CONV_FEW = 4  # channels up to which a convolution is computed directly


def conv3x3_(
    out: Tensor,
    x: Tensor,
    weights: Tensor,
    bias: Tensor,
    *,
    padding: int = 0,
    relu: bool = False,
    pool: bool = False,
    added: Tensor | None = None,
    gate: Tensor | None = None,
) -> None:
    """Fill ``out`` with the 3×3 convolution of ``x``, stride 1, plus ``bias``, and what may follow.

    That is, in this order: the maxima over 2×2 (``pool``), a residual (``added``), ReLU (``relu``), and as in the
    gradient of a ReLU 0 where what it gave (``gate``) is at most 0.

    CPU alone, float32. An image gives the same bits in any batch and on any number of threads. With 36 planes of
    weights by Winograd's F(4×4, 3×3), whose results differ from the sums by rounding, some ten times as much as
    theirs: 5e-6 of the largest (64 channels).

    Args:
        out: float32 [N, K, H', W'], channels_last; H' = H + 2·padding - 2, halved with ``pool``, like W'.
        x: float32 [N, C, H, W], channels_last; C up to 4, or a multiple of 8.
        weights: what :func:`rcfast.winograd.pack` made of the weight [K, C, 3, 3].
        bias: float32 [K], K a multiple of 8.
        padding: zeros on each side, 0 to 2.
        relu: NaN stays NaN.
        pool: the last row or column of an odd number is left out.
        added, gate: like ``out``. These and ``pool`` only with C > 4.

    Raises:
        TypeError: a dtype other than the above.
        ValueError: a shape, layout, device or value other than the above.
    """
    if x.dim() != 4:
        raise ValueError(f"x must have shape [N, C, H, W], got {list(x.shape)}")
    if not 0 <= padding <= 2:
        raise ValueError(f"padding must lie in [0, 2], got {padding}")
    images, channels, *sides = x.shape
    filters = len(bias)
    planes = 9 if channels <= CONV_FEW else _TRANSFORMED
    if filters % 8:
        raise ValueError(f"bias must have a multiple of 8 values, one a filter, got {filters}")
    if channels > CONV_FEW and channels % 8:
        raise ValueError(f"x must have up to {CONV_FEW} channels or a multiple of 8, got {channels}")
    for name, value, left_out in (("pool", pool, False), ("added", added, None), ("gate", gate, None)):
        if planes == 9 and value is not left_out:
            raise ValueError(f"{name} must be {left_out} with up to {CONV_FEW} channels, got {channels}")
    check("weights", weights, (torch.float32,), (planes, -(-filters // CONV_FILTERS), channels, CONV_FILTERS))
    made = [(side + 2 * padding - 2) // (2 if pool else 1) for side in sides]
    if min(sides) + 2 * padding < 3:
        raise ValueError(
            f"x must have sides of at least {3 - 2 * padding} with padding {padding}, got {sides}"
        )
    check("x", x, (torch.float32,), tuple(x.shape))
    check("bias", bias, (torch.float32,), (filters,))
    check("out", out, (torch.float32,), (images, filters, *made))
    for name, tensor in (("added", added), ("gate", gate)):
        if tensor is not None:
            check(name, tensor, (torch.float32,), tuple(out.shape))
    for name, tensor in (("x", x), ("weights", weights), ("bias", bias), ("added", added), ("gate", gate)):
        if tensor is not None:
            check_device(name, tensor, out)
    for name, tensor in (("out", out), ("x", x), ("added", added), ("gate", gate)):
        if tensor is not None and not tensor.is_contiguous(memory_format=torch.channels_last):
            raise ValueError(f"{name} must be channels_last, got strides {list(tensor.stride())}")
    _conv3x3_(out, x, weights.contiguous(), bias.contiguous(), padding, relu, pool, added, gate)
