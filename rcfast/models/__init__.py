"""Networks by name: each maps images [N,C,H,W] in [0,1] to logits [N,L]; name and settings rebuild it."""

from __future__ import annotations

from typing import Any, Protocol

from .cnn import digits_cnn, mnist_cnn
from .libraries import Metadata
from .network import ARCHITECTURES, Network
from .resnet import cifar_resnet
from .sources import Prepared, is_source, load, metadata

__all__ = [
    "ARCHITECTURES",
    "Metadata",
    "Network",
    "Prepared",
    "build",
    "cifar_resnet",
    "digits_cnn",
    "for_dataset",
    "is_source",
    "load",
    "metadata",
    "mnist_cnn",
]


class _Described(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def num_classes(self) -> int: ...


def build(name: str, **config: Any) -> Network | Prepared:
    """The network of this name. `build(**model.architecture)` makes one like `model`, with its first weights.

    name: of ours, or a source of another library (`torchvision:resnet50`, see :func:`load`), untrained.

    Raises ValueError for an unknown name, TypeError for an unknown setting.
    """
    if is_source(name):
        return load(name, weights="none", **config)
    if name not in ARCHITECTURES:
        raise ValueError(f"name must be one of {', '.join(sorted(ARCHITECTURES))}, got {name!r}")
    return ARCHITECTURES[name](**config)


def for_dataset(dataset: _Described, **config: Any) -> Network | Prepared:
    """The network that suits a data set's shape (C,H,W) and number of classes.

    digits_cnn for sides below 20 pixels, mnist_cnn for other one-channel images, cifar_resnet for colour.
    """
    channels, *sides = dataset.shape
    if min(sides) < 20:
        name = "digits_cnn"
    else:
        name = "mnist_cnn" if channels == 1 else "cifar_resnet"
    return build(name, **{"shape": dataset.shape, "num_classes": dataset.num_classes, **config})
