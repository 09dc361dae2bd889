"""Adversarial examples that others made, from files: read, matched with the drawn examples, judged like our own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcfast.eval.run.attack import Adversarial, Case, digest_examples
from rcfast.eval.run.config import ConfigError
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import rows_at_once
from rcfast.eval.run.examples import DrawnExamples, examples
from rcfast.eval.run.imported_files import File, norm_of_file, read
from rcfast.eval.run.judges import judges, user_defence_of
from rcfast.eval.run.networks import needed_for, network
from rcfast.eval.run.unit import Made, Unit

VERSION = 1


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
