"""Data sets that are arrays: scikit-learn's digits, MNIST and CIFAR-10, and `.npz` files of the user's own."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .splits import TOLERANCE, Dataset, Sizes, Split, Wanted, check_all_there, divide, native, shuffled

KEYS = ("x_train", "y_train", "x_test", "y_test")
DIGITS_TEST = 360
PUBLISHED: dict[str, Sizes] = {  # a file of another size is not the set of this name
    "mnist": (60_000, 10_000, (1, 28, 28)),
    "cifar10": (50_000, 10_000, (3, 32, 32)),
}


def digits() -> dict[str, np.ndarray]:
    table = np.loadtxt(_digits_file(), delimiter=",")  # of a row: 64 pixels in 0 … 16, the label
    x, y = (table[:, :-1].reshape(-1, 8, 8) / 16.0).astype(np.float32), table[:, -1].astype(np.int64)
    order = shuffled(len(y), 0)
    train, test = order[DIGITS_TEST:], order[:DIGITS_TEST]
    return {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}


def _digits_file() -> Path:
    """Where scikit-learn keeps its digits; importing it takes longer than importing torch, in every process."""
    if (found := find_spec("sklearn")) is None or found.origin is None:
        raise ModuleNotFoundError("the digits data set comes with scikit-learn: pip install scikit-learn")
    return Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"


def read_npz(path: Path) -> dict[str, np.ndarray]:
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
    values = native(values)
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


def assemble(
    name: str,
    arrays: Mapping[str, np.ndarray],
    source: str,
    wanted: Wanted,
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
    num_classes = 10 if expected is not None else wanted.num_classes or int(y["train"].max()) + 1
    for part in ("train", "test"):
        _check_labels(y[part], num_classes, f"{source}: y_{part}")
    if wanted.num_classes is None and not wanted.some_classes:
        check_all_there(y["train"], num_classes, f"{source}: y_train")
    train, test = (Split(x[part], y[part]) for part in ("train", "test"))
    return divide(name, train, test, wanted, num_classes=num_classes)


def _torchvision(name: str, folder: str) -> dict[str, np.ndarray]:
    from torchvision import datasets

    make: Callable[..., object] = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
    arrays = {}
    for part in ("train", "test"):
        downloaded = make(folder, train=part == "train", download=True)
        arrays[f"x_{part}"] = np.asarray(downloaded.data)  # type: ignore[attr-defined]
        arrays[f"y_{part}"] = np.asarray(downloaded.targets)  # type: ignore[attr-defined]
    return arrays


def download(name: str, path: Path) -> None:
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
