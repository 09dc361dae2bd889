"""What an attack did on its way: recorded from outside, by listening to the attacked model.

The attack runs as it always does; what it asks and what it is answered is copied, and looked at later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rcfast.attacks import Attack, AttackResult
from rcfast.attacks.attacked import Observer, observers
from rcfast.attacks.margins import margin
from rcfast.attacks.result import Noise
from rcfast.running import Model

PORTION = 1 << 22  # numbers that are looked at together: until then nothing waits for a GPU


@dataclass(frozen=True)
class Trace:
    """One attack on N examples: F rows passed forward, B backward, both in the order in which they were asked for.

    row [F] int64: which example; margin, noise [F] float64: positive on success, in the attack's norm; success [F]
    bool: the attack's own judgement, of points inside [0,1] and in full precision. back [B] int64: which example;
    gradients [B] float64: L2 norm of the gradient in the input, NaN where not finite; needed [B] bool: it was taken
    at a row that was no success. best, returned [N] float64: least noise of a success on the path (judged again
    alone), and noise of what the attack handed out; inf where there is none.
    """

    row: np.ndarray
    margin: np.ndarray
    noise: np.ndarray
    success: np.ndarray
    back: np.ndarray
    gradients: np.ndarray
    needed: np.ndarray
    best: np.ndarray
    returned: np.ndarray

    def __len__(self) -> int:
        return len(self.returned)

    @property
    def passes(self) -> tuple[float, float]:
        """Forward and backward passes of an example, in the mean."""
        return len(self.row) / max(1, len(self)), len(self.back) / max(1, len(self))


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Tell `observer` of every forward pass of an attacked model: its inputs, logits, and rows of the batch."""
    observers.append(observer)
    try:
        yield
    finally:
        observers.remove(observer)


class Passes:
    """Counts the rows of all forward and backward passes that it observes."""

    def __init__(self) -> None:
        self.forward = self.backward = 0

    def __call__(self, x: Tensor, logits: Tensor, rows: Tensor, rough: bool) -> None:
        self.forward += len(x)
        if x.requires_grad and logits.requires_grad:
            x.register_hook(self._back)

    def _back(self, gradient: Tensor) -> None:
        self.backward += len(gradient)


