"""A unit of work: what decides its result, what it builds on, how it is computed, how large it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from rcfast.eval.run.config import ConfigError, StageError
from rcfast.eval.run.store import Arrays

if TYPE_CHECKING:
    from rcfast.eval.run.context import Context
    from rcfast.eval.run.pace import Pace

STAGES = ("train", "attack", "vote")  # in their order; those of other units come after them


@dataclass(frozen=True)
class Made:
    """What a unit computed: arrays for its data file, and small facts for the JSON beside it.

    digest: of what later keys depend on; None for all arrays. A unit whose data file is no .npz puts it in its place
    itself, and gives the digest.
    """

    arrays: Arrays = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    digest: str | None = None


class Unit(ABC):
    """A piece of work, as a frozen dataclass of plain values: it can be hashed, compared and sent to another process.

    Its result is a pure function of `inputs`: equal inputs, equal bytes, in whichever process and order. What it
    builds on it loads through the context, which reads finished units from the store.
    """

    kind: ClassVar[str]  # folder of the results in the store, and part of their keys
    stage: ClassVar[str]  # under which name its progress and time are shown
    suffix: ClassVar[str] = ".npz"

    def needs(self, ctx: Context) -> Iterable[Unit]:
        """The units that must be finished before this one; of the same stage or an earlier one."""
        return ()

    def check(self, ctx: Context) -> None:  # noqa: B027 (most have nothing to check)
        """Raise ConfigError for a setting that cannot be used; called before any work."""

    @abstractmethod
    def inputs(self, ctx: Context) -> dict[str, Any]:
        """Return everything that decides the result, JSON-able. Called once all that is needed is finished."""

    @abstractmethod
    def compute(self, ctx: Context) -> Made:
        """Do the work. What users' code may refuse is called within `explained`."""

    def size(self, ctx: Context) -> int:
        """Return the share of the stage's progress bar."""
        return 1

    def seconds(self, ctx: Context, pace: Pace) -> float:
        """Return a guess of the time it takes."""
        return 0.0

    def tidy(self, ctx: Context) -> None:  # noqa: B027 (or to remove)
        """Remove what an unfinished computation has left; called once the result is stored."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the errors by which training, attacks and classifiers refuse what they are given into a StageError.

    For these calls alone, so that a mistake elsewhere keeps its traceback.
    """
    try:
        yield
    except ConfigError:
        raise
    except (FloatingPointError, TypeError, ValueError, torch.OutOfMemoryError) as error:
        raise StageError(f"{what}: {' '.join(str(error).split())}") from error


def closure(ctx: Context, units: Iterable[Unit]) -> list[Unit]:
    """Return the units with all that they need, each once, what is needed first, stage by stage."""
    found: dict[Unit, None] = {}

    def visit(unit: Unit) -> None:
        if unit in found:
            return
        for needed in unit.needs(ctx):
            visit(needed)
        found[unit] = None

    for unit in units:
        visit(unit)
    stages = [*STAGES, *dict.fromkeys(unit.stage for unit in found if unit.stage not in STAGES)]
    return sorted(found, key=lambda unit: stages.index(unit.stage))
