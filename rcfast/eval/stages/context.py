"""What the stages of one run share."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcfast.data import Dataset
from rcfast.eval.config import Config, ConfigError, StageError
from rcfast.eval.defences import Judge, Network
from rcfast.eval.plan import Plan
from rcfast.eval.progress import Progress
from rcfast.eval.results import StageTime
from rcfast.eval.store import Arrays, Part, Store, StoreError

STAGES = ("train", "attack", "vote", "tabulate", "draw")


@dataclass(frozen=True)
class Examples:
    """The attacked examples: the `drawn` first, then those that only an image grid needs.

    index [E] int64 into the test set; x [E,C,H,W]; y [E] int64; targets [E,T] int64; grid [K]: the
    row of the example that stands for each label, -1 where no example of it is classified correctly.
    """

    index: np.ndarray
    x: Tensor
    y: np.ndarray
    targets: np.ndarray
    grid: np.ndarray
    drawn: int

    def blocks(self, size: int) -> list[slice]:
        """Return the parts of the work: blocks of drawn examples, then each other example alone."""
        drawn = [slice(a, min(a + size, self.drawn)) for a in range(0, self.drawn, size)]
        return drawn + [slice(row, row + 1) for row in range(self.drawn, len(self.y))]


@dataclass
class Context:
    """State of a run; each stage fills in what the next ones need."""

    config: Config
    plan: Plan
    store: Store
    progress: Progress
    device: torch.device
    dataset: Dataset
    out: Path
    networks: dict[str, Network] = field(default_factory=dict)
    judges: list[Judge] = field(default_factory=list)
    r: float | None = None
    user: str | None = None  # name of the user's defence
    warnings: list[str] = field(default_factory=list)
    stages: list[StageTime] = field(default_factory=list)
    _examples: Examples | None = None

    @property
    def examples(self) -> Examples:
        assert self._examples is not None, "the train stage draws the examples"
        return self._examples

    def warn(self, message: str) -> None:
        """Say and remember a warning; it is printed in the report too."""
        if message not in self.warnings:
            self.warnings.append(message)
            self.progress.print(f"warning: {message}")

    def ready(self, stage: str, inputs: Mapping[str, Any], suffix: str = ".npz") -> Part | None:
        """Return a finished part whose data is whole, or None when it has to be computed."""
        part = self.store.find(stage, inputs, suffix)
        return part if part is not None and self.store.check(part) is not None else None

    def arrays(self, part: Part) -> Arrays:
        """Return the data of a part that was ready. Raises StoreError if it was damaged since."""
        found = self.store.load(part)
        if found is None:
            raise StoreError(f"{part.path} was changed during the run; run the same command again")
        return found


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


class Tally:
    """Adds up what a stage used: its time is that of its parts, whenever they were computed."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.reused = True

    def add(self, part: Part, *, reused: bool) -> Part:
        self.seconds += part.seconds
        self.reused &= reused
        return part

    def time(self, name: str) -> StageTime:
        return {"name": name, "seconds": round(self.seconds, 3), "reused": self.reused}
