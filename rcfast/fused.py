"""A network whose 3×3 convolutions run on our own kernel, each with what follows it in the same pass.

For votes and attacks in float32 on a CPU, where passes of the network are all the cost: the multiplications of a
convolution are a quarter (:func:`rcfast.ops.conv3x3_`), those of its gradient in the image too, and normalisation, ReLU
and, without gradient, maxima cost no pass over memory of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import ops, winograd


class FusedConv(nn.Module):
    """A convolution of a model, with the layers after it; it reads their weights and holds none of its own."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, relu: bool, pool: bool) -> None:
        super().__init__()
        self._layers = (conv, norm)  # in a tuple: they stay the model's
        self.padding, self.relu, self.pool = _padding(conv), relu, pool
        self._seen: list[Tensor] = []
        self._turned: tuple[Tensor, Tensor] | None = None
        self.refresh()

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
                weight, bias = _normalised(weight, bias, norm)
            self._weights, self._bias = winograd.pack(weight), bias
            self._weight, self._turned = weight, None
            self._seen = [t.detach().clone() for t in now]

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return _run(x, self._weights, self._bias, self.padding, self.relu, self.pool)
        out = _Differentiable.apply(x, self)
        return nn.functional.max_pool2d(out, 2) if self.pool else out

    def gradient(self, gradient: Tensor) -> Tensor:
        """Of the input [N, C, H, W] from that of the sums [N, K, H', W']: a convolution, the weights turned round."""
        channels = self._weight.shape[1]
        if self._turned is None:
            turned = self._weight.transpose(0, 1).flip(2, 3)
            turned = nn.functional.pad(turned, (0, 0) * 3 + (0, -channels % 8))
            self._turned = winograd.pack(turned), turned.new_zeros(len(turned))
        return _run(gradient, *self._turned, 2 - self.padding, False, False)[:, :channels]

    def extra_repr(self) -> str:
        return f"{self._layers[0]}, padding={self.padding}, relu={self.relu}, pool={self.pool}"


def _run(x: Tensor, weights: Tensor, bias: Tensor, padding: int, relu: bool, pool: bool) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    sides = [(side + 2 * padding - 2) // (2 if pool else 1) for side in x.shape[2:]]
    shape = (len(x), len(bias), *sides)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    ops.conv3x3_(out, x, weights, bias, padding=padding, relu=relu, pool=pool)
    return out


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, part: FusedConv) -> Tensor:
        out = _run(x.detach(), part._weights, part._bias, part.padding, part.relu, False)
        ctx.part = part
        ctx.save_for_backward(out if part.relu else None)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        if out is not None:
            gradient = torch.where(out > 0, gradient, 0)
        return ctx.part.gradient(gradient), None


def fused(model: nn.Module) -> nn.Module | None:
    """The model on our kernel, or None where it has no convolution for it; its other layers are shared, not copied.

    For evaluation of images float32 on the CPU, with gradients in the images but none in the weights. What is replaced
    are layers of exactly torch's own types, without hooks; a BatchNorm2d, a ReLU and a MaxPool2d(2) only directly
    after their convolution in a Sequential. :func:`refresh` takes over weights that have changed since.
    """
    if ops.build_info()["instruction_set"] == "portable":  # slower there than torch
        return None
    if any(t.dtype != torch.float32 or t.device.type != "cpu" for t in model.parameters()):
        return None
    twin = _twin(model)
    return twin if any(_parts(twin)) else None


def refresh(twin: nn.Module) -> None:
    """Today's weights of the model in what :func:`fused` made of it."""
    for part in _parts(twin):
        part.refresh()


def _parts(twin: nn.Module) -> Iterator[FusedConv]:
    return (part for part in twin.modules() if isinstance(part, FusedConv))


def _twin(module: nn.Module) -> nn.Module:
    """A module with the same tensors, and copies of its submodules with their convolutions replaced."""
    if _fits(module):
        return FusedConv(module, None, relu=False, pool=False)  # type: ignore[arg-type]
    if not module._modules:
        return module
    twin = type(module).__new__(type(module))  # copy.copy would ask a module how it wants to be pickled
    twin.__dict__.update(module.__dict__, _modules={}, training=False)
    children = dict(module.named_children())
    if type(module) is nn.Sequential:
        twin._modules.update(_sequence(children))
    else:
        twin._modules.update({name: _twin(child) for name, child in children.items()})
    return twin


def _sequence(children: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The children of a Sequential, each convolution together with those it takes along."""
    names, made = list(children), {}
    while names:
        name = names.pop(0)
        conv = children[name]
        if not _fits(conv):
            made[name] = _twin(conv)
            continue
        assert isinstance(conv, nn.Conv2d)

        def take(fits: bool) -> nn.Module | None:
            return children[names.pop(0)] if fits else None

        def coming() -> nn.Module | None:
            return children[names[0]] if names else None

        norm = take(_is_norm(coming()))
        relu = take(_is(coming(), nn.ReLU)) is not None
        pool = take(relu and conv.in_channels > ops.CONV_FEW and _is_pool(coming())) is not None
        made[name] = FusedConv(conv, norm, relu, pool)  # type: ignore[arg-type]
    return made


def _is(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Exactly of this type, so that its forward is torch's, and with nobody listening."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return type(module) is kind and not any(getattr(module, name) for name in hooks)


def _padding(conv: nn.Conv2d) -> int:
    """Zeros on each side; -1 where the sides differ or the padding is of another kind."""
    if conv.padding_mode != "zeros":
        return -1
    if isinstance(conv.padding, str):
        return {"valid": 0, "same": 1}[conv.padding]
    return conv.padding[0] if conv.padding[0] == conv.padding[1] else -1


def _fits(conv: nn.Module) -> bool:
    return (
        _is(conv, nn.Conv2d)
        and isinstance(conv, nn.Conv2d)
        and (conv.stride, conv.dilation, conv.groups) == ((1, 1), (1, 1), 1)
        and 0 <= _padding(conv) <= 2
        and winograd.fits(conv.weight)
    )


def _is_norm(norm: nn.Module | None) -> bool:
    return _is(norm, nn.BatchNorm2d) and norm.running_mean is not None  # type: ignore[union-attr]


def _is_pool(pool: nn.Module | None) -> bool:
    if not _is(pool, nn.MaxPool2d):
        return False
    assert isinstance(pool, nn.MaxPool2d)
    sizes = [
        (side, side) if isinstance(side, int) else tuple(side) for side in (pool.kernel_size, pool.stride)
    ]
    others = (pool.padding, pool.dilation, pool.ceil_mode, pool.return_indices)
    return sizes == [(2, 2), (2, 2)] and others in ((0, 1, False, False), ((0, 0), (1, 1), False, False))


def _normalised(weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight [K, C, 3, 3] and bias [K] of the convolution and the normalisation in one, rounded once."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    shift = 0 if norm.bias is None else norm.bias.double()
    bias = (bias.double() - norm.running_mean.double()) * scale + shift
    return (weight.double() * scale[:, None, None, None]).float(), bias.float()
