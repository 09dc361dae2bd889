"""Data sets: images in [0,1], integer labels, and a validation split chosen by a seed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..decoding import Preparation
from . import arrays
from .arrays import KEYS, PUBLISHED
from .folder import load_folder
from .images import Images, cache_root
from .parquet import is_parquet, load_parquet
from .splits import MAX_VALIDATION, TOLERANCE, Dataset, Sizes, Split, Wanted

__all__ = [
    "KEYS",
    "MAX_VALIDATION",
    "NAMES",
    "PUBLISHED",
    "TOLERANCE",
    "Dataset",
    "Images",
    "Preparation",
    "Sizes",
    "Split",
    "data_root",
    "load",
]

NAMES = ("digits", "mnist", "cifar10")


def load(
    name_or_path: str | os.PathLike[str] = "digits",
    root: str | os.PathLike[str] | None = None,
    *,
    validation: int | None = None,
    test: int | None = None,
    seed: int = 0,
    size: int | None = None,
    preparation: Preparation | None = None,
    classes: Sequence[str] | int | None = None,
    some_classes: bool = False,
    progress: bool = False,
) -> Dataset:
    """Load a data set and split a validation set off its training examples.

    name_or_path: `digits` (scikit-learn's 1,797 8×8 images, embedded), `mnist` or `cifar10`
        (`<root>/<name>.npz` if it is there, else torchvision's download, verified by checksum and kept as
        that file), or a path: an `.npz` in the Keras layout: x_train, x_test uint8 [N,H,W] or [N,H,W,C],
        or float in [0,1]; y_train, y_test integers [N] that start at 0; a folder of images in ImageFolder layout;
        or Parquet, a file or a folder of them. Images of folders and Parquet are decoded once by worker processes
        into the user's cache, and stay on disk (`Images`).
    root: folder of the data; default: the environment variable RCFAST_DATA, else `rcfast` in the user's
        cache.
    validation: number of validation examples; default: a sixth of the training examples, at most 5,000, which
        gives Table 2's 55,000 / 5,000 (MNIST) and 45,000 / 5,000 (CIFAR-10).
    test: number of test examples, drawn by the seed; default: all.
    seed: chooses which examples these are. The whole test set never depends on it.
    size: images of a folder or Parquet are resized to this shorter side, and their centre is cut out, a square.
    preparation: the same in full, as a network's metadata say (`rcfast.models.metadata`).
    classes: of the network that will see the data, their number or their names; then some may be missing.
    some_classes: labels may be missing also where the network's classes are not known.
    progress: show a bar while images are decoded.

    Raises ValueError that names the file and its fault, FileNotFoundError for a path that is not there,
    OSError where a download fails or decoded images have no room. A faulty file is never used in part.
    """
    wanted = Wanted(
        validation=validation,
        test=test,
        seed=seed,
        size=size,
        classes=classes,
        some_classes=some_classes,
        progress=progress,
    )
    name = os.fspath(name_or_path)
    if root is not None:
        root = Path(root).expanduser()
    if name == "digits":
        _as_they_are(name, size)
        return arrays.assemble("digits", arrays.digits(), "scikit-learn's digits", wanted)
    if name in NAMES:
        path = data_root(root) / f"{name}.npz"
        if not path.is_file():
            arrays.download(name, path)
    else:
        path = _find(name, root)
    if is_parquet(path):
        return load_parquet(path, wanted, preparation)
    if path.is_dir():
        return load_folder(path, wanted, preparation)
    _as_they_are(name, size)
    loaded = arrays.assemble(path.stem, arrays.read_npz(path), str(path), wanted, PUBLISHED.get(name))
    if path.stem in NAMES and loaded.sizes != PUBLISHED.get(path.stem):
        return replace(loaded, name=path.name)  # a user's mnist.npz that is not MNIST: not to be taken for it
    return loaded


def _as_they_are(name: str, size: int | None) -> None:
    """Raise ValueError for a size: arrays are taken as they are."""
    if size is not None:
        raise ValueError(f"size is of images in folders or Parquet, {name} are arrays; got size = {size}")


def _find(name: str, root: str | os.PathLike[str] | None) -> Path:
    """The path of a data set of the user's own, below `root` where it is not there by itself."""
    path = Path(name).expanduser()
    places = [path] if root is None else [path, Path(root) / path]
    found = next((place for place in places if place.exists()), None)
    if found is not None and (found.is_dir() or found.suffix in (".npz", ".parquet")):
        return found
    if path.suffix in (".npz", ".parquet") or os.sep in name:
        raise FileNotFoundError(f"{path}: no such file or folder")
    raise ValueError(
        f"unknown data set {name!r}: expected one of {', '.join(NAMES)}, or the path of an .npz, of a folder of images "
        "or of Parquet"
    )


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of data sets: the argument, else RCFAST_DATA, else `rcfast` in the user's cache (XDG)."""
    chosen = root if root is not None else os.environ.get("RCFAST_DATA")
    return Path(chosen).expanduser() if chosen else cache_root()
