"""A 3×3 convolution on our kernel, with what follows it, and its gradient in the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rcfast import winograd
from rcfast.fused.layers import normalised, padding
from rcfast.fused.standin import StandIn
from rcfast.ops.conv3x3 import CONV_FEW, _conv3x3_


class FusedConv(StandIn):
    """A convolution of a model, with the layers after it; it reads their weights and holds none of its own."""

    # Of the class, for many are made at each look at the model, and nn.Module sets attributes slowly.
    gates = False  # its input is what a ReLU before it gave, whose gradient its own takes along
    gated = False  # the gradient of its ReLU is what the next one takes along
    late = False  # it takes the weights over when it first runs, for it may never do
    _seen: Sequence[Tensor] = ()
    _turned: tuple[Tensor, Tensor] | None = None

    def __init__(self, layers: list[nn.Module], conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> None:
        super().__init__(*layers)
        self._layers = (conv, norm)
        self.padding = padding(conv)
        self.relu, self.pool = (
            any(type(layer) is kind for layer in layers) for kind in (nn.ReLU, nn.MaxPool2d)
        )

    @property
    def form(self) -> list[Any]:
        """What it was made from, beside weights."""
        norm = self._layers[1]
        return [*self._own, self.padding, None if norm is None else norm.eps]

    @property
    def may_gate(self) -> bool:
        return self._channels > CONV_FEW

    @property
    def may_be_gated(self) -> bool:
        return self.relu and not self.pool

    @property
    def _channels(self) -> int:
        return int(self._layers[0].weight.shape[1])

    @property
    def keeps_shape(self) -> bool:
        """Whether what comes out has the shape of what went in, with channels that the gradient may be added to."""
        return self.padding == 1 and len(self._layers[0].weight) == self._channels > CONV_FEW

    def refresh(self) -> None:
        """Take over today's weights, if they are others: writes through .data leave no other trace."""
        now = [
            t for layer in self._layers if layer is not None for t in (*layer.parameters(), *layer.buffers())
        ]
        if len(now) == len(self._seen) and all(map(torch.equal, now, self._seen)):
            return
        with torch.inference_mode(False), torch.no_grad():
            conv, norm = self._layers
            weight, bias = conv.weight.detach(), conv.bias
            bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().clone()
            if norm is not None:
                weight, bias = normalised(weight, bias, norm)
            self._weights, self._bias = winograd.pack(weight), bias
            self._weight, self._turned = weight, None
            self._seen = [t.detach().clone() for t in now]

    def forward(self, x: Tensor) -> Tensor:
        if not self.computable(x):
            for layer in self._own:
                x = layer(x)
            return x
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.run(x, relu=self.relu, pool=self.pool)
        out = _Differentiable.apply(x, self)
        return nn.functional.max_pool2d(out, 2) if self.pool else out

    @property
    def due(self) -> bool:
        """Whether a look at the model takes today's weights over."""
        return bool(self._seen) or not self.late

    def computable(self, x: Tensor) -> bool:
        """Whether the kernel is for such an input; torch says what is wrong with others."""
        if not (x.dim() == 4 and x.dtype == torch.float32 and x.is_cpu) or torch.is_autocast_enabled("cpu"):
            return False
        return x.shape[1] == self._channels and min(x.shape[2:]) >= (4 if self.pool else 3) - 2 * self.padding

    def run(self, x: Tensor, *, relu: bool, pool: bool = False, added: Tensor | None = None) -> Tensor:
        """Of x [N, C, H, W] its sums [N, K, H', W'], and what may follow."""
        if not self._seen:
            self.refresh()
        return _run(x, self._weights, self._bias, self.padding, relu, pool, added=added)

    def gradient(self, gradient: Tensor, added: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
        """Of the input [N, C, H, W] from that of the sums [N, K, H', W']: a convolution, the weights turned round.

        Plus `added`, then 0 where `gate` is at most 0, both [N, C, H, W] and only for C in eights.
        """
        channels = self._weight.shape[1]
        if self._turned is None:
            turned = self._weight.transpose(0, 1).flip(2, 3)
            turned = nn.functional.pad(turned, (0, 0) * 3 + (0, -channels % 8))
            self._turned = winograd.pack(turned), turned.new_zeros(len(turned))
        made = _run(gradient, *self._turned, 2 - self.padding, added=added, gate=gate)
        return made if made.shape[1] == channels else made[:, :channels]


def _run(
    x: Tensor,
    weights: Tensor,
    bias: Tensor,
    padding: int,
    relu: bool = False,
    pool: bool = False,
    **like: Any,
) -> Tensor:
    """What `conv3x3_` makes of x; in `like` further arguments of the shape of the result, or None."""
    x = x.contiguous(memory_format=torch.channels_last)
    sides = [(side + 2 * padding - 2) // (2 if pool else 1) for side in x.shape[2:]]
    shape = (len(x), len(bias), *sides)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    like = {
        name: t.contiguous(memory_format=torch.channels_last) for name, t in like.items() if t is not None
    }
    # Unchecked: all of it is right by what was packed and allocated.
    _conv3x3_(out, x, weights, bias, padding, relu, pool, **like)
    return out


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, part: FusedConv) -> Tensor:
        out = part.run(x.detach(), relu=part.relu)
        ctx.part = part
        ctx.save_for_backward(out if part.relu and not part.gated else None, x if part.gates else None)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        out, gate = ctx.saved_tensors
        if out is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, out, 0)  # what ReLU's own backward is
        return ctx.part.gradient(gradient, gate=gate), None