class Recorder:
    """Observes one attack on x [R,...], labels [R], looking at the rows `chosen` [N] int64.

    Rows on which the model already says what the attack wants are left out, for nothing happens to them.
    attack: one that runs by itself, no combination of others.
    """

    def __init__(self, attack: Attack, model: Model, x: Tensor, labels: Tensor, chosen: Tensor) -> None:
        with torch.no_grad():
            wanted = ~attack._judges(model(x[chosen]), labels[chosen]) if len(chosen) else chosen.bool()
        self.rows = chosen[wanted]
        self.place = torch.full_like(labels, -1)
        self.place[self.rows] = torch.arange(len(self.rows), device=labels.device)
        self.attack, self.clean, self.labels = attack, x[self.rows], labels[self.rows]
        self.asked: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # of each pass since the last look
        self.norms: list[tuple[int, Tensor]] = []  # of gradients: which pass, and of all its rows
        self.there: list[np.ndarray] = []  # which rows of each pass are looked at
        self.seen: list[tuple[np.ndarray, ...]] = []
        self.steps: list[tuple[int, np.ndarray]] = []  # `norms` after a look
        self.passes = self.waiting = 0
        self.best = torch.full((len(self.rows),), torch.inf, dtype=torch.float64, device=x.device)
        self.point = self.clean.clone()

    @torch.no_grad()
    def __call__(self, x: Tensor, logits: Tensor, rows: Tensor, rough: bool) -> None:
        if x.requires_grad and logits.requires_grad:
            x.register_hook(partial(self._step, self.passes))
        full = torch.full_like(rows, not rough, dtype=torch.bool)
        self.asked.append((x.detach().clone(), logits.detach().clone(), self.place[rows], full))
        self.passes += 1
        self.waiting += x.numel()
        if self.waiting >= PORTION:
            self.look()

    @torch.no_grad()
    def _step(self, index: int, gradient: Tensor) -> None:
        self.norms.append((index, torch.linalg.vector_norm(gradient.detach().flatten(1).double(), dim=1)))

    @torch.no_grad()
    def look(self) -> None:
        """Judge what waits and keep the least noisy success of each example."""
        if self.norms:
            sizes = [len(norms) for _, norms in self.norms]
            parts = torch.cat([norms for _, norms in self.norms]).cpu().split(sizes)
            self.steps += [(index, part.numpy()) for (index, _), part in zip(self.norms, parts, strict=True)]
            self.norms = []
        if not self.asked:
            return
        sizes = [len(x) for x, *_ in self.asked]
        point, logits, rows, full = map(torch.cat, zip(*self.asked, strict=True))
        self.asked, self.waiting = [], 0
        self.there += [part.numpy() for part in (rows >= 0).cpu().split(sizes)]
        wanted = (rows >= 0).nonzero().flatten()
        point, logits, rows, full = (part[wanted] for part in (point, logits, rows, full))
        noise = Noise.between(point, self.clean[rows]).of(self.attack.norm).double()
        inside = ((point >= 0) & (point <= 1)).flatten(1).all(1)
        success = self.attack._judges(logits, self.labels[rows]) & inside & full
        lead = margin(logits, self.labels[rows], targeted=self.attack.targeted).double()
        cost = noise.masked_fill(~success, torch.inf)
        least = torch.full_like(self.best, torch.inf).scatter_reduce(0, rows, cost, "amin")
        first = ((cost == least[rows]) & (cost < self.best[rows])).nonzero().flatten()
        place = torch.full_like(self.best, len(cost), dtype=torch.int64)
        place = place.scatter_reduce(0, rows[first], first, "amin")  # of ties the one that came first
        found = (place < len(cost)).nonzero().flatten()
        self.point[found] = point[place[found]]
        self.best = torch.minimum(self.best, least)
        self.seen.append(tuple(part.cpu().numpy() for part in (rows, lead, noise, success)))

    @torch.no_grad()
    def trace(self, model: Model, result: AttackResult) -> Trace:
        """What was observed; call once, after the attack."""
        self.look()
        returned = (
            result.noise.of(self.attack.norm).double().masked_fill(~result.success, torch.inf)[self.rows]
        )
        better = self.best < returned
        for index in better.nonzero().flatten().tolist():  # some succeed in a larger batch only
            one = slice(index, index + 1)
            if not bool(self.attack._judges(model(self.point[one]), self.labels[one])[0]):
                self.best[index] = torch.inf
        empty: list[np.ndarray] = [np.zeros(0, np.int64), *[np.zeros(0)] * 2, np.zeros(0, bool)]
        row, lead, noise, success = map(np.concatenate, zip(empty, *self.seen, strict=True))
        first = np.cumsum([0, *(rows.sum() for rows in self.there)])
        places = [np.arange(first[index], first[index + 1]) for index, _ in self.steps]
        place = np.concatenate([np.zeros(0, np.int64), *places])
        norms = np.concatenate([np.zeros(0), *(norms[self.there[index]] for index, norms in self.steps)])
        return Trace(
            row=row,
            margin=lead,
            noise=noise,
            success=success,
            back=row[place],
            gradients=np.where(np.isfinite(norms), norms, np.nan),
            needed=~success[place],
            best=torch.minimum(self.best, returned).cpu().numpy(),
            returned=returned.cpu().numpy(),
        )


def trace(attack: Attack, model: Model, x: Tensor, labels: Tensor) -> Trace:
    """Run an attack on x [N,...], labels [N], and return what happened; the results are the attack's own.

    As in `Recorder`. Raises what the attack raises.
    """
    recorder = Recorder(attack, model, x, labels, torch.arange(len(x), device=labels.device))
    with observing(recorder):
        result = attack(model, x, labels, batch=len(x) or None)
    return recorder.trace(model, result)
