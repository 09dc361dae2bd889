"""A batch that is refilled as its rows finish: what attacks run in whose examples have searches of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self, TypeVar

import torch
from torch import Tensor

from rcfast.attacks.attacked import AttackedModel


@dataclass
class Rows:
    """Tensors with one row for each example under attack; rows leave and join between steps."""

    row: Tensor  # [R] int64: which example of the batch

    def __len__(self) -> int:
        return len(self.row)

    def select(self, rows: Tensor) -> Self:
        """Some rows: int64 indices or a bool mask [R]."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def put(self, rows: Tensor, values: Self) -> None:
        """Replaces rows (int64 indices [r]) by the r rows of values."""
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(values, f.name)

    def join(self, other: Self) -> Self:
        """These rows, then the other ones."""
        return type(self)(
            **{f.name: torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)}
        )


AnyRows = TypeVar("AnyRows", bound=Rows)


def roll(
    model: AttackedModel,
    x: Tensor,
    labels: Tensor,
    *,
    start: Callable[[Tensor, Tensor, Tensor], AnyRows],
    advance: Callable[[AnyRows], Tensor],
    outcome: Callable[[AnyRows], Tensor],
) -> Tensor:
    """Passes examples x [n,...], labels [n] through a batch of at most model.limit rows; what comes out, [n,...].

    start: rows [r] int64, their x and labels -> their fresh state. advance: some work on the state in place; returns
    a bool mask [R] of finished rows. outcome: the state of finished rows -> what is handed out for them [r,...].
    What a row goes through depends on itself alone.
    """
    found, width = x.clone(), model.limit
    waiting = torch.arange(len(x), device=x.device)

    def fresh(count: int) -> AnyRows:
        nonlocal waiting
        rows, waiting = waiting[:count], waiting[count:]
        return start(rows, x[rows], labels[rows])

    state, left = fresh(width), len(x)
    while len(state):
        finished = advance(state)
        leaving = finished.nonzero().flatten()
        model.look()  # here, where a GPU is waited for anyway
        if not len(leaving):
            continue
        done = state.select(leaving)
        found[done.row] = outcome(done)
        left -= len(leaving)
        model.progress(1 - left / len(x))
        state = state.select(~finished)
        if len(waiting):
            state = state.join(fresh(width - len(state)))
    return found
