"""What every region offers: the only interface through which votes, attacks and certificates see one."""

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Region(ABC):
    """A distribution of points around every example, and its size.

    Regions are immutable; they print, compare and hash by value. The size is a number, or a float32 tensor [B]
    with one for each example of every batch.
    """

    SIZE: ClassVar[str]  # the name of the field that holds the size

    @property
    def size(self) -> float | Tensor:
        """The size: what the field ``SIZE`` holds, a number or float32 [B]."""
        size: float | Tensor = getattr(self, self.SIZE)
        return size

    def resized(self, size: float | Tensor) -> Self:
        """The same region with another size, checked: TypeError or ValueError."""
        return replace(self, **{self.SIZE: size})

    def check(self, shape: torch.Size) -> None:
        """Whether it fits examples of the shape [B, ...]. Raises ValueError."""
        size = self.size
        if isinstance(size, Tensor) and size.shape != shape[:1]:
            raise ValueError(
                f"{self.SIZE} must be a number or have the shape [{shape[0]}] of the batch, got {list(size.shape)}"
            )

    def reach(self, n: int) -> float | Tensor:
        """The L2 distance at which a point's weight ends in a vote weighted by distance, for ``n`` coordinates.

        The greatest distance of a point, or twice the root mean square where there is no greatest. A number, or
        float32 [B] where the size is. Raises ValueError where distances tell nothing.
        """
        raise ValueError(f"weights = 'distance' needs a region that has a reach, got {self!r}")

    def spread(self, n: int) -> float | Tensor | None:
        """How far coordinates lie from the example's, for ``n`` of them: √3 times the root mean square, which for a
        hypercube is its half-width. A number, or float32 [B] where the size is; None where it is not known."""
        return None

    def to(self, device: torch.device) -> Self:
        """The same region with its tensors on ``device``."""
        return self._changed(lambda tensor: tensor.to(device))

    def take(self, some: Tensor) -> Self:
        """The region of the examples ``some`` (indices int64 [A]) of its batch."""
        return self._changed(lambda tensor: tensor[some] if tensor is self.size else tensor)

    @abstractmethod
    def fill(
        self, out: Tensor, x: Tensor, *, seed: int | Tensor, example_ids: Tensor, first_sample: int
    ) -> None:
        """Overwrite ``out`` [B, s, ...] with points ``first_sample`` and following around ``x`` [B, ...].

        A point is a function of (seed, example id, sample index) and its example alone. ``out``: float32, float16
        or bfloat16, contiguous or channels_last; ``x`` float32; ``example_ids`` int64 [B]; all on one device.
        Raises TypeError or ValueError; values of ``x`` are a promise, not checked.
        """

    @abstractmethod
    def vjp(
        self, x: Tensor, points: Tensor, grad: Tensor, *, seed: int, example_ids: Tensor, first_sample: int
    ) -> Tensor:
        """The gradient with respect to ``x`` [B, ...] of anything whose gradient at the points is ``grad``.

        ``points`` [B, s, ...] as :meth:`fill` made them with the same address, ``grad`` like them -> float32 like
        ``x``: the sum over s of the points' transposed Jacobians times ``grad``, the random numbers held fixed. At
        a kink (a clamped coordinate) a one-sided derivative.
        """

    def identity(self) -> dict[str, Any]:
        """What it is, as JSON knows it: the name of the class and every field. Parts of a run are keyed by it."""
        found: dict[str, Any] = {"region": type(self).__name__}
        for field in fields(self):
            value = getattr(self, field.name)
            found[field.name] = value.tolist() if isinstance(value, Tensor) else value
        return found

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.identity() == other.identity()

    def __hash__(self) -> int:
        return hash(json.dumps(self.identity(), sort_keys=True))

    def __repr__(self) -> str:
        shown = []
        for field in sorted(fields(self), key=lambda field: field.name != self.SIZE):
            value = getattr(self, field.name)
            shown.append(f"{field.name}={_shown(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        """A copy with ``change`` applied to every tensor; not checked again, for that would wait for a device."""
        twin = copy.copy(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                object.__setattr__(twin, field.name, change(value))
        return twin


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"[{len(value)} lengths]" if value.ndim == 1 else f"{list(value.shape)}"
    return named(value) if callable(value) else repr(value)


def named(function: Any) -> str:
    """Its name with that of its module, the same in every process: an address would not be."""
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}.{kind.__qualname__}"


def clamped(points: Tensor, grad: Tensor) -> Tensor:
    """``grad`` where a point is inside (0, 1), 0 where it was clamped to an end."""
    return torch.where((points > 0) & (points < 1), grad, 0)
