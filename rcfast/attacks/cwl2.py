"""Carlini and Wagner's L2 attack, a rolling batch in which every row has its own search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from rcfast.attacks._cw import (
    SLOWEST,
    SPAN,
    TRAVEL,
    TYPICAL,
    Adam,
    CarliniWagner,
    excess,
    from_tanh,
    movable,
    remember,
    shrink,
    tanh_slope,
)
from rcfast.attacks._passes import Searched
from rcfast.attacks.attacked import AttackedModel
from rcfast.attacks.inputs import check_counts, check_positive
from rcfast.attacks.margins import margin, per_row

__all__ = ["CWL2"]

NO_BOUND = 1e10  # upper bound of c before the first success
CHECKS = 10  # times per search that abort_early looks at the loss
STALLED = 0.9999  # a loss above this share of the one before has stopped falling
LOOKS = 40  # times per search that forecast looks at what still falls
PATIENCE = 3.0  # how much faster than now f may fall
WORTH = 0.01  # a fall of the squared noise by this share in SPAN looks is worth going on
WORTH_WARM = 0.005  # and in searches that began at a success
ABOVE = 1.5  # of the c with which the best solution would be stationary, tried next
SPREAD = 0.05  # RMS change of the coordinates below which steps become shorter with it
BOLD = 2.0  # steps until there is a success to start from, beside those after it
ENOUGH = 0.003  # a search after the first success that improves the noise by no more is the last
# Any c above that at which the least noise is stationary has its optimum there (the hinge is an exact penalty): a c
# that fails costs a search, a large one a wider path around the optimum. So the first is this many times what a linear
# f needs, and later ones stay this share of the way from what failed to what succeeded.
STEEPER, CAREFUL = 2.0, 0.75
# By how much c·|grad f|²/2, the fall of f at the optimum if f were linear, may fall short: on MNIST, searches that
# succeeded had up to 4.4 times less at their start.
SHORT = 10.0
# With rough gradients the least noisy success is kept for each of three margins: what may be rounding, 4 and 16 times.
# bfloat16 was wrong by more than the first on half of a ResNet's rows.
KEPT, APART = 3, 4.0


@dataclass
class _Search(Adam):
    """One row for each example: its image, its place in the search over c, and its best solution."""

    x: Tensor  # [R,...] clean
    target: Tensor  # [R] int64
    unit: Tensor  # [R] difference of logits that is 1 in f
    pace: Tensor  # [R] length of Adam's steps, as a share of the rate
    c: Tensor  # [R]
    lower: Tensor  # [R]
    upper: Tensor  # [R]
    search: Tensor  # [R] int64: searches done
    found: Tensor  # [R] bool: the search that ended succeeded
    seen: Tensor  # [R] int64: when in this search the last success came, -1 before
    loss: Tensor  # [R] at the last check
    stalled: Tensor  # [R] bool: the loss stopped falling between two checks
    steepest: Tensor  # [R] largest squared gradient of f in this search
    hinge: Tensor  # [R] least f + k in this search
    reach: Tensor  # [R] squared noise there
    sharp: Tensor  # [R] the squared gradient of f there
    hinge_past: Tensor  # [R,SPAN] and at the looks before
    square: Tensor  # [R,K] least squared noise of a success in this search, at each of the margins
    square_past: Tensor  # [R,SPAN] and at the looks before
    point: Tensor  # [R,K,...] these successes
    slope: Tensor  # [R,K] the length of the gradient of f there
    excess: (
        Tensor  # [R] by how much rough margins were found to be too large, where exact ones refuted a success
    )
    best: Tensor  # [R,...] the success with the least noise of all searches, by exact logits
    best_square: Tensor  # [R] its squared L2 noise
    again: Tensor  # [R] bool: the search is a repeated one, as rounding had misled it
    done: Tensor  # [R] bool: larger and smaller c have nothing to give


@dataclass(frozen=True, kw_only=True)
class CWL2(CarliniWagner):
    """T-CW-L2: min ||x' - x||² + c·f(x'), x' = (tanh w + 1)/2, f = max(max_{i≠t} Z_i - Z_t, -k).

    Adam on w for each of `searches` values of c: `c0`, ten times more until the first success (with `forecast`
    twice to ten times, by how far f was from zero), then the middle between the largest c that failed and the
    smallest that succeeded. Adam starts anew in each search; of 10 or more searches the last runs at the upper
    bound. The success with the least noise of all iterations is returned, drawn towards x as far as it stays one; a
    success has a margin of at least `confidence` (k) between the logits.

    scaled measures f in units of the example's own slope (its gradient at x, by the published network's usual one),
    so that c means the same for any scale of the logits, and shortens Adam's steps where the noise is small: by its
    RMS over 0.05, first that of a linear f, then that of the best solution; twice that before a success. warm
    starts the searches after the first success at the best solution so far instead of at x, and counts one as
    successful if it ends among successes. abort_early ends a search in which the loss of this row fell by less than
    0.01% in a tenth of `iterations`, as the original does for its batch. forecast starts with twice the c that a
    linear f needs where that is above `c0`, stays above the middle afterwards, at three quarters, or tries what the
    best solution's slope asks for if that is less, stops when a search after the first success (without warm: that
    succeeds) improved the noise by less than 0.3%, and ends a search sooner: when c is ten times too small for f to
    reach zero along the steepest gradient met; without a success, if f falling on at three times its pace would
    stay above zero; after one, if the squared noise fell by less than 1% (0.5% in a warm search) in a tenth of
    `iterations`. How fast f falls is not judged before pixels at 0 or 1, where tanh is flat, had time to move.
    `precision` of the gradients: `auto` is bfloat16 where that is faster and close; noise and success are
    float32's: of each search the least noisy successes with three margins are kept for it to confirm, and a search
    that bfloat16 has misled is repeated once, with that error taken off. Rows are searched independently of each
    other and leave as soon as they are done.

    Source: Carlini and Wagner (2017), section V.A and VI.A; the paper's equation (4). Defaults are the
    original's except for its 10,000 iterations, of which 1,000 give the same noise within a percent, and for what
    `scaled`, `warm`, `forecast` and `precision` add. Pixels at 0 or 1 start 0.0009 inside, since tanh is flat farther
    out.
    """

    norm: ClassVar[float] = 2

    confidence: float = 0.0
    iterations: int = 1000
    searches: int = 9
    c0: float = 1e-3
    rate: float = 1e-2
    abort_early: bool = True
    forecast: bool = True
    warm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
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

    def _outcome(self, model: AttackedModel, state: _Search) -> Tensor:
        return state.best

    def _pace(self, noise: Tensor, x: Tensor) -> Tensor:
        return (noise / (SPREAD * math.sqrt(x[0].numel()))).clamp(SLOWEST, 1)

    def _scale(self, state: _Search, unit: Tensor, linear: Tensor) -> None:
        linear = linear + self.confidence / (unit * TYPICAL[2])
        super()._scale(state, unit, linear)
        if self.forecast:  # where the loss would be least at f = 0 if f were linear
            state.c = torch.maximum(state.c, STEEPER * 2 * linear / TYPICAL[2])

    def _start(self, rows: Tensor, x: Tensor, labels: Tensor) -> _Search:
        zero, no = x.new_zeros(len(x)), torch.zeros_like(labels, dtype=torch.bool)
        return _Search(
            row=rows,
            w=movable(x),
            first=torch.zeros_like(x),
            second=torch.zeros_like(x),
            clock=torch.zeros_like(labels),
            x=x,
            target=labels,
            unit=zero + 1,
            pace=zero + 1,
            c=zero + self.c0,
            lower=zero.clone(),
            upper=zero + NO_BOUND,
            search=torch.zeros_like(labels),
            found=no,
            seen=torch.zeros_like(labels) - 1,
            loss=zero + torch.inf,
            stalled=no.clone(),
            steepest=zero.clone(),
            hinge=zero + torch.inf,
            reach=zero.clone(),
            sharp=zero.clone(),
            hinge_past=zero[:, None].repeat(1, SPAN) + torch.inf,
            square=zero[:, None] + torch.inf,
            square_past=zero[:, None].repeat(1, SPAN) + torch.inf,
            point=x[:, None].clone(),
            slope=zero[:, None].clone(),
            excess=zero.clone(),
            best=x.clone(),
            best_square=zero + torch.inf,
            again=no.clone(),
            done=no.clone(),
        )

    def _roughly(self, state: _Search) -> None:
        state.point = state.point.repeat_interleave(KEPT, 1)
        state.square = state.square.repeat_interleave(KEPT, 1)
        state.slope = state.slope.repeat_interleave(KEPT, 1)

    def _advance(self, pair: Searched, state: _Search) -> Tensor:
        """Runs until the next look at some row; returns which rows are finished [R]."""
        period, look = max(1, self.iterations // CHECKS), max(1, self.iterations // LOOKS)
        ahead = torch.minimum(look - state.clock % look, self.iterations - state.clock)
        for _ in range(int(ahead.min())):
            self._step(pair, state, period)
        ended = state.clock >= self.iterations
        if self.abort_early:
            ended |= state.stalled & (state.clock % look == 0)  # at its own looks, whoever else has one
        if self.forecast:
            ended |= self._forecast(state, look)
        rows = ended.nonzero().flatten()
        if len(rows):
            state.put(rows, self._next_search(self._confirm(pair, state.select(rows), look)))
        return (state.search >= self.searches) | state.done

    def _forecast(self, state: _Search, look: int) -> Tensor:
        """Which rows [R] stand at a look and have nothing to expect from the iterations left."""
        at = state.clock % look == 0
        left = (self.iterations - state.clock) / look
        fall = (state.hinge_past[:, 0] - state.hinge) / SPAN * left  # infinite for the first SPAN looks
        square = state.square[:, 0]
        gain = state.square_past[:, 0] - square  # and after the first success
        state.hinge_past = remember(state.hinge_past, state.hinge, at)
        state.square_past = remember(state.square_past, square, at)
        lost = (PATIENCE * fall < state.hinge) & (state.clock >= TRAVEL / self._rate(state))
        lost |= SHORT * state.c * state.steepest / 2 < state.hinge
        warm = state.best_square < torch.inf
        done = gain < torch.where(warm, WORTH_WARM, WORTH) * square
        if self.warm:  # it began at a success: what counts is whether there still are any
            done |= (state.upper < NO_BOUND) & (state.clock - state.seen > SPAN * look)
        return at & torch.where(state.seen >= 0, done, lost)

    def _step(self, pair: Searched, state: _Search, period: int) -> None:
        adversarial = from_tanh(state.w)
        logits, gradient, grain = pair.towards(adversarial, state.row, state.target)
        gradient.div_(per_row(state.unit, gradient))
        lead = (margin(logits, state.target, targeted=True) - state.excess - self.confidence) / state.unit
        grain = grain / state.unit
        hinge = (2 * grain - lead).clamp(min=0)  # f + k: the same gradient as f, and nonnegative
        length = gradient.flatten(1).square().sum(1)
        state.steepest = torch.maximum(state.steepest, length)
        gradient.mul_(per_row(state.c * (hinge > 0), gradient))
        delta = adversarial - state.x
        square = delta.flatten(1).square().sum(1)
        self._check_loss(state, square + state.c * hinge, period)
        success = lead > grain
        rungs = grain[:, None] * APART ** torch.arange(
            state.square.shape[1], device=grain.device, dtype=grain.dtype
        )
        better = (lead[:, None] > rungs) & (square[:, None] < state.square)
        state.seen = torch.where(success, state.clock, state.seen)
        nearer = hinge < state.hinge
        state.reach = torch.where(nearer, square, state.reach)
        state.sharp = torch.where(nearer, length, state.sharp)
        state.hinge = torch.minimum(state.hinge, hinge)
        state.square = torch.where(better, square[:, None], state.square)
        state.slope = torch.where(better, length.sqrt()[:, None], state.slope)
        here = adversarial[:, None]
        state.point = torch.where(better.view(*better.shape, *[1] * (here.dim() - 2)), here, state.point)
        state.step_(gradient.add_(delta, alpha=2).mul_(tanh_slope(adversarial)), self._rate(state))

    def _rate(self, state: _Search) -> Tensor:
        """Of Adam [R]."""
        return (
            self.rate
            * state.pace
            * torch.where(state.best_square < torch.inf, 1.0, BOLD if self.scaled else 1.0)
        )

    def _check_loss(self, state: _Search, loss: Tensor, period: int) -> None:
        at = state.clock % period == 0
        late = (state.clock >= TRAVEL / self._rate(state)) | (state.seen >= 0)
        state.stalled = torch.where(at, late & (loss > STALLED * state.loss), state.stalled)
        state.loss = torch.where(at, loss, state.loss)

    def _confirm(self, pair: Searched, state: _Search, look: int) -> _Search:
        """Says of rows whose search ended whether it succeeded, and keeps what beats their best."""
        state.found = state.seen >= 0
        state.again = state.again & state.found
        if self.warm:
            state.found &= (state.upper >= NO_BOUND) | (state.clock - state.seen <= look)
        rows = (state.seen >= 0).nonzero().flatten()
        before = state.best_square.clone()
        if len(rows):
            state.put(rows, self._keep(pair, state.select(rows)))
        if self.forecast:
            idle = (state.best_square > (1 - ENOUGH) ** 2 * before) & ~state.again
            state.done = state.done | (idle & (state.found | self.warm))
        return state

    def _keep(self, pair: Searched, part: _Search) -> _Search:
        """Rows with a success: what exact logits say of it, and the better of it and their best."""
        point, confirmed, which = self._exactly(pair.exact, part)
        if pair.rough is not pair.exact:
            self._learn(pair, part, (which > 0) | ~confirmed)
        part.slope[:, 0] = part.slope.gather(1, which[:, None])[:, 0]
        square = (point - part.x).flatten(1).square().sum(1)
        better = confirmed & (square < part.best_square)
        part.best = torch.where(per_row(better, point), point, part.best)
        part.best_square = torch.where(better, square, part.best_square)
        part.found = part.found & confirmed
        if self.scaled:
            part.pace = torch.where(better, self._pace(part.best_square.sqrt(), part.x), part.pace)
        return part

    def _learn(self, pair: Searched, state: _Search, refuted: Tensor) -> None:
        """What exact logits say to rows that rounding has misled [r] bool, in place: they search once more with this c.

        A search keeps to the edge of what it believes, and the next one would end at the same place.
        """
        misled = torch.zeros_like(refuted)
        rows = refuted.nonzero().flatten()
        if len(rows):
            met = excess(pair, state.point[rows, 0], state.row[rows], state.target[rows])
            misled[rows] = met > state.excess[rows]
            state.excess[rows] = torch.maximum(state.excess[rows], met)
        state.again = misled & ~state.again

    def _exactly(self, model: AttackedModel, state: _Search) -> tuple[Tensor, Tensor, Tensor]:
        """The first of the kept successes that is one by exact logits [r,...], whether one is, and which [r]."""
        point, which = state.point[:, 0].clone(), torch.zeros_like(state.row)
        confirmed = torch.zeros_like(state.done)
        for k in range(state.point.shape[1]):
            tried = (~confirmed & state.square[:, k].isfinite()).nonzero().flatten()
            if not len(tried):
                break
            x, at, target = state.x[tried], state.point[tried, k], state.target[tried]
            accepts = lambda logits, target=target: self._accepts(logits, target)  # noqa: E731
            point[tried], confirmed[tried] = shrink(model, x, at, state.row[tried], accepts)
            which[tried] = torch.where(confirmed[tried], k, 0)
        return point, confirmed, which

    def _next_search(self, state: _Search) -> _Search:
        """The bounds on c after a search, the next c, and Adam at its start."""
        c, found, again = state.c, state.found, state.again
        state.upper = torch.where(found, torch.minimum(state.upper, c), state.upper)
        state.lower = torch.where(found | again, state.lower, torch.maximum(state.lower, c))
        more, middle = 10 * torch.ones_like(c), (state.lower + state.upper) / 2
        if self.forecast:
            middle = state.lower + CAREFUL * (state.upper - state.lower)
            stationary = 2 * state.best_square.sqrt() / state.slope[:, 0]
            middle = torch.fmin(middle, torch.maximum(ABOVE * stationary, 1.1 * state.lower))
            more = ABOVE * (1 + state.hinge / (state.reach * state.sharp).sqrt())
            more = more.nan_to_num(nan=10.0).clamp(2, 10)
        state.c = torch.where(again, c, torch.where(state.upper < NO_BOUND, middle, c * more))
        state.search = state.search + ~again
        if self.searches >= 10:
            state.c = torch.where(state.search == self.searches - 1, state.upper, state.c)
        start = state.x
        if self.warm:
            start = torch.where(per_row(state.best_square < torch.inf, start), state.best, start)
        state.reset_(torch.arange(len(state), device=c.device), movable(start))
        state.found = torch.zeros_like(found)
        state.stalled = torch.zeros_like(found)
        state.seen.fill_(-1)
        state.steepest.zero_()
        for field in ("loss", "hinge", "hinge_past", "square", "square_past"):
            getattr(state, field).fill_(torch.inf)
        return state
