"""What all networks share: a name and configuration that rebuild them, and weights that a seed decides."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
from torch import Tensor, nn

P = ParamSpec("P")


class Network(nn.Module):
    """A stack of layers from images [N,C,H,W] in [0,1] to logits [N,L].

    architecture: {"name": …, and every setting}; `rcfast.models.build(**architecture)` makes the same
        network.
    """

    def __init__(self, layers: nn.Sequential, architecture: dict[str, Any]) -> None:
        super().__init__()
        self.layers = layers
        self.architecture = architecture

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Normalize(nn.Module):
    """(x − mean) / std per channel; the constants are buffers, which travel with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _initialise(layers: nn.Module) -> None:
    """He et al. (2015): with torch's own smaller weights the first epoch of mnist_cnn stays near chance."""
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


ARCHITECTURES: dict[str, Callable[..., Network]] = {}


def register(factory: Callable[P, nn.Sequential]) -> Callable[P, Network]:
    """Name a factory of layers: its `seed` decides the first weights, its settings become `architecture`."""
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> Network:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        settings = {key: list(v) if isinstance(v, tuple) else v for key, v in bound.arguments.items()}
        # The caller's random state is neither used nor moved.
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(bound.arguments["seed"])
            layers = factory(*args, **kwargs)
            _initialise(layers)
        return Network(layers, {"name": factory.__name__, **settings})

    ARCHITECTURES[factory.__name__] = make
    return make


def check_shape(shape: tuple[int, ...] | list[int], num_classes: int, *, least: int) -> tuple[int, int, int]:
    """(C, H, W), after checking that the layers leave something of an image of that size."""
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < least:
        raise ValueError(f"shape must be (C, H, W) with sides of at least {least}, got {tuple(shape)}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    return shape[0], shape[1], shape[2]
