"""Attacks of Foolbox, ART and torchattacks, by name: counted, bounded and judged as ours are."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rcfast.attacks._libraries import LIBRARIES, Run, gradients_kept, runner, seeded
from rcfast.attacks._sampled import Sampled, SampledAttack, key
from rcfast.attacks.inputs import check_counts
from rcfast.attacks.margins import hits
from rcfast.attacks.result import Noise, check_norm

__all__ = ["External", "external"]

GIVES_UP = (ValueError, ArithmeticError)  # what a library raises where it finds no way for one example


class _Spent(Exception):
    """The budget of queries is spent: the library is left where it stands."""


class _Asked(nn.Module):
    """What a library attacks, for one example: answers, counts, stops at the budget, and keeps the best success seen.

    Votes per label in the place of logits; or, where the attack needs gradients, the logarithm of the mean softmax over
    fresh points of the region.
    """

    def __init__(self, attack: External, vote: Sampled, x: Tensor, label: Tensor, row: Tensor) -> None:
        super().__init__()
        self._attack, self._vote, self._x, self._label, self._row = attack, vote, x, label, row
        self.asked, self.best, self.noise = 0, x, math.inf
        self.last = x[:0]  # asked about without a vote

    def forward(self, x: Tensor) -> Tensor:
        left = self._attack.queries - self.asked
        if left <= 0:
            raise _Spent
        given = x[:left]
        self.asked += len(given)
        inputs = given.to(self._x.dtype).clamp(0, 1)
        if self._attack.points:
            self.last = inputs.detach()
        answers = self._differentiable(inputs) if self._attack.points else self.look(inputs)
        if len(given) < len(x):
            raise _Spent
        return answers.to(x.dtype)

    def look(self, x: Tensor) -> Tensor:
        """What is answered for x [n,...]: [n,L]; the least noisy success among them is kept."""
        answers = self._vote.answers(x, self._row.expand(len(x)))
        won = hits(answers.detach(), self._label, targeted=self._attack.targeted)
        noise = Noise.between(x.detach(), self._x.expand_as(x)).of(self._attack.norm)
        noise = noise.masked_fill(~won, math.inf)
        if len(x) and float(noise.min()) < self.noise:
            self.noise, self.best = float(noise.min()), x.detach()[int(noise.argmin())][None].clone()
        return answers

    def _differentiable(self, x: Tensor) -> Tensor:
        logits = self._vote.differentiable(
            x, self._row.expand(len(x)), first=self.asked * self._attack.points, samples=self._attack.points
        )
        return logits.log_softmax(2).logsumexp(1) - math.log(logits.shape[1])


@dataclass(frozen=True, kw_only=True)
class External(SampledAttack):
    """An attack of another library; made by :func:`external`."""

    name: str
    settings: tuple[tuple[str, Any], ...] = field(default=())
    norm: float = 2  # type: ignore[misc]
    targeted: bool = False  # type: ignore[misc]
    queries: int = 10_000
    points: int = 0
    rolling: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self.norm)
        check_counts(queries=self.queries)
        library, _, attack = self.name.partition(":")
        if library not in LIBRARIES or not attack:
            raise ValueError(f"name must be LIBRARY:ATTACK, of {', '.join(LIBRARIES)}, got {self.name!r}")
        if isinstance(self.points, bool) or not isinstance(self.points, int) or self.points < 0:
            raise ValueError(f"points must be a count, or 0 for votes, got {self.points!r}")

    def __repr__(self) -> str:
        named = [f"{name}={value!r}" for name, value in self.settings]
        defaults = {"norm": 2, "targeted": False, "queries": 10_000, "points": 0, "seed": 0}
        named += [f"{k}={getattr(self, k)!r}" for k, v in defaults.items() if getattr(self, k) != v]
        return f"external({', '.join([repr(self.name), *named])})"

    @property
    def version(self) -> str:
        """Of the library, which decides what is found; empty where it is not there, which `find` tells."""
        try:
            return metadata.version(LIBRARIES[self.name.partition(":")[0]][1])
        except metadata.PackageNotFoundError:
            return ""

    def find(self) -> Run:
        """The library's attack. Raises ImportError or AttributeError where it is not there."""
        return runner(self)

    def _search(self, vote: Sampled, x: Tensor, labels: Tensor) -> Tensor:
        run = runner(self)
        found = x.clone()
        for i in range(len(x)):
            row = torch.tensor([i], device=x.device)
            asked = _Asked(self, vote, x[i : i + 1], labels[i : i + 1], row).eval()
            given, handed, trouble = x[i : i + 1].to(torch.float32), None, ""
            seed = key(self.seed, f"external {int(vote.ids[i])}")
            with seeded(seed), gradients_kept(vote.network.model):
                try:
                    handed = run(asked, given, labels[i : i + 1])
                except _Spent:
                    pass
                except GIVES_UP as error:
                    if not asked.asked:
                        raise
                    trouble = f"{type(error).__name__}: {error}"
            if trouble:
                warnings.warn(f"{self.name} gave up on an example: {trouble}", RuntimeWarning, stacklevel=2)
            found[i] = self._better(asked, handed)[0]
            vote.network.progress((i + 1) / len(x))
        return found

    def _better(self, asked: _Asked, handed: Tensor | None) -> Tensor:
        """The least noisy success [1,...] among the queries and what the library handed out; the latter if none."""
        if handed is None or not bool(handed.isfinite().all()):
            if len(asked.last):
                asked.look(asked.last)
            return asked.best
        last = handed.to(asked.best.dtype).clamp(0, 1)
        asked.look(last)
        return asked.best if asked.noise < math.inf else last


def external(
    name: str,
    *,
    norm: float = 2,
    targeted: bool = False,
    queries: int = 10_000,
    points: int = 0,
    seed: int = 0,
    **settings: Any,
) -> External:
    """An attack of another library as one of ours: `external("foolbox:HopSkipJumpAttack", steps=20)`.

    name: LIBRARY:ATTACK, of `foolbox`, `art` (Adversarial Robustness Toolbox) or `torchattacks`, and the name of the
    attack there. norm: 0, 2 or inf, in which its examples are compared. targeted: labels are targets, where the attack
    can be. queries: the most inputs that it may ask about, for each example; it is stopped there. points: 0: it sees
    the votes per label in place of logits (decision- and score-based attacks); k: the logarithm of the mean softmax
    over k fresh points of the region at each query, with a gradient. A plain network answers with its logits. seed: of
    the library's own random numbers, and of the points. settings: the attack's own, by name; Foolbox's attacks of a
    given length take `epsilons=`.

    Examples run one at a time, so that each is the same whoever else is attacked. The example handed out is the least
    noisy one among all that the library asked about and that the vote called a success, or what the library returned;
    with `points` what it returned, or of the last that it asked about where the budget ended it. An example on which it
    gives up with a ValueError has failed, and a warning says so.

    Raises ValueError for another library, norm or budget; ImportError where the library is not installed (pip install
    'rcfast[peers]'); AttributeError where it has no such attack; what the library raises for its settings.
    """
    return External(
        name=name,
        settings=tuple(sorted(settings.items())),
        norm=norm,
        targeted=targeted,
        queries=queries,
        points=points,
        seed=seed,
    )
