"""On a GPU: convolutions that take their ReLU along, in one kernel of cuDNN.

What a convolution of few channels writes is read and written again for its bias and for its ReLU: three passes over
memory where one would do, and memory is what such a network waits for.
"""

from __future__ import annotations

from collections.abc import Iterator
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


def join_(model: nn.Module) -> None:
    """Join each Conv2d with the ReLU directly after it in a Sequential, in place.

    Layers of exactly torch's own types, without hooks. The model's parameters stay the same, in the same order.
    """
    for part, name, after in list(_pairs(model)):
        part._modules[name] = ConvReLU(part._modules[name])  # type: ignore[arg-type]
        part._modules[after] = nn.Identity()


def joinable(model: object) -> bool:
    """Whether :func:`join_` would find something, and cuDNN is there for it."""
    there = torch.backends.cudnn.is_available() and torch.backends.cudnn.enabled
    return there and isinstance(model, nn.Module) and any(True for _ in _pairs(model))


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Sequential, str, str]]:
    """Where a convolution and its ReLU stand: the Sequential, and their names in it."""
    for part in model.modules():
        if type(part) is nn.Sequential:
            for (name, conv), (after, relu) in pairwise(part._modules.items()):
                if _joins(conv) and is_exactly(relu, nn.ReLU):
                    yield part, name, after


def _joins(conv: nn.Module | None) -> bool:
    return (
        is_exactly(conv, nn.Conv2d)
        and isinstance(conv, nn.Conv2d)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and conv.weight.layout is torch.strided
    )
