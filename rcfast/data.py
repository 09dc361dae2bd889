"""Data sets as tensors: images in [0,1], integer labels, and a validation split chosen by a seed."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

NAMES = ("digits", "mnist", "cifar10")
KEYS = ("x_train", "y_train", "x_test", "y_test")
TOLERANCE = 1e-6  # rounding that a float image may carry beyond [0,1]
MAX_VALIDATION = 5_000  # Table 2
DIGITS_TEST = 360
Sizes = tuple[int, int, tuple[int, ...]]  # training examples, test examples, (C,H,W)
PUBLISHED: dict[str, Sizes] = {  # a file of another size is not the set of this name
    "mnist": (60_000, 10_000, (1, 28, 28)),
    "cifar10": (50_000, 10_000, (3, 32, 32)),
}


@dataclass(frozen=True, eq=False)
class Split:
    """Examples `x` [N,C,H,W] float32 in [0,1] and their labels `y` [N] int64; arrays become tensors."""

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                object.__setattr__(self, name, torch.from_numpy(np.ascontiguousarray(_native(value))))
            elif not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a tensor or an array, got {type(value).__name__}")
        if len(self.x) != len(self.y):
            raise ValueError(f"x and y must have the same length, got {len(self.x)} and {len(self.y)}")

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device | str) -> Split:
        return Split(self.x.to(device), self.y.to(device))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of shapes, dtypes and content: equal exactly for equal examples in equal order."""
        digest = hashlib.sha256()
        for tensor in (self.x, self.y):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of one data set; labels are 0 … num_classes − 1."""

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of one example."""
        return tuple(self.train.x.shape[1:])

    @property
    def sizes(self) -> Sizes:
        """Training examples with those held out for validation, test examples, (C,H,W)."""
        return len(self.train) + len(self.validation), len(self.test), self.shape

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the content of all three splits."""
        parts = (self.train.fingerprint, self.validation.fingerprint, self.test.fingerprint)
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def load(
    name_or_path: str | os.PathLike[str] = "digits",
    root: str | os.PathLike[str] | None = None,
    *,
    validation: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a data set and split a validation set off its training examples.

    name_or_path: `digits` (scikit-learn's 1,797 8×8 images, embedded), `mnist` or `cifar10`
        (`<root>/<name>.npz` if it is there, else torchvision's download, verified by checksum and kept as
        that file), or the path of an `.npz` in the Keras layout: x_train, x_test uint8 [N,H,W] or [N,H,W,C],
        or float in [0,1]; y_train, y_test integers [N] that start at 0.
    root: folder of the data; default: the environment variable RCFAST_DATA, else `rcfast` in the user's
        cache.
    validation: number of validation examples; default: a sixth of the training examples, at most 5,000, which
        gives Table 2's 55,000 / 5,000 (MNIST) and 45,000 / 5,000 (CIFAR-10).
    seed: chooses which examples these are. The test set never depends on it.

    Raises ValueError that names the file and its fault, FileNotFoundError for a path that is not there,
    OSError where a download fails. A faulty file is never used in part.
    """
    name = os.fspath(name_or_path)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be an integer >= 0, got {seed!r}")
    if name == "digits":
        return _assemble("digits", _digits(), "scikit-learn's digits", validation, seed)
    if name in NAMES:
        folder = data_root(root)
        path = folder / f"{name}.npz"
        if not path.is_file():
            _download(name, path)
    elif name.endswith(".npz"):
        path = Path(name)
        if not path.is_file() and root is not None and (Path(root) / path).is_file():
            path = Path(root) / path
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
    else:
        raise ValueError(
            f"unknown data set {name!r}: expected one of {', '.join(NAMES)} or a path ending in .npz"
        )
    loaded = _assemble(path.stem, _read_npz(path), str(path), validation, seed, expected=PUBLISHED.get(name))
    if path.stem in NAMES and loaded.sizes != PUBLISHED.get(path.stem):
        return replace(loaded, name=path.name)  # a user's mnist.npz that is not MNIST: not to be taken for it
    return loaded


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of data sets: the argument, else RCFAST_DATA, else `rcfast` in the user's cache (XDG)."""
    chosen = root if root is not None else os.environ.get("RCFAST_DATA")
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path in the variable is to be ignored.
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "rcfast"


def _shuffled(n: int, seed: int) -> np.ndarray:
    # NumPy promises to keep the raw stream of a bit generator for ever, but not that of `permutation`.
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")


