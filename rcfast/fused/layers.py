"""Layers that the convolution kernel computes, and when a module is what its type says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rcfast import winograd
from rcfast.hooks import heard

_USUAL = frozenset(vars(nn.Module()))  # attributes that every module has, none of them a method's name


def plain(module: nn.Module) -> bool:
    """Whether a call of a module runs the methods of its class, in whatever mode, and nobody listens."""
    kind, own = type(module), vars(module)
    return (
        not isinstance(module, torch.jit.ScriptModule)
        and (kind.train, kind.eval) == (nn.Module.train, nn.Module.eval)
        and own.get("_compiled_call_impl") is None
        and not any(callable(getattr(kind, name, None)) for name in own.keys() - _USUAL)
        and not heard(module)
    )


def is_exactly(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Exactly of this type, so that its forward is torch's."""
    return type(module) is kind and plain(module)


def padding(conv: nn.Conv2d) -> int:
    """Zeros on each side; -1 where the sides differ or the padding is of another kind."""
    if conv.padding_mode != "zeros":
        return -1
    if isinstance(conv.padding, str):
        return {"valid": 0, "same": 1}[conv.padding]
    sides = {conv.padding} if isinstance(conv.padding, int) else {*conv.padding}
    return sides.pop() if len(sides) == 1 else -1


def fits(conv: nn.Module) -> bool:
    return (
        is_exactly(conv, nn.Conv2d)
        and isinstance(conv, nn.Conv2d)
        and (conv.stride, conv.dilation, conv.groups) == ((1, 1), (1, 1), 1)
        and 0 <= padding(conv) <= 2
        and isinstance(conv.weight, nn.Parameter)
        and type(conv.weight.data) is Tensor  # no quantised or sparse kind
        and conv.weight.layout is torch.strided
        and winograd.fits(conv.weight)
    )


def is_norm(norm: nn.Module | None) -> bool:
    return is_exactly(norm, nn.BatchNorm2d) and norm.running_mean is not None  # type: ignore[union-attr]


def is_pool(pool: nn.Module | None) -> bool:
    if not is_exactly(pool, nn.MaxPool2d):
        return False
    assert isinstance(pool, nn.MaxPool2d)
    sizes = [
        (side, side) if isinstance(side, int) else tuple(side) for side in (pool.kernel_size, pool.stride)
    ]
    others = (pool.padding, pool.dilation, pool.ceil_mode, pool.return_indices)
    return sizes == [(2, 2), (2, 2)] and others in ((0, 1, False, False), ((0, 0), (1, 1), False, False))


def normalised(weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight [K, C, 3, 3] and bias [K] of the convolution and the normalisation in one, rounded once."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    shift = 0 if norm.bias is None else norm.bias.double()
    bias = (bias.double() - norm.running_mean.double()) * scale + shift
    return (weight.double() * scale[:, None, None, None]).float(), bias.float()
