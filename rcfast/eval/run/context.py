"""What the units of one run share: configuration, data, store, and what was finished so far."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from rcfast.data import Dataset
from rcfast.eval.results import StageTime
from rcfast.eval.run.config import Config
from rcfast.eval.run.progress import Progress
from rcfast.eval.run.store import Arrays, Part, Store, StoreError, digest_arrays
from rcfast.eval.run.team import Team, patiently
from rcfast.eval.run.unit import Made, Unit

T = TypeVar("T")


LATE = 20.0  # seconds after which another process's files must have appeared in a shared folder


class Missing(LookupError):
    """A unit that is not finished."""


@dataclass
class Context:
    """State of a run.

    sketch: networks and examples are not there yet, so that plans are made with stand-ins: every test example
    counts as classified correctly, and defences have no labels.
    """

    config: Config
    store: Store
    progress: Progress
    device: torch.device
    dataset: Dataset
    out: Path
    outputs: tuple[str, ...] = ()  # names of those that the run was asked for
    team: Team = field(default_factory=Team)
    given: nn.Module | None = None  # the user's own network, if it is used as it is
    sketch: bool = True
    warnings: list[str] = field(default_factory=list)
    stages: list[StageTime] = field(default_factory=list)
    told: set[Unit] = field(default_factory=set)  # finished by another process, as it says
    _parts: dict[Unit, Part] = field(default_factory=dict)
    _unkept: dict[Unit, Arrays] = field(default_factory=dict)
    _once: dict[Hashable, Any] = field(default_factory=dict)

    def warn(self, message: str) -> None:
        """Say and remember a warning; it is printed in the report too."""
        if message not in self.warnings:
            self.warnings.append(message)
            self.progress.print(f"warning: {message}")

    def once(self, name: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` returned at the first call with this name."""
        if name not in self._once:
            self._once[name] = make()
        found: T = self._once[name]
        return found

    def find(self, unit: Unit) -> Part | None:
        """Return the result of a unit if it is finished and its data whole, else None."""
        if unit not in self._parts:
            try:
                part = self.store.find(unit.kind, unit.inputs(self), unit.suffix)
            except Missing:
                return None
            if part is None or self.store.check(part) is None:
                return None
            self._parts[unit] = part
        return self._parts[unit]

    def part(self, unit: Unit) -> Part:
        """Return the result of a unit. Raises Missing when it is not finished."""
        part = patiently(lambda: self.find(unit), LATE if unit in self.told else 0.0)
        if part is None:
            raise Missing(str(unit))
        return part

    def arrays(self, unit: Unit) -> Arrays:
        """Return the data of a unit. Raises Missing when it is not finished, StoreError if it was damaged since."""
        if unit in self._unkept:
            return self._unkept[unit]
        part = self.part(unit)
        found = self.store.load(part)
        if found is None:
            raise StoreError(f"{part.path} was changed during the run; run the same command again")
        return found

    def keep(self, unit: Unit, made: Made, seconds: float) -> Part:
        """Store what a unit computed. Raises StoreError when the disk is full."""
        inputs = unit.inputs(self)
        if unit.suffix == ".npz":
            content = made.digest or digest_arrays(made.arrays)
            part = self.store.save(
                unit.kind, inputs, made.arrays, seconds=seconds, info=made.info, content=content
            )
        else:
            assert made.digest is not None, f"{unit}: what it put in its place needs a digest"
            part = self.store.adopt(
                unit.kind, inputs, made.digest, suffix=unit.suffix, seconds=seconds, info=made.info
            )
        self._parts[unit] = part
        return part

    def pretend(self, unit: Unit, made: Made) -> None:
        """Hold in memory what a unit computed, for a dry run."""
        inputs = unit.inputs(self)
        key, path = self.store.key(unit.kind, inputs), self.store.path(unit.kind, inputs, unit.suffix)
        content = made.digest or digest_arrays(made.arrays)
        self._parts[unit] = Part(unit.kind, key, path, content, 0.0, inputs, made.info)
        self._unkept[unit] = made.arrays
