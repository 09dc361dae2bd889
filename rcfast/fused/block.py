"""Residual blocks on our kernel: a convolution adds the shortcut and takes the ReLU along, in both directions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rcfast.fused.conv import FusedConv
from rcfast.fused.layers import fits, is_exactly, is_norm
from rcfast.fused.standin import StandIn, Taken


@dataclass(frozen=True)
class Known:
    """What the forward of a type of block does, for blocks of exactly that type.

    pairs: names of convolutions, each with that of the normalisation to which alone its result goes.
    residual: whether a block of it is relu(norm2(conv2(relu(norm1(conv1(x))))) + x), of the two pairs. AttributeError
    says no: another version of the library has other blocks.
    """

    pairs: tuple[tuple[str, str], ...]
    residual: Callable[[Any], bool]


def _never(block: nn.Module) -> bool:
    return False


KNOWN = {
    ("rcfast.models.resnet", "BasicBlock"): Known(
        (("conv1", "norm1"), ("conv2", "norm2")), lambda block: (block.stride, block.added) == (1, 0)
    ),
    ("torchvision.models.resnet", "BasicBlock"): Known(
        (("conv1", "bn1"), ("conv2", "bn2")),
        lambda block: block.downsample is None and is_exactly(block.relu, nn.ReLU),
    ),
    ("torchvision.models.resnet", "Bottleneck"): Known((("conv2", "bn2"),), _never),
    ("timm.models.resnet", "BasicBlock"): Known(
        (("conv1", "bn1"), ("conv2", "bn2")),
        lambda block: (
            block.se is block.drop_path is block.downsample is None
            and all(is_exactly(part, nn.Identity) for part in (block.drop_block, block.aa))
            and all(is_exactly(part, nn.ReLU) for part in (block.act1, block.act2))
        ),
    ),
    ("timm.models.resnet", "Bottleneck"): Known((("conv2", "bn2"),), _never),
}


class FusedBlock(StandIn):
    """relu(second(first(x)) + x), `first` with a ReLU: a block of a model, whose weights they read."""

    gates = gated = False  # as of :class:`FusedConv`
    may_gate = may_be_gated = True

    def __init__(self, block: nn.Module, first: FusedConv, second: FusedConv) -> None:
        super().__init__(block)
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        if not self.first.computable(x):
            out: Tensor = self._own[0](x)
            return out
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.run(x)[1]
        return _Differentiable.apply(x, self)

    def again(self) -> FusedBlock:
        """The same block for another place, where its gradient may be joined with others'."""
        return FusedBlock(self._own[0], self.first, self.second)

    def run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """After the first ReLU and after the second, both [N, C, H, W] like x."""
        inner = self.first.run(x, relu=True)
        return inner, self.second.run(inner, relu=True, added=x)


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, block: FusedBlock) -> Tensor:
        inner, out = block.run(x.detach())
        ctx.block = block
        ctx.save_for_backward(inner, None if block.gated else out, x if block.gates else None)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        inner, out, before = ctx.saved_tensors
        if out is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, out, 0)  # what ReLU's own backward is
        within = ctx.block.second.gradient(gradient, gate=inner)
        return ctx.block.first.gradient(within, added=gradient, gate=before), None


def fused_pairs(block: nn.Module) -> dict[str, nn.Module]:
    """What takes the place of those children [name] of a block that its type makes pairs, maybe of none.

    For a block that is :func:`rcfast.fused.layers.plain`.
    """
    known = _known(type(block))
    made: dict[str, nn.Module] = {}
    for conv_name, norm_name in known.pairs if known else ():
        conv, norm = getattr(block, conv_name, None), getattr(block, norm_name, None)
        if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
            continue
        if fits(conv) and is_norm(norm):
            made[conv_name] = FusedConv([conv, norm], conv, norm)
            made[norm_name] = Taken(norm)
    return made


def fused_block(block: nn.Module, pairs: dict[str, nn.Module]) -> FusedBlock | None:
    """The whole of a block with these :func:`fused_pairs`, if it is residual and both are there."""
    convolutions = [part for part in pairs.values() if isinstance(part, FusedConv)]
    known = _known(type(block))
    if known is None or len(convolutions) < 2 or not all(part.keeps_shape for part in convolutions):
        return None
    return FusedBlock(block, *convolutions) if _is_residual(known, block) else None


def _is_residual(known: Known, block: nn.Module) -> bool:
    try:
        return known.residual(block)
    except AttributeError:
        return False


def _known(kind: type[nn.Module]) -> Known | None:
    """Only of the very class that its module has, with the forward that it was written with."""
    known = KNOWN.get((kind.__module__, kind.__qualname__))
    if known is None or getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is not kind:
        return None
    forward = kind.forward
    own = (getattr(forward, "__module__", None), getattr(forward, "__qualname__", None))
    return known if own == (kind.__module__, f"{kind.__qualname__}.forward") else None
