"""Splits of a data set: images in [0,1] and integer labels, in memory or on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .images import Images

TOLERANCE = 1e-6  # rounding that a float image may carry beyond [0,1]
MAX_VALIDATION = 5_000  # Table 2
Sizes = tuple[int, int, tuple[int, ...]]  # training examples, test examples, (C,H,W)


@dataclass(frozen=True, eq=False)
class Split:
    """Examples `x` [N,C,H,W] float32 in [0,1] and their labels `y` [N] int64; arrays become tensors.

    `x` may lie on disk (`Images`): indices, slices and `x.split(n)` read tensors from it.
    """

    x: Tensor | Images
    y: Tensor

    def __post_init__(self) -> None:
        for name, kinds in (("x", (Tensor, Images)), ("y", (Tensor,))):
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                object.__setattr__(self, name, torch.from_numpy(np.ascontiguousarray(native(value))))
            elif not isinstance(value, kinds):
                raise TypeError(f"{name} must be a tensor or an array, got {type(value).__name__}")
        if len(self.x) != len(self.y):
            raise ValueError(f"x and y must have the same length, got {len(self.x)} and {len(self.y)}")

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device | str) -> Split:
        """The split on a device; images that lie on disk stay there, and are read to it."""
        x = self.x.read_to(device) if isinstance(self.x, Images) else self.x.to(device)
        return Split(x, self.y.to(device))

    def take(self, index: Tensor) -> Split:
        """The examples at the indices [n] int64, in their order."""
        x = self.x.take(index.cpu().numpy()) if isinstance(self.x, Images) else self.x[index]
        return Split(x, self.y[index])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of shapes, dtypes and content: equal exactly for equal examples in equal order."""
        digest = hashlib.sha256()
        for part in (self.x, self.y):
            digest.update(f"{part.dtype} {tuple(part.shape)};".encode())
            if isinstance(part, Images):
                digest.update(part.digest)
            else:
                digest.update(part.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of one data set; labels are 0 … num_classes − 1, called `classes` where that is known."""

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    classes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of one example."""
        return tuple(self.test.x.shape[1:])

    @property
    def sizes(self) -> Sizes:
        """Training examples with those held out for validation, test examples, (C,H,W)."""
        return len(self.train) + len(self.validation), len(self.test), self.shape

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the content of all three splits."""
        parts = (self.train.fingerprint, self.validation.fingerprint, self.test.fingerprint)
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a data set beyond its name; see `rcfast.data.load`."""

    validation: int | None = None
    test: int | None = None
    seed: int = 0
    classes: Sequence[str] | int | None = None
    some_classes: bool = False
    size: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        for name in ("validation", "test", "size", "seed"):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if value is None:
                continue
            bad = isinstance(value, bool) or not isinstance(value, int)
            if bad or (value < least and name != "validation"):  # whose bound depends on the examples
                raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")

    @property
    def num_classes(self) -> int | None:
        """Of the network, where that is known."""
        if self.classes is None or isinstance(self.classes, int):
            return self.classes
        return len(self.classes)


def divide(
    name: str, train: Split, test: Split, wanted: Wanted, *, validation: Split | None = None, **more: object
) -> Dataset:
    """The data set: a validation split taken from the training examples unless there is one, parts of what is there.

    Raises ValueError for more examples than there are.
    """
    n = len(train)
    if validation is None:
        held = min(MAX_VALIDATION, max(1, n // 6)) if wanted.validation is None else wanted.validation
        if not 1 <= held < n:
            raise ValueError(f"validation must be an integer in [1, {n - 1}], got {held!r}")
        order = torch.from_numpy(shuffled(n, wanted.seed))
        validation, train = train.take(order[:held]), train.take(order[held:])
    elif wanted.validation is not None:
        validation = some("validation", validation, wanted.validation, wanted.seed)
    if wanted.test is not None:
        test = some("test", test, wanted.test, wanted.seed)
    return Dataset(name, train, validation, test, **more)  # type: ignore[arg-type]


def some(what: str, split: Split, count: int, seed: int) -> Split:
    """So many examples of a split, drawn by the seed and in their order. Raises ValueError."""
    if not 1 <= count <= len(split):
        raise ValueError(f"{what} must lie in [1, {len(split)}], the examples that are there, got {count}")
    return split.take(torch.from_numpy(np.sort(shuffled(len(split), seed)[:count])))


def check_all_there(y: Tensor, num_classes: int, what: str) -> None:
    """Raise ValueError where a label has no example among y [N] int64: a network made for the data needs them."""
    absent = (torch.bincount(y, minlength=num_classes) == 0).nonzero().flatten().tolist()
    if absent or num_classes < 2:
        fault = f"label {absent[0]} has no example" if absent else "there is only one label"
        raise ValueError(f"{what} must hold every label 0 … L−1, L >= 2, but {fault}")


def shuffled(n: int, seed: int) -> np.ndarray:
    # NumPy promises to keep the raw stream of a bit generator for ever, but not that of `permutation`.
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")


def native(values: np.ndarray) -> np.ndarray:
    """An array in this machine's byte order, long doubles as doubles: what torch can take."""
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        return values.astype(np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)
