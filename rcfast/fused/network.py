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

from rcfast import ops
from rcfast.fused.block import FusedBlock, fused_block, fused_pairs
from rcfast.fused.conv import FusedConv
from rcfast.fused.layers import fits, is_exactly, is_norm, is_pool, plain
from rcfast.fused.standin import Chain
from rcfast.hooks import anybody_listens, heard


class Fused(nn.Module):
    """A model with its convolutions on our kernel, made by :func:`fused`.

    Its other modules are called themselves if they have no children or are no plain objects of their class; else as
    twins of the same type (of a Sequential a :class:`rcfast.fused.standin.Chain`), that share parameters and buffers,
    and whose other attributes are those of the model in every pass; what a pass changes there is changed in the model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: it stays the user's
        self._twins: dict[nn.Module, nn.Module] = {}
        self.arithmetic = "winograd"  # how it rounds, in a word
        self.twin = self._twin(model)
        own = list(self.modules())
        for chain in [part for part in own if isinstance(part, Chain)]:
            own += [part for joined in chain.joined if joined is not None for part in joined.modules()]
        own = list(dict.fromkeys(own))
        self.parts = [part for part in own if isinstance(part, FusedConv)]
        children = [(module, *module._modules.items()) for module in model.modules()]
        self.form = [children, list(map(type, own)), list(self._twins), [part.form for part in self.parts]]
        self.training = False  # its modules are the model's, and stay as these are

    def refresh(self) -> bool:
        """Take over today's weights; False where the model has become another, and this is of no use any more."""
        (model,) = self._model
        if not _suits(model) or Fused(model).form != self.form:
            return False
        self._take_over()
        for part in self.parts:
            if part.due:
                part.refresh()
        return True

    def _take_over(self) -> None:
        for module, twin in self._twins.items():
            _take_over(module, twin)

    def forward(self, x: Tensor) -> Any:
        self._take_over()
        before = [dict(vars(twin)) for twin in self._twins.values()]
        try:
            return self.twin(x)
        finally:
            for (module, twin), was in zip(self._twins.items(), before, strict=True):
                _hand_back(twin, was, module)

    def _twin(self, module: nn.Module) -> nn.Module:
        """A module with the same tensors, and twins of its children, their convolutions replaced."""
        if fits(module):
            return FusedConv([module], module, None)  # type: ignore[arg-type]
        if not module._modules or not plain(module):
            return module
        if module in self._twins:
            return self._twins[module]
        replaced = fused_pairs(module)
        if replaced:
            self.arithmetic = "winograd blocks"
        if whole := fused_block(module, replaced):
            return whole
        kind = Chain if type(module) is nn.Sequential else type(module)
        twin: nn.Module = object.__new__(kind)  # a class may have its own way to make one
        vars(twin).update(vars(module), _modules={}, training=False)
        self._twins[module] = twin
        if isinstance(twin, Chain):
            twin._modules, twin.joined = self._sequence(module._modules)  # type: ignore[assignment]
        else:
            for name, child in module._modules.items():
                twin._modules[name] = replaced.get(name) or (child and self._twin(child))
        return twin

    def _sequence(
        self, children: Mapping[str, nn.Module | None]
    ) -> tuple[dict[str, nn.Module | None], tuple[nn.Module | None, ...]]:
        """The children of a Sequential, each by itself; and its pass, each convolution with those it takes along.

        Where one follows directly on the ReLU of another, its gradient takes that of the ReLU along.
        """
        names, alone, joined = list(children), {}, []
        before: nn.Module | None = None
        while names:
            name = names.pop(0)
            child = children[name]
            alone[name] = part = child and self._twin(child)
            if isinstance(child, nn.Conv2d) and isinstance(part, FusedConv):
                layers: list[nn.Module] = [child]

                def take(
                    fits: Callable[[nn.Module | None], bool], layers: list[nn.Module] = layers
                ) -> nn.Module | None:
                    coming = children[names[0]] if names else None
                    if coming is None or not fits(coming):
                        return None
                    alone[names.pop(0)] = coming
                    layers.append(coming)
                    return coming

                norm = take(is_norm)
                if take(lambda layer: is_exactly(layer, nn.ReLU)) and child.weight.shape[1] > ops.CONV_FEW:
                    take(is_pool)
                part.late = True
                part = FusedConv(layers, child, norm)  # type: ignore[arg-type]
            elif isinstance(part, FusedBlock):
                part = part.again()
            joined.append(part)
            before = _after(before, part)
        return alone, tuple(joined)


def _after(before: nn.Module | None, part: nn.Module | None) -> nn.Module | None:
    """Lets the part gate the gradient that goes on to the one before it, if both can; that which may be gated next."""
    if isinstance(part, (FusedConv, FusedBlock)):
        if isinstance(before, (FusedConv, FusedBlock)) and part.may_gate:
            part.gates, before.gated = True, True
        return part if part.may_be_gated else None
    return None


def fused(model: nn.Module) -> Fused | None:
    """The model on our kernel, or None where it has no convolution for it; its other layers are shared, not copied.

    For evaluation of images float32 on the CPU, with gradients in the images but none in the weights, and for models
    without hooks. What is replaced are layers of exactly torch's own types; a BatchNorm2d, a ReLU and a MaxPool2d(2)
    only directly after their convolution in a Sequential, or in a residual block whose type says so
    (:mod:`rcfast.fused.block`). :meth:`Fused.refresh` takes over weights that have changed since.
    """
    if not _suits(model):
        return None
    twin = Fused(model)
    return twin if twin.parts and twin.refresh() else None


def _suits(model: nn.Module) -> bool:
    if ops.build_info()["instruction_set"] == "portable" or anybody_listens():  # slower there than torch
        return False
    if any(heard(module) for module in model.modules()):  # who listens may change the model, and not its twin
        return False
    return all(t.dtype == torch.float32 and t.device.type == "cpu" for t in model.parameters())


KEPT = ("_modules", "training", "joined")  # by a module and its twin, each its own
_NONE = object()


def _take_over(source: nn.Module, target: nn.Module) -> None:
    """Make the attributes of a module those of its twin."""
    theirs, own = vars(source), vars(target)
    for name, value in theirs.items():
        if own.get(name, _NONE) is not value and name not in KEPT:
            own[name] = value
    for name in own.keys() - theirs.keys():
        if name not in KEPT:
            del own[name]


def _hand_back(twin: nn.Module, before: Mapping[str, Any], module: nn.Module) -> None:
    """Change in a module what a pass has changed in its twin."""
    theirs, own = vars(twin), vars(module)
    for name, value in theirs.items():
        if before.get(name, _NONE) is not value and name not in KEPT:
            own[name] = value
    for name in before.keys() - theirs.keys():
        own.pop(name, None)
