"""A network whose 3×3 convolutions run on our own kernel, each with what follows it in the same pass.

For votes and attacks in float32 on a CPU, where passes of the network are all the cost: the multiplications of a
convolution are a quarter (:func:`rcfast.ops.conv3x3_`), those of its gradient in the image too, and normalisation, ReLU
and, without gradient, maxima cost no pass over memory of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.module import _has_any_global_hook

from . import ops, winograd
from .ops.conv3x3 import _conv3x3_


class FusedConv(nn.Module):
    """A convolution of a model, with the layers after it; it reads their weights and holds none of its own."""

    def __init__(self, layers: list[nn.Module], conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> None:
        super().__init__()
        self._own = tuple(layers)  # in a tuple: they stay the model's
        self._layers = (conv, norm)
        self.padding = _padding(conv)
        self.relu, self.pool = (
            any(type(layer) is kind for layer in layers) for kind in (nn.ReLU, nn.MaxPool2d)
        )
        self._seen: list[Tensor] = []
        self._turned: tuple[Tensor, Tensor] | None = None

    @property
    def form(self) -> list[Any]:
        """What it was made from, beside weights."""
        norm = self._layers[1]
        return [*self._own, self.padding, None if norm is None else norm.eps]

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
        if x.dim() != 4 or x.dtype != torch.float32 or not x.is_cpu or torch.is_autocast_enabled("cpu"):
            for layer in self._own:  # not what the kernel is for
                x = layer(x)
            return x
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
        return ", ".join(map(repr, self._own))


def _run(x: Tensor, weights: Tensor, bias: Tensor, padding: int, relu: bool, pool: bool) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    sides = [(side + 2 * padding - 2) // (2 if pool else 1) for side in x.shape[2:]]
    shape = (len(x), len(bias), *sides)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    _conv3x3_(out, x, weights, bias, padding, relu, pool)  # all of it right by what was packed and allocated
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
            gradient = torch.ops.aten.threshold_backward(gradient, out, 0)  # what ReLU's own backward is
        return ctx.part.gradient(gradient), None


class Fused(nn.Module):
    """A model with its convolutions on our kernel, made by :func:`fused`.

    Its other modules are called themselves if they have no children, hooks or methods of their own; else as twins of
    the same type, that share parameters and buffers, and whose other attributes are those of the model in every pass
    and go back to it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: it stays the user's
        self._twins: dict[nn.Module, nn.Module] = {}
        self.twin = self._twin(model)
        self.parts = [part for part in self.modules() if isinstance(part, FusedConv)]
        children = [(module, *module._modules.items()) for module in model.modules()]
        self.form = [children, list(self._twins), [part.form for part in self.parts]]

    def refresh(self) -> bool:
        """Take over today's weights; False where the model has become another, and this is of no use any more."""
        (model,) = self._model
        if not _suits(model) or Fused(model).form != self.form:
            return False
        self._take_over()
        for part in self.parts:
            part.refresh()
        return True

    def _take_over(self) -> None:
        for module, twin in self._twins.items():
            _take_over(module, twin)

    def forward(self, x: Tensor) -> Any:
        self._take_over()
        try:
            return self.twin(x)
        finally:
            for module, twin in self._twins.items():
                _take_over(twin, module)

    def _twin(self, module: nn.Module) -> nn.Module:
        """A module with the same tensors, and twins of its children, their convolutions replaced."""
        if _fits(module):
            return FusedConv([module], module, None)  # type: ignore[arg-type]
        if not module._modules or not _plain(module):
            return module
        if module in self._twins:
            return self._twins[module]
        twin = type(module).__new__(type(module))  # copy.copy would ask a module how it wants to be pickled
        twin.__dict__.update(module.__dict__, _modules={}, training=False)
        self._twins[module] = twin
        if type(module) is nn.Sequential:
            twin._modules.update(self._sequence(module._modules))
        else:
            children = module._modules.items()
            twin._modules.update({name: child and self._twin(child) for name, child in children})
        return twin

    def _sequence(self, children: Mapping[str, nn.Module | None]) -> dict[str, nn.Module | None]:
        """The children of a Sequential, each convolution with those it takes along, in whose places nothing is done."""
        names, made = list(children), dict(children)
        while names:
            name = names.pop(0)
            conv = children[name]
            if conv is None or not _fits(conv):
                made[name] = conv and self._twin(conv)
                continue
            assert isinstance(conv, nn.Conv2d)
            layers: list[nn.Module] = [conv]

            def take(
                fits: Callable[[nn.Module | None], bool], layers: list[nn.Module] = layers
            ) -> nn.Module | None:
                coming = children[names[0]] if names else None
                if coming is None or not fits(coming):
                    return None
                made[names.pop(0)] = nn.Identity()
                layers.append(coming)
                return coming

            norm = take(_is_norm)
            if take(lambda layer: is_exactly(layer, nn.ReLU)) and conv.in_channels > ops.CONV_FEW:
                take(_is_pool)
            made[name] = FusedConv(layers, conv, norm)  # type: ignore[arg-type]
        return made


