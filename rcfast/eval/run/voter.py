"""A network as it votes: always in the same way, so that it always rounds alike."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rcfast.eval.run.config import ConfigError
from rcfast.fused import fused
from rcfast.hardware import automatic_dtype, too_coarse
from rcfast.regions import Region
from rcfast.running import Plain, floating_dtype, plain, tensors


def precision(dtype: str, region: Region, like: Tensor) -> str:
    """Return the precision in which points of a region around examples such as `like` [1,...] are drawn and voted on.

    dtype: its name, "" for the network's own; "auto" is what the device multiplies fastest, but float32 for a region
    that is small beside the grid of bfloat16, as for :class:`rcfast.RegionClassifier`.
    """
    if dtype != "auto":
        return dtype
    coarse = too_coarse(torch.bfloat16, region.spread(like[0].numel()))
    return str(torch.float32 if coarse else automatic_dtype(like.device)).removeprefix("torch.")


class Voter:
    """A network as a plain function from points [N,...] to logits, in one precision.

    Given the module itself, the classifier picks precision and memory format by timing, and a vote on a tie could
    differ between two runs. Here the first way that the network can go is taken: its convolutions on our kernel,
    channels_last, contiguous.

    dtype: name of the precision; "" for that of the network. Raises ConfigError where it cannot be had.
    """

    def __init__(self, model: nn.Module, dtype: str = "") -> None:
        kind = getattr(torch, dtype) if dtype else None
        own = kind is None or not tensors(model) or floating_dtype(model) == kind
        self.dtype, self._plain = dtype, plain(model if own else _converted(model, dtype))
        self._fused: dict[Any, Plain | None] = {}

    def __call__(self, points: Tensor) -> Tensor:
        if self._plain.needs(points).channels_last:
            points = points.to(memory_format=torch.channels_last)
        return (self._on_our_kernel(points) or self._plain)(points)

    def arithmetic(self, like: Tensor) -> str:
        """Return how votes on such points are computed, as keys say it: what rounds otherwise is another part."""
        twin = self._on_our_kernel(like)
        return f"{self.dtype} {twin.model.arithmetic}".strip() if twin else self.dtype

    def _on_our_kernel(self, points: Tensor) -> Plain | None:
        key = (points.shape[1:], points.device)
        if key not in self._fused:
            twin = _fused(self._plain.model)
            self._fused[key] = twin if twin is not None and self._plain.agrees(twin, points) else None
        return self._fused[key]


def _fused(model: Any) -> Plain | None:
    try:
        twin = fused(model)
    except (
        AttributeError,
        TypeError,
        RuntimeError,
    ):  # a module that is no ordinary object, such as TorchScript
        return None
    return None if twin is None else plain(twin)


def _converted(model: nn.Module, dtype: str) -> nn.Module:
    try:
        return copy.deepcopy(model).to(getattr(torch, dtype))
    except Exception as error:  # whatever a module does to say that there is one of it
        raise ConfigError(
            f"vote.dtype: the network cannot be copied in {dtype} ({error}); take its own: --set vote.dtype="
        ) from error
