"""Folders of images: one folder a class, below train/, val/ and test/ or by themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..decoding import EXTENSIONS, Preparation, in_processes, seen
from .images import Sources, decoded
from .splits import Dataset, Split, Wanted, divide, shuffled

CALLED = {  # the parts of a data set, and what folders and files of them are called
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
Examples = dict[str, tuple[list[Path], list[int]]]  # by part: paths of the images, and the labels of them


def load_folder(path: Path, wanted: Wanted, preparation: Preparation | None) -> Dataset:
    """The data set in a folder.

    Either `train/CLASS/*` with `val/CLASS/*` or `test/CLASS/*` (the last one that is there is the test set), or
    `CLASS/*`, of which a sixth becomes the test set, by the seed. Raises ValueError that names the folder and its
    fault.
    """
    names, examples = _find(path)
    images = {
        part: Sources([str(file) for file in files], _identity(files))
        for part, (files, _) in examples.items()
    }
    prepared = preparation or _prepare(path, images, wanted.size)
    order, classes = numbered(names, wanted.classes, str(path))
    splits = {}
    for part, (_, labels) in examples.items():
        x = decoded(
            f"{path.name}-{part}" if part else path.name, images[part], prepared, progress=wanted.progress
        )
        splits[part] = Split(x, torch.tensor([order[label] for label in labels]))
    return arranged(path.name, splits, wanted, classes)


def arranged(name: str, splits: Mapping[str, Split], wanted: Wanted, classes: Sequence[str]) -> Dataset:
    """A data set of the parts train, validation and test that are there; of one alone a sixth is drawn for the test."""
    more: dict[str, Any] = {"num_classes": len(classes), "classes": tuple(classes)}
    if len(splits) == 1:
        (only,) = splits.values()
        if len(only) < 3:
            raise ValueError(f"{name}: {len(only)} images are too few for training, validation and test")
        order = torch.from_numpy(shuffled(len(only), 0))  # whatever the seed: the test set is always the same
        held = max(1, len(only) // 6)
        return divide(name, only.take(order[held:]), only.take(order[:held]), wanted, **more)
    if "" in splits or "train" not in splits:
        there = ", ".join(sorted(part or "one without any of these names" for part in splits))
        raise ValueError(
            f"{name}: the parts must be train, and validation or test or both, or one alone, got {there}"
        )
    present = [part for part in ("train", "validation", "test") if part in splits]
    test = splits[present[-1]]
    validation = splits["validation"] if len(present) == 3 else None
    return divide(name, splits[present[0]], test, wanted, validation=validation, **more)


def numbered(
    names: Sequence[str], classes: Sequence[str] | int | None, source: str
) -> tuple[list[int], tuple[str, ...]]:
    """The label of each class of the data, and the names of all labels.

    Without a network's classes: in the order of the names, as torchvision's ImageFolder has them. With them, some of
    which may be missing: by their name, by their number, by their WordNet id (timm knows ImageNet's), or in their
    order if there are as many. Raises ValueError where none of these fits.
    """
    if classes is None:
        if len(names) < 2:
            raise ValueError(f"{source}: there must be at least two classes, got {len(names)}")
        return list(range(len(names))), tuple(names)
    known = [str(k) for k in range(classes)] if isinstance(classes, int) else list(classes)
    for candidate in (_folded(known), {str(k): k for k in range(len(known))}, _wordnet(len(known), names)):
        if all(_fold(name) in candidate for name in names):
            return [candidate[_fold(name)] for name in names], tuple(known)
    # In their order, but not where that calls one of them by another's name.
    if len(names) == len(known) and all(_folded(known).get(_fold(n), k) == k for k, n in enumerate(names)):
        return list(range(len(names))), tuple(names if isinstance(classes, int) else known)
    strange = next(name for name in names if _fold(name) not in _folded(known))
    raise ValueError(
        f"{source}: the network has {len(known)} classes, the data {len(names)}, and {strange!r} is the name of none "
        f"of them: call the classes by the network's names ({known[0]!r}, {known[1]!r}, …) or numbers (0, 1, …)"
    )


def _fold(name: str) -> str:
    return name.strip().lower().replace("_", " ")


def _folded(known: Sequence[str]) -> dict[str, int]:
    """The number of each name that stands for one class alone."""
    folded = [_fold(name) for name in known]
    return {name: k for k, name in enumerate(folded) if folded.count(name) == 1}


def _wordnet(count: int, names: Sequence[str]) -> dict[str, int]:
    if count != 1000 or not all(name[:1] == "n" and name[1:].isdigit() for name in names):
        return {}
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        return {}
    return {name: k for k, name in enumerate(ImageNetInfo().label_names())}


def _find(path: Path) -> tuple[list[str], Examples]:
    """Names of the classes in their order, and the examples of each part; the part of a plain folder is ""."""
    parts: dict[str, Path] = {}
    below = sorted(
        entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    for part, called in CALLED.items():
        found = [name for name in below if name.lower() in called]
        if len(found) > 1:
            raise ValueError(f"{path}: {' and '.join(found)} are both there: which one is it?")
        if found:
            parts[part] = path / found[0]
    if not parts:
        parts[""] = path
    elif len(parts) == 1:  # val/ alone, as one has it of ImageNet
        parts = {"": next(iter(parts.values()))}
    first = next(iter(parts.values()))
    names = sorted(
        entry.name for entry in first.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        raise ValueError(f"{first}: no folders, one for each class, are in it")
    examples: Examples = {}
    for part, folder in parts.items():
        strange = sorted(
            entry.name
            for entry in folder.iterdir()
            if entry.is_dir() and not entry.name.startswith(".") and entry.name not in names
        )
        if strange:
            raise ValueError(f"{folder}: {strange[0]!r} is no class of {first}")
        files = [(file, label) for label, name in enumerate(names) for file in _images(folder / name)]
        if not files:
            raise ValueError(f"{folder}: no images ({', '.join(EXTENSIONS)}) in its classes")
        examples[part] = [file for file, _ in files], [label for _, label in files]
    empty = sorted(set(range(len(names))) - set(next(iter(examples.values()))[1]))
    if empty:
        raise ValueError(f"{first / names[empty[0]]}: no images ({', '.join(EXTENSIONS)}) in this class")
    return names, examples


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [Path(root) / name for root, _, names in os.walk(folder, followlinks=True) for name in names]
    return sorted(file for file in found if file.suffix.lower() in EXTENSIONS)


def _identity(files: Sequence[Path]) -> list[list[Any]]:
    known = (file.stat() for file in files)
    return [[str(file), at.st_size, at.st_mtime_ns] for file, at in zip(files, known, strict=True)]


def _prepare(path: Path, images: Mapping[str, Sources], size: int | None) -> Preparation:
    """How the images are prepared when no network says it: their own size, or `size`; grey where all are grey."""
    every = [item for sources in images.values() for item in sources.items]
    return common(path, every, in_processes(seen, every), size)


def common(
    path: Path, names: Sequence[Any], heads: Sequence[tuple[int, int, bool]], size: int | None
) -> Preparation:
    """One preparation for images of these heights, widths and greyness. Raises ValueError where sizes differ."""
    channels = 1 if all(grey for _, _, grey in heads) else 3
    if size is not None:
        return Preparation(size, size, resize=size, channels=channels, seen=True)
    first = heads[0][:2]
    other = next((k for k, head in enumerate(heads) if head[:2] != first), None)
    if other is not None:
        sizes = [f"{width}×{height}" for height, width, _ in (heads[0], heads[other])]
        raise ValueError(
            f"{path}: images differ in size, {names[0]} is {sizes[0]}, {names[other]} is {sizes[1]}: say to which size "
            "they are resized (data.size), or name a network that says it"
        )
    return Preparation(*first, channels=channels, seen=True)
