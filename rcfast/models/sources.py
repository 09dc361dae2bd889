"""Networks from where people have them: torchvision, timm, transformers; normalisation goes inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..decoding import Preparation
from .libraries import KINDS, UNTRAINED, Metadata, library
from .network import Normalize
from .weights import classes_of, fill, read_weights


class Prepared(nn.Module):
    """A network with its normalisation before it: from images [N,C,H,W] in [0,1] to logits [N,L]."""

    def __init__(self, network: nn.Module, metadata: Metadata, architecture: dict[str, Any]) -> None:
        super().__init__()
        self.normalise = Normalize(metadata.mean, metadata.std)
        self.network = network
        self.metadata, self.architecture = metadata, architecture

    def described(self) -> dict[str, Any]:
        """What the weights and the architecture leave open, as JSON can say it."""
        return {
            **asdict(self.metadata),
            "transform_input": bool(getattr(self.network, "transform_input", False)),
        }

    def take(self, described: Mapping[str, Any]) -> None:
        """Be as a network was that said this of itself."""
        told = {name: _tuples(described[name]) for name in asdict(self.metadata)}
        self.metadata = Metadata(**{**told, "preparation": Preparation(**_tuples(described["preparation"]))})
        if hasattr(self.network, "transform_input"):
            self.network.transform_input = described["transform_input"]

    def forward(self, x: Tensor) -> Tensor:
        out = self.network(self.normalise(x))
        logits: Tensor = out if isinstance(out, Tensor) else out.logits
        return logits


def _tuples(value: Any) -> Any:
    """What JSON has made lists of."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def is_source(source: str) -> bool:
    """Whether this names a network of another library."""
    return source.partition(":")[0] in KINDS and ":" in source


def metadata(source: str, weights: str = "") -> Metadata:
    """What the source says about a network: `torchvision:NAME`, `timm:NAME` or `hf:FOLDER`.

    Raises ValueError for an unknown name or a folder without it, ImportError where the library is not installed.
    """
    return library(source).metadata(source.partition(":")[2], weights)


def load(source: str, *, weights: str = "", num_classes: int | None = None, seed: int = 0) -> Prepared:
    """The network of a source, in evaluation mode, with its normalisation inside.

    weights: "" for the source's own (torchvision and timm fetch them into their caches and check them, where they
    are not there yet; transformers reads its folder), "none" for random ones by `seed`, else a file: safetensors, or
    a PyTorch file, read with weights_only: a state dict, or one inside {"state_dict": …} or {"model": …}.
    num_classes: of the network; default: the source's, or that of the file. Where timm or transformers have weights for
        another number, their last layer is a new one, by `seed`.

    Raises ValueError for weights that do not fit, FileNotFoundError for a file that is not there, OSError where
    weights cannot be fetched.
    """
    made, name, about = library(source), source.partition(":")[2], metadata(source, weights)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        if weights in ("", UNTRAINED):
            given = num_classes if weights == UNTRAINED or num_classes != len(about.classes) else None
            network = made.build(name, trained=not weights, num_classes=given, file=None)
        else:
            tensors = read_weights(weights)
            network = made.build(name, trained=False, num_classes=num_classes, file=weights)
            other = classes_of(tensors, network)
            if other is not None and num_classes is None:
                num_classes = other
                network = made.build(name, trained=False, num_classes=other, file=weights)
            fill(network, tensors, weights)
    if weights == UNTRAINED or num_classes not in (None, len(about.classes)):
        about = replace(about, classes=())
    architecture = {"name": source, "num_classes": num_classes, "seed": seed}
    return Prepared(network, about, architecture).eval()
