"""The settings of a training run, and those that were measured for our networks."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import nn

from rcfast.hardware import automatic_dtype
from rcfast.training.checkpoints import architecture_of

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of stochastic gradient descent under a one-cycle schedule.

    epochs, batch_size: passes over the examples; examples in a minibatch (as equal as possible, none left
        out).
    lr: highest learning rate; it rises linearly over the share `warmup` of the steps and falls to 0 as a
        cosine.
    optimizer: `sgd` with Nesterov momentum, or `adam` (AdamW; Kingma and Ba, 2015), whose steps do not depend on
        the scale of the loss and want an lr near 0.001.
    momentum: of the gradient; Adam's beta_1. weight_decay: acts on matrices and kernels, not on biases or
        normalisation.
    label_smoothing: of the cross-entropy.
    shift: largest random translation in pixels, each axis uniform on −shift … shift, filled with 0.
    flip: mirror half of the images, left to right.
    precision: of the network's arithmetic; `auto` is bfloat16 where the device has units for it. Weights,
        loss and optimiser stay float32.
    channels_last: memory format of images and kernels in training.

    Raises ValueError or TypeError that names the setting and its value.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.1
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    warmup: float = 0.25
    shift: int = 0
    flip: bool = False
    precision: Precision = "auto"
    channels_last: bool = True

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("shift", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, got {value!r}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive and finite, got {self.lr}")
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum must lie in (0, 1), got {self.momentum}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0 and finite, got {self.weight_decay}")
        for name in ("label_smoothing", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer must be sgd or adam, got {self.optimizer!r}")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision must be auto, float32 or bfloat16, got {self.precision!r}")

    def learning_rate(self, step: int, steps: int) -> float:
        """Of step 0 … steps − 1 (Smith and Topin, 2017; cosine descent)."""
        rise = self.warmup * steps
        if step + 1 <= rise:
            return self.lr * (step + 1) / rise
        return self.lr * (1 + math.cos(math.pi * (step + 1 - rise) / (steps + 1 - rise))) / 2

    def dtype(self, device: torch.device) -> torch.dtype:
        """What `precision` means on this device."""
        if self.precision == "auto":
            return automatic_dtype(device)
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def on(self, device: torch.device) -> Recipe:
        """The same recipe with the precision that it has on this device in the place of `auto`."""
        low = self.dtype(device) == torch.bfloat16
        return replace(self, precision="bfloat16" if low else "float32")


RECIPES: dict[str, Recipe] = {
    "digits_cnn": Recipe(epochs=30, batch_size=64, lr=0.1, shift=1),
    "mnist_cnn": Recipe(epochs=6, batch_size=128, lr=0.1, shift=1),
    "cifar_resnet": Recipe(epochs=60, batch_size=128, lr=0.2, shift=4, flip=True),
}


def recipe_for(model: nn.Module, **settings: Any) -> Recipe:
    """The measured recipe of a network of `rcfast.models`, the general one for others; `settings` change it.

    Raises TypeError for an unknown setting.
    """
    known = {field.name for field in fields(Recipe)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise TypeError(f"unknown setting {unknown[0]!r}: expected one of {', '.join(sorted(known))}")
    architecture = architecture_of(model) or {}
    return replace(RECIPES.get(architecture.get("name", ""), Recipe()), **settings)
