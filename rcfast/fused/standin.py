"""Modules in the places of a model's own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class StandIn(nn.Module):
    """In the place of a layer, maybe with those after it; what a network asks of it beside its result, it answers."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.training = False  # nobody is to find modules here that are in training mode
        self._own = layers  # in a tuple: they stay the model's

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if not self.__dict__.get("_own"):
                raise
            return getattr(self._own[0], name)

    def extra_repr(self) -> str:
        return ", ".join(map(repr, self._own))


class Taken(StandIn):
    """Of a layer that another one takes along: nothing is left to do."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Chain(nn.Sequential):
    """A Sequential whose pass goes through `joined`, in which parts take along what follows them.

    Its children, for a network that takes them one by one, are those of the model, each by itself.
    """

    joined: tuple[nn.Module | None, ...] = ()

    def forward(self, x: Any) -> Any:
        if not self.joined:  # a slice
            return super().forward(x)
        for part in self.joined:
            x = part(x)  # type: ignore[misc]  # None raises, as in torch
        return x
