"""Adversarial examples that others made, from files: read, matched with the drawn examples, judged like our own."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcfast.eval.run.attack import Adversarial, Case, digest_examples
from rcfast.eval.run.config import ConfigError
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import rows_at_once
from rcfast.eval.run.examples import DrawnExamples, examples
from rcfast.eval.run.judges import judges, user_defence_of
from rcfast.eval.run.networks import needed_for, network
from rcfast.eval.run.unit import Made, Unit

VERSION = 1
# Names under which adversarial images are kept: ours, torchattacks', AutoAttack's examples.
ADVERSARIAL = ("adversarial", "x_adv", "adv_inputs", "adv_complete", "adv", "adv_images")
CLEAN = ("clean", "clean_inputs", "x", "x_orig", "inputs", "images")
INDEX, LABELS = ("index", "indices"), ("labels", "y", "y_true")
EVEN = 0.02  # noise of all images this near to one budget is of an attack with that budget


@dataclass(frozen=True)
class ImportedCase(Case):
    """An attack of others, by the name of its file; it has no targets of ours."""

    @property
    def targeted(self) -> bool:
        return False


@dataclass(frozen=True)
class Source:
    """FILE, FILE@DEFENCE, FILE:NORM or FILE@DEFENCE:NORM.

    attacked: whose adversarial examples they are, by default the undefended network's. told: the norm in which their
    noise is counted; by default that whose budget they keep to, if clean images are in the file, else L2.
    """

    path: Path
    attacked: str
    told: float | None

    @classmethod
    def parse(cls, text: str) -> Source:
        found = re.fullmatch(r"(.*?)(?:@([\w-]+))?(?::(L0|L2|Linf))?", text)
        assert found is not None
        told = None if found[3] is None else float(found[3][1:])
        return cls(Path(found[1]), found[2] or "point", told)


def sources(ctx: Context) -> list[tuple[Source, ImportedCase]]:
    """Return the files of the run, `user` as its defence is called, and by which names the tables know them.

    A file is called by its stem, with its folder and whom it attacks where others have the same.
    Raises ConfigError for a file that is not there, a defence that is not measured, or one file given twice.
    """
    return ctx.once(("imports", ctx.sketch), lambda: _sources(ctx))


def _sources(ctx: Context) -> list[tuple[Source, ImportedCase]]:
    known = [own.name for own in judges(ctx)]
    unknown = bool(ctx.config.user_defence) and ctx.sketch  # what it is called
    found = []
    for text in ctx.config.attacks.imports:
        source = Source.parse(text)
        if source.attacked == "user" and ctx.config.user_defence and not ctx.sketch:
            source = replace(source, attacked=user_defence_of(ctx)[0].name)
        if not source.path.is_file():
            raise ConfigError(f"--import {source.path}: no such file")
        if source.attacked not in known and not unknown:
            there = ", ".join([*known, *(["user"] if ctx.config.user_defence else [])])
            raise ConfigError(f"--import {source.path}@{source.attacked}: the run has {there}")
        found.append(source)
    for name in (
        lambda one: one.path.stem,
        lambda one: f"{one.path.absolute().parent.name}/{one.path.stem}",
        lambda one: f"{one.path.absolute().parent.name}/{one.path.stem}@{one.attacked}",
    ):
        names = [name(one) for one in found]
        if len(set(names)) == len(names):
            return [(one, ImportedCase(one.attacked, name(one))) for one in found]
    again = next(one for one, called in zip(found, names, strict=True) if names.count(called) > 1)
    raise ConfigError(f"--import {again.path}: given twice, or another has its folder's name and its own")


@dataclass(frozen=True)
class Imported(Adversarial):
    """The adversarial examples of a file that belong to the drawn examples from `start` to `stop`."""

    case: ImportedCase
    start: int
    stop: int
    path: str
    told: float | None = None

    kind = stage = "attack"
    counted = False

    def __str__(self) -> str:
        return str(self.case)

    @property
    def norm(self) -> float:
        return norm_of_file(self.path) if self.told is None else self.told

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield from needed_for(ctx, "point")
        yield DrawnExamples()

    def inputs(self, ctx: Context) -> dict[str, Any]:
        return {
            "version": VERSION,
            "file": ctx.once(("sha256", self.path), lambda: sha256(Path(self.path).read_bytes()).hexdigest()),
            "network": network(ctx, "point").digest,
            "examples": digest_examples(examples(ctx), self.rows),
            "attacked": self.case.network,
        }

    def compute(self, ctx: Context) -> Made:
        found, place = _matched(ctx, Path(self.path))
        adversarial = found.images[place[self.rows]].clamp(0, 1)
        clean, y = examples(ctx).x[self.rows].cpu(), torch.from_numpy(examples(ctx).y[self.rows])
        said = network(ctx, "point").labels(adversarial.to(ctx.device)).cpu()
        changed = (adversarial != clean).flatten(1).any(1)
        success = (said != y) if self.case.network == "point" else changed
        info = {"unit": str(self.case), "count": len(y), "queries": 0, "success": int(success.sum())}
        shape = (len(y), 1, *clean.shape[1:])
        return Made(
            {"success": success.numpy()[:, None], "adversarial": adversarial.reshape(shape).numpy()}, info
        )


def parts(ctx: Context, source: Source, case: ImportedCase) -> Iterator[Imported]:
    """Yield the units of a file, block by block."""
    for start, stop in examples(ctx).blocks("drawn", ctx.config.protocol.block):
        yield Imported(case, start, stop, str(source.path), source.told)


# ---- files


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


def _matched(ctx: Context, path: Path) -> tuple[File, Tensor]:
    """A file, and at which of its rows each drawn example stands. Raises ConfigError where one is missing."""
    return ctx.once(("imported", path), lambda: _match(ctx, path))


def _match(ctx: Context, path: Path) -> tuple[File, Tensor]:
    found, own = read(path), examples(ctx)
    wanted, x = torch.from_numpy(own.index[: own.drawn]), own.x[: own.drawn].cpu()
    images = found.images.reshape(len(found.images), -1)
    if images.shape[1] != x[0].numel():
        raise ConfigError(
            f"--import {path}: images are {list(found.images.shape[1:])}, those of the run {list(x.shape[1:])}"
        )
    for what, other in (("clean images", found.clean), ("indices", found.index), ("labels", found.labels)):
        if other is not None and len(other) != len(images):
            raise ConfigError(f"--import {path}: {len(other)} {what} for {len(images)} adversarial ones")
    if found.clean is not None:
        place = _rows_of(x, found.clean.reshape(len(found.clean), *x.shape[1:]))
    else:
        index = found.index if found.index is not None else torch.arange(len(images))
        where = {int(value): row for row, value in enumerate(index)}
        place = torch.tensor([where.get(int(value), -1) for value in wanted])
    lacking = wanted[place < 0].tolist()
    if lacking:
        raise ConfigError(
            f"--import {path}: lacks {len(lacking)} of the {own.drawn} attacked test examples, such as number "
            f"{lacking[0]}: attack those of export/examples.npz (--export robustbench), or all of the test set "
            "in its order"
        )
    if found.labels is not None and found.clean is None:
        other = found.labels[place] != torch.from_numpy(own.y[: own.drawn])
        if other.any():
            number = int(wanted[other][0])
            raise ConfigError(
                f"--import {path}: its labels are not those of the test set, such as of number {number}"
            )
    _check_nearest(path, found.images.reshape(len(images), *x.shape[1:])[place], x)
    return File(found.images.reshape(len(images), *x.shape[1:]), None, None, None), place


def _rows_of(x: Tensor, clean: Tensor) -> Tensor:
    """At which row of the clean images [M,...] each example [N,...] stands, -1 where it does not; to 8 bits."""
    rows = {(image * 255).round().to(torch.uint8).numpy().tobytes(): k for k, image in enumerate(clean)}
    return torch.tensor(
        [rows.get((image * 255).round().to(torch.uint8).numpy().tobytes(), -1) for image in x]
    )


def _check_nearest(path: Path, adversarial: Tensor, clean: Tensor) -> None:
    """Adversarial images are nearest to the clean ones that they are said to be made of, most of them."""
    if len(clean) < 2:
        return
    distances = torch.cat(
        [
            torch.cdist(part.flatten(1)[None], clean.flatten(1)[None])[0]
            for part in adversarial.split(rows_at_once(clean[0].numel()))
        ]
    )
    right = (distances.argmin(1) == torch.arange(len(clean))).double().mean()
    if right < 0.5:
        raise ConfigError(
            f"--import {path}: {1 - right:.0%} of its images are nearer to other test examples than to those at their "
            "place: the order is another"
        )