def fused(model: nn.Module) -> Fused | None:
    """The model on our kernel, or None where it has no convolution for it; its other layers are shared, not copied.

    For evaluation of images float32 on the CPU, with gradients in the images but none in the weights. What is replaced
    are layers of exactly torch's own types, without hooks; a BatchNorm2d, a ReLU and a MaxPool2d(2) only directly
    after their convolution in a Sequential. :meth:`Fused.refresh` takes over weights that have changed since.
    """
    if not _suits(model):
        return None
    twin = Fused(model)
    return twin if twin.parts and twin.refresh() else None


def _suits(model: nn.Module) -> bool:
    if ops.build_info()["instruction_set"] == "portable" or _has_any_global_hook():  # slower there than torch
        return False
    return all(t.dtype == torch.float32 and t.device.type == "cpu" for t in model.parameters())


def _take_over(source: nn.Module, target: nn.Module) -> None:
    """Attributes of a module in another; each keeps its children and its mode."""
    for name, value in source.__dict__.items():
        if target.__dict__.get(name, _NONE) is not value and name not in ("_modules", "training"):
            target.__dict__[name] = value


_NONE = object()


def _plain(module: nn.Module) -> bool:
    """Whether a call of a module runs the methods of its class, in whatever mode, and nobody listens."""
    kind, own = type(module), vars(module)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        not isinstance(module, torch.jit.ScriptModule)
        and (kind.train, kind.eval) == (nn.Module.train, nn.Module.eval)
        and own.get("_compiled_call_impl") is None
        and not any(callable(getattr(kind, name, None)) for name in own)
        and not any(own[name] for name in hooks)
    )


def is_exactly(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Exactly of this type, so that its forward is torch's."""
    return type(module) is kind and _plain(module)


def _padding(conv: nn.Conv2d) -> int:
    """Zeros on each side; -1 where the sides differ or the padding is of another kind."""
    if conv.padding_mode != "zeros":
        return -1
    if isinstance(conv.padding, str):
        return {"valid": 0, "same": 1}[conv.padding]
    return conv.padding[0] if conv.padding[0] == conv.padding[1] else -1


def _fits(conv: nn.Module) -> bool:
    return (
        is_exactly(conv, nn.Conv2d)
        and isinstance(conv, nn.Conv2d)
        and (conv.stride, conv.dilation, conv.groups) == ((1, 1), (1, 1), 1)
        and 0 <= _padding(conv) <= 2
        and isinstance(conv.weight, nn.Parameter)
        and type(conv.weight.data) is Tensor  # no quantised or sparse kind
        and conv.weight.layout is torch.strided
        and winograd.fits(conv.weight)
    )


def _is_norm(norm: nn.Module | None) -> bool:
    return is_exactly(norm, nn.BatchNorm2d) and norm.running_mean is not None  # type: ignore[union-attr]


def _is_pool(pool: nn.Module | None) -> bool:
    if not is_exactly(pool, nn.MaxPool2d):
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
