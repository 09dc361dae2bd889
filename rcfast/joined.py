"""On a GPU: convolutions that take their ReLU along, in one kernel of cuDNN.

What a convolution of few channels writes is read and written again for its bias and for its ReLU: three passes over
memory where one would do, and memory is what such a network waits for.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .fused import is_exactly
from .fused.standin import Chain


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

    Layers of exactly torch's own types, without hooks. A Sequential becomes a :class:`rcfast.fused.standin.Chain`, with
    the same children; they stay what they are where somebody takes them one by one.
    """
    for part, joined in list(_chains(model)):
        part.__class__ = Chain
        vars(part)["joined"] = joined


def joinable(model: object) -> bool:
    """Whether :func:`join_` would find something, and cuDNN is there for it."""
    there = torch.backends.cudnn.is_available() and torch.backends.cudnn.enabled
    return there and isinstance(model, nn.Module) and any(True for _ in _chains(model))


def _chains(model: nn.Module) -> Iterator[tuple[nn.Sequential, tuple[nn.Module | None, ...]]]:
    """The Sequentials in which a convolution and its ReLU stand, and their passes."""
    for part in model.modules():
        if type(part) is nn.Sequential:
            joined: list[nn.Module | None] = []
            for layer in part._modules.values():
                before = joined[-1] if joined else None
                if is_exactly(layer, nn.ReLU) and isinstance(before, nn.Conv2d) and _joins(before):
                    joined[-1] = ConvReLU(before)
                else:
                    joined.append(layer)
            if len(joined) < len(part):
                yield part, tuple(joined)


def _joins(conv: nn.Module | None) -> bool:
    return (
        is_exactly(conv, nn.Conv2d)
        and isinstance(conv, nn.Conv2d)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and conv.weight.layout is torch.strided
    )
