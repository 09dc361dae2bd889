"""Carlini and Wagner's L2 attack, a rolling batch in which every row has its own search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from rcfast.attacks._cw import SPAN, Adam, channels_last, from_tanh, remember, roll, tanh_slope, to_tanh
from rcfast.attacks.base import Attack, AttackedModel, check_counts, check_positive, margin, per_row

__all__ = ["CWL2"]

NO_BOUND = 1e10  # upper bound of c before the first success
CHECKS = 10  # times per search that abort_early looks at the loss
STALLED = 0.9999  # a loss above this share of the one before has stopped falling
LOOKS = 20  # times per search that forecast looks at what still falls
PATIENCE = 3.0  # how much faster than now f may fall
WORTH = 0.01  # a fall of the squared noise by this share is worth the iterations left


@dataclass
class _Search(Adam):
    """One row for each example: its image, its place in the search over c, and its best solution."""

    x: Tensor  # [R,...] clean
    target: Tensor  # [R] int64
    c: Tensor  # [R]
    lower: Tensor  # [R]
    upper: Tensor  # [R]
    search: Tensor  # [R] int64: searches done
    found: Tensor  # [R] bool: a success in this search
    loss: Tensor  # [R] at the last check
    hinge: Tensor  # [R] least f + k in this search
    hinge_past: Tensor  # [R,SPAN] and at the looks before
    square: Tensor  # [R] least squared noise of a success in this search
    square_past: Tensor  # [R,SPAN] and at the looks before
    best: Tensor  # [R,...] the success with the least noise of all searches
    best_square: Tensor  # [R] its squared L2 noise


@dataclass(frozen=True, kw_only=True)
class CWL2(Attack):
    """T-CW-L2: min ||x' - x||² + c·f(x'), x' = (tanh w + 1)/2, f = max(max_{i≠t} Z_i - Z_t, -k).

    Adam on w for each of `searches` values of c: `c0`, ten times more until the first success, then the
    middle between the largest c that failed and the smallest that succeeded. Adam and w start anew in each
    search; of 10 or more searches the last runs at the upper bound. The success with the least noise of all
    iterations is returned; a success has a margin of at least `confidence` (k) between the logits.

    abort_early ends a search in which the loss of this row fell by less than 0.01% in a tenth of
    `iterations`, as the original does for its batch. forecast ends a search sooner: without a success, if f
    falling on at three times its pace would stay above zero; after one, if the squared noise would fall by less
    than 1%. Both fall ever more slowly, so that the forecast errs on the side of going on. Rows are searched
    independently of each other and leave as soon as they are done.

    Source: Carlini and Wagner (2017), section V.A and VI.A; the paper's equation (4). Defaults are the
    original's except for its 10,000 iterations, of which 1,000 give the same noise within a percent.
    """

    norm: ClassVar[float] = 2
    targeted: ClassVar[bool] = True
    rolling: ClassVar[bool] = True

    confidence: float = 0.0
    iterations: int = 1000
    searches: int = 9
    c0: float = 1e-3
    rate: float = 1e-2
    abort_early: bool = True
    forecast: bool = True

    def __post_init__(self) -> None:
        check_counts(iterations=self.iterations, searches=self.searches)
        check_positive(c0=self.c0, rate=self.rate)
        if not 0 <= self.confidence < float("inf"):
            raise ValueError(f"confidence must be at least 0, got {self.confidence!r}")

    @classmethod
    def fast(cls, **changes: Any) -> Self:
        """A smaller budget for a CPU: 5 searches of at most 100 iterations with larger steps."""
        return cls(**{"iterations": 100, "searches": 5, "c0": 1e-1, "rate": 5e-2, **changes})

    def _confidence(self) -> float:
        return self.confidence

    def _run(self, model: AttackedModel, x: Tensor, labels: Tensor) -> Tensor:
        model = channels_last(model, x)
        adversarial = x.clone()

        def finish(done: _Search) -> None:
            adversarial[done.row] = done.best

        roll(
            len(x),
            model.limit,
            device=x.device,
            start=lambda rows: self._start(rows, x[rows], labels[rows]),
            advance=lambda state: self._advance(model, state),
            finish=finish,
            progress=model.progress,
        )
        return adversarial

    def _start(self, rows: Tensor, x: Tensor, labels: Tensor) -> _Search:
        zero = x.new_zeros(len(x))
        return _Search(
            row=rows,
            w=to_tanh(x),
            first=torch.zeros_like(x),
            second=torch.zeros_like(x),
            clock=torch.zeros_like(labels),
            x=x,
            target=labels,
            c=zero + self.c0,
            lower=zero.clone(),
            upper=zero + NO_BOUND,
            search=torch.zeros_like(labels),
            found=torch.zeros_like(labels, dtype=torch.bool),
            loss=zero + torch.inf,
            hinge=zero + torch.inf,
            hinge_past=zero[:, None].repeat(1, SPAN) + torch.inf,
            square=zero + torch.inf,
            square_past=zero[:, None].repeat(1, SPAN) + torch.inf,
            best=x.clone(),
            best_square=zero + torch.inf,
        )

    def _advance(self, model: AttackedModel, state: _Search) -> Tensor:
        """Runs until the next check of some row; returns which rows are finished [R]."""
        period = max(1, self.iterations // CHECKS)
        look = max(1, self.iterations // LOOKS)
        ahead = torch.minimum(period - state.clock % period, self.iterations - state.clock)
        ahead = torch.minimum(ahead, look - state.clock % look)
        for _ in range(int(ahead.min())):
            self._step(model, state, period)
        ended = state.clock >= self.iterations
        if self.abort_early:
            ended |= self._stalled(model, state, period)
        if self.forecast:
            ended |= self._forecast(state, look)
        rows = ended.nonzero().flatten()
        if len(rows):
            state.put(rows, self._next_search(state.select(rows)))
        return state.search >= self.searches

    def _stalled(self, model: AttackedModel, state: _Search, period: int) -> Tensor:
        """Which rows [R] stand at a check and have a loss that stopped falling."""
        rows = (state.clock % period == 0).nonzero().flatten()
        stalled = torch.zeros_like(state.found)
        if len(rows):
            part = state.select(rows)
            adversarial = from_tanh(part.w)
            _, loss = self._loss(model.predict(adversarial, part.row), adversarial, part)
            stalled[rows] = loss > STALLED * part.loss
        return stalled

    def _forecast(self, state: _Search, look: int) -> Tensor:
        """Which rows [R] stand at a look and have nothing to expect from the iterations left."""
        at = state.clock % look == 0
        left = (self.iterations - state.clock) / look
        fall = (state.hinge_past[:, 0] - state.hinge) / SPAN * left  # infinite for the first SPAN looks
        gain = (state.square_past[:, 0] - state.square) / SPAN * left  # and after the first success
        state.hinge_past = remember(state.hinge_past, state.hinge, at)
        state.square_past = remember(state.square_past, state.square, at)
        return at & torch.where(state.found, gain < WORTH * state.square, PATIENCE * fall < state.hinge)

    def _loss(self, logits: Tensor, adversarial: Tensor, state: _Search) -> tuple[Tensor, Tensor]:
        """Squared noise [R] and the loss [R] that Adam lowers."""
        square = (adversarial - state.x).flatten(1).square().sum(1)
        return square, square + state.c * self._hinge(logits, state.target)

    def _hinge(self, logits: Tensor, target: Tensor) -> Tensor:
        """f + k: the same gradient as f, and nonnegative, so that a loss can be compared by its ratio."""
        return (self.confidence - margin(logits, target, targeted=True)).clamp(min=0)

    def _step(self, model: AttackedModel, state: _Search, period: int) -> None:
        adversarial = from_tanh(state.w)
        logits, (gradient,) = model.gradients(
            adversarial, state.row, lambda z: state.c * self._hinge(z, state.target)
        )
        square, loss = self._loss(logits, adversarial, state)
        state.loss = torch.where(state.clock % period == 0, loss, state.loss)
        accepted = self._accepts(logits, state.target)
        state.found |= accepted
        state.hinge = torch.minimum(state.hinge, self._hinge(logits, state.target))
        state.square = torch.where(accepted, torch.minimum(state.square, square), state.square)
        better = accepted & (square < state.best_square)
        state.best = torch.where(per_row(better, adversarial), adversarial, state.best)
        state.best_square = torch.where(better, square, state.best_square)
        gradient.add_(adversarial - state.x, alpha=2).mul_(tanh_slope(adversarial))
        state.step_(gradient, self.rate)

    def _next_search(self, state: _Search) -> _Search:
        """The bounds on c after a search, the next c, and Adam at its start."""
        c, found = state.c, state.found
        state.upper = torch.where(found, torch.minimum(state.upper, c), state.upper)
        state.lower = torch.where(found, state.lower, torch.maximum(state.lower, c))
        middle = (state.lower + state.upper) / 2
        state.c = torch.where(state.upper < NO_BOUND, middle, c * 10)
        state.search = state.search + 1
        if self.searches >= 10:
            state.c = torch.where(state.search == self.searches - 1, state.upper, state.c)
        state.found = torch.zeros_like(found)
        for field in ("loss", "hinge", "hinge_past", "square", "square_past"):
            getattr(state, field).fill_(torch.inf)
        state.reset_(torch.arange(len(state), device=c.device), to_tanh(state.x))
        return state