def _digits() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = (digits.images / 16.0).astype(np.float32), digits.target
    order = _shuffled(len(y), 0)
    train, test = order[DIGITS_TEST:], order[:DIGITS_TEST]
    return {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            missing = [key for key in KEYS if f"{key}.npy" not in archive.namelist()]
            if missing:
                raise ValueError(f"{path}: missing {', '.join(missing)} (expected {', '.join(KEYS)})")
            for key in KEYS:
                # Reading the whole member first verifies its checksum.
                member = io.BytesIO(archive.read(f"{key}.npy"))
                try:
                    arrays[key] = np.lib.format.read_array(member, allow_pickle=False)
                except ValueError as error:
                    raise ValueError(f"{path}: {key} is not a plain array ({error})") from error
    except (zipfile.BadZipFile, EOFError, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        raise ValueError(f"{path}: truncated or damaged, or not an .npz file ({error})") from error
    return arrays


def _channels_first(shape: tuple[int, ...]) -> bool:
    """Whether a shape is plainly (C,H,W): few channels and a last side of more than 4, or a square of other sides."""
    first, second, third = shape
    return first <= 4 and (third > 4 or (second == third != first and first in (1, 3)))


def _native(values: np.ndarray) -> np.ndarray:
    """An array in this machine's byte order, long doubles as doubles: what torch can take."""
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        return values.astype(np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _images(values: np.ndarray, what: str) -> Tensor:
    """Images [N,H,W] or [N,H,W,C] as [N,C,H,W] float32 in [0,1]."""
    if values.ndim not in (3, 4) or 0 in values.shape:
        raise ValueError(f"{what} must be [N,H,W] or [N,H,W,C] and not empty, got shape {list(values.shape)}")
    if values.ndim == 3:
        values = values[..., None]
    if _channels_first(values.shape[1:]):
        raise ValueError(
            f"{what} must have its channels last, got shape {list(values.shape)}: use array.transpose(0, 2, 3, 1)"
        )
    values = _native(values)
    if values.dtype == np.uint8:
        if values.max() <= 1:
            raise ValueError(
                f"{what} is uint8 with maximum {values.max()}: uint8 means 0 … 255, use float for [0,1]"
            )
    elif values.dtype.kind == "f":
        if not np.isfinite(values).all():
            at = np.argwhere(~np.isfinite(values))[0].tolist()
            raise ValueError(f"{what} must be finite, got {values[tuple(at)]} at {at}")
        if values.min() < -TOLERANCE or values.max() > 1 + TOLERANCE:
            raise ValueError(
                f"{what} must lie in [0, 1], got values from {values.min():g} to {values.max():g}"
            )
    else:
        raise ValueError(f"{what} must be uint8 or float in [0, 1], got {values.dtype}")
    images = torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2))).to(torch.float32)
    return images.div_(255) if values.dtype == np.uint8 else images.clamp_(0, 1)


def _labels(values: np.ndarray, count: int, what: str) -> Tensor:
    """Labels [N] or [N,1] as [N] int64."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape != (count,):
        raise ValueError(
            f"{what} must be [{count}], one label for each image, got shape {list(values.shape)}"
        )
    if values.dtype.kind not in "iu":
        raise ValueError(f"{what} must be integers, got {values.dtype}")
    return torch.from_numpy(values.astype(np.int64))


def _check_labels(y: Tensor, num_classes: int, what: str) -> None:
    wrong = (y < 0) | (y >= num_classes)
    if wrong.any():
        at = int(wrong.nonzero()[0])
        raise ValueError(f"{what} must lie in [0, {num_classes - 1}], got {int(y[at])} at index {at}")


def _assemble(
    name: str,
    arrays: Mapping[str, np.ndarray],
    source: str,
    validation: int | None,
    seed: int,
    expected: Sizes | None = None,
) -> Dataset:
    """Check everything, then split; `source` begins every message."""
    x = {part: _images(arrays[f"x_{part}"], f"{source}: x_{part}") for part in ("train", "test")}
    y = {
        part: _labels(arrays[f"y_{part}"], len(x[part]), f"{source}: y_{part}") for part in ("train", "test")
    }
    shape, other = tuple(x["train"].shape[1:]), tuple(x["test"].shape[1:])
    if shape != other:
        raise ValueError(f"{source}: x_train and x_test must have one shape (C,H,W), got {shape} and {other}")
    found = (len(x["train"]), len(x["test"]), shape)
    if expected is not None and found != expected:
        said = "{} training and {} test images of shape (C,H,W) = {}"
        raise ValueError(
            f"{source}: {name} has {said.format(*expected)}, this file {said.format(*found)}; load a data set of "
            "your own by the path of its file"
        )
    num_classes = 10 if expected is not None else int(y["train"].max()) + 1
    for part in ("train", "test"):
        _check_labels(y[part], num_classes, f"{source}: y_{part}")
    absent = (torch.bincount(y["train"], minlength=num_classes) == 0).nonzero().flatten().tolist()
    if absent or num_classes < 2:
        fault = f"label {absent[0]} has no example" if absent else "there is only one label"
        raise ValueError(f"{source}: y_train must hold every label 0 … L−1, L >= 2, but {fault}")

    n = len(x["train"])
    held = min(MAX_VALIDATION, max(1, n // 6)) if validation is None else validation
    if isinstance(held, bool) or not isinstance(held, int) or not 1 <= held < n:
        raise ValueError(f"validation must be an integer in [1, {n - 1}], got {held!r}")
    order = torch.from_numpy(_shuffled(n, seed))
    parts = {"validation": order[:held], "train": order[held:]}
    splits = {part: Split(x["train"][index], y["train"][index]) for part, index in parts.items()}
    return Dataset(name, splits["train"], splits["validation"], Split(x["test"], y["test"]), num_classes)


def _torchvision(name: str, folder: str) -> dict[str, np.ndarray]:
    from torchvision import datasets

    make: Callable[..., object] = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
    arrays = {}
    for part in ("train", "test"):
        downloaded = make(folder, train=part == "train", download=True)
        arrays[f"x_{part}"] = np.asarray(downloaded.data)  # type: ignore[attr-defined]
        arrays[f"y_{part}"] = np.asarray(downloaded.targets)  # type: ignore[attr-defined]
    return arrays


def _download(name: str, path: Path) -> None:
    """Write `path` from torchvision's download, which verifies checksums; all or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{name}-") as folder:
            arrays = _torchvision(name, folder)
            whole = Path(folder) / path.name
            np.savez_compressed(whole, **arrays)  # type: ignore[arg-type]
            os.replace(whole, path)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"{name} is not at {path} and could not be downloaded ({error}); put {name}.npz "
            f"({', '.join(KEYS)}) there, or name its folder by root or RCFAST_DATA"
        ) from error
