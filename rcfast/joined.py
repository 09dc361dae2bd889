"""On a GPU: convolutions that take their ReLU along, in one kernel of cuDNN.

What a convolution of few channels writes is read and written again for its bias and for its ReLU: three passes over
memory where one would do, and memory is what such a network waits for.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from .fused import is_exactly


class ConvReLU(nn.Module):
    """A convolution and the ReLU after it, without gradient."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        assert not isinstance(conv.padding, str)
        return torch.cudnn_convolution_relu(
            x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
        )


def join_(model: nn.Module) -> bool:
    """Join each Conv2d with the ReLU directly after it in a Sequential, in place; whether there was one.

    Layers of exactly torch's own types, without hooks. The model's parameters stay the same, in the same order.
    """
    found = False
    for part in model.modules():
        if type(part) is not nn.Sequential:
            continue
        names = list(part._modules)
        for name, after in pairwise(names):
            conv, relu = part._modules[name], part._modules[after]
            if _joins(conv) and is_exactly(relu, nn.ReLU):
                assert isinstance(conv, nn.Conv2d)
                part._modules[name], part._modules[after] = ConvReLU(conv), nn.Identity()
                found = True
    return found


def joinable(model: object) -> bool:
    """Whether :func:`join_` would find something, and cuDNN is there for it."""
    if not isinstance(model, nn.Module) or not torch.backends.cudnn.is_available():
        return False
    return torch.backends.cudnn.enabled and any(
        _joins(first) and is_exactly(then, nn.ReLU)
        for part in model.modules()
        if type(part) is nn.Sequential
        for first, then in pairwise(part)
    )


def _joins(conv: nn.Module | None) -> bool:
    return (
        is_exactly(conv, nn.Conv2d)
        and isinstance(conv, nn.Conv2d)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and conv.weight.layout is torch.strided
    )
