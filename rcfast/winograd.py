"""Weights of 3×3 convolutions, laid out once as :func:`rcfast.ops.conv3x3_` reads them."""

import torch
from torch import Tensor

from .ops import CONV_FEW, CONV_FILTERS

# G of F(4x4, 3x3): Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016
_G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


def fits(weight: Tensor) -> bool:
    """Whether :func:`rcfast.ops.conv3x3_` computes with this weight [K, C, 3, 3]: K and, unless C <= 4, C in eights."""
    filters, channels = weight.shape[:2]
    return weight.shape[2:] == (3, 3) and not filters % 8 and (channels <= CONV_FEW or not channels % 8)


def pack(weight: Tensor) -> Tensor:
    """A weight float32 [K, C, 3, 3] as :func:`rcfast.ops.conv3x3_` reads it: [36 or 9, ceil(K / 16), C, 16].

    36 planes are Winograd's, transformed in float64 and rounded once; 9, for at most four channels, the weight itself.
    Raises ValueError where K, or C > 4, is no multiple of eight.
    """
    if not fits(weight):
        raise ValueError(
            f"weight must have shape [K, C, 3, 3], K and, unless C <= 4, C in eights, got {list(weight.shape)}"
        )
    filters, channels = weight.shape[:2]
    if channels <= CONV_FEW:
        planes = weight.permute(2, 3, 0, 1).reshape(9, filters, channels)
    else:
        g = torch.tensor(_G, dtype=torch.float64, device=weight.device)
        planes = torch.einsum("ia,kcab,jb->ijkc", g, weight.double(), g).to(torch.float32).flatten(0, 1)
    planes = torch.nn.functional.pad(planes, (0, 0, 0, -filters % CONV_FILTERS))
    return planes.unflatten(1, (-1, CONV_FILTERS)).transpose(2, 3).contiguous()
