"""Files of adversarial examples that others made: what they hold, and in which norm their noise is bounded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcfast.eval.run.config import ConfigError

# Names under which adversarial images are kept: ours, torchattacks', AutoAttack's examples.
ADVERSARIAL = ("adversarial", "x_adv", "adv_inputs", "adv_complete", "adv", "adv_images")
CLEAN = ("clean", "clean_inputs", "x", "x_orig", "inputs", "images")
INDEX, LABELS = ("index", "indices"), ("labels", "y", "y_true")
EVEN = 0.02  # noise of all images this near to one budget is of an attack with that budget


@dataclass(frozen=True)
class File:
    """Adversarial images [N,C,H,W] float32, and what the file says of them: clean ones, indices, true labels."""

    images: Tensor
    clean: Tensor | None
    index: Tensor | None
    labels: Tensor | None


def read(path: Path) -> File:
    """The content of a file: `.npz`, or what torch.save wrote, read with weights_only.

    Raises ConfigError that names the file and its fault.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                content: Any = {
                    name: torch.from_numpy(np.ascontiguousarray(archive[name])) for name in archive.files
                }
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what zip, pickle and torch make of a file that is none
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ConfigError(f"--import {path}: cannot be read without running code ({reason})") from error
    if isinstance(content, tuple | list) and content and all(isinstance(part, Tensor) for part in content):
        content = dict(zip(("adversarial", "labels"), content, strict=False))
    if isinstance(content, Tensor):
        content = {"adversarial": content}
    if not isinstance(content, Mapping):
        raise ConfigError(f"--import {path}: holds no tensors by name, got {type(content).__name__}")
    images = _first(content, ADVERSARIAL)
    if images is None:
        named = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if len(named) != 1:  # AutoAttack's individual version has one name for each attack
            there = ", ".join(named) or "nothing"
            raise ConfigError(
                f"--import {path}: no adversarial images ({', '.join(ADVERSARIAL)}) among {there}"
            )
        (images,) = named.values()
    labels, index, clean = (_first(content, names) for names in (LABELS, INDEX, CLEAN))
    return File(
        _pixels(images, path),
        None if clean is None else _pixels(clean, path),
        None if index is None else index.to(torch.int64),
        None if labels is None else labels.to(torch.int64),
    )


def _first(content: Mapping[str, Any], names: Iterable[str]) -> Tensor | None:
    return next((content[name] for name in names if isinstance(content.get(name), Tensor)), None)


def _pixels(images: Tensor, path: Path) -> Tensor:
    images = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images.to(torch.float32)
    if not images.isfinite().all() or images.min() < -1e-6 or images.max() > 1 + 1e-6:
        raise ConfigError(
            f"--import {path}: images must be 8-bit, or lie in [0, 1] (before any normalisation)"
        )
    return images


@lru_cache
def norm_of_file(path: str) -> float:
    """The norm whose budget the noise of a file keeps to, 2 where there is none or clean images are not in it."""
    found = read(Path(path))
    if found.clean is None or found.clean.shape != found.images.shape:
        return 2
    return budget_norm(found.images - found.clean)


def budget_norm(delta: Tensor) -> float:
    """Inf or 2 where the noise [N,...] of all changed images has one size in it, else 2."""
    flat = delta.flatten(1).double()
    flat = flat[(flat != 0).any(1)]
    if len(flat) > 1:
        sizes = torch.linalg.vector_norm(flat, ord=math.inf, dim=1)
        if float(sizes.max() - sizes.median()) <= EVEN * float(sizes.max()):
            return math.inf
    return 2
