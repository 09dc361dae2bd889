"""What CW-L0 and CW-Linf share: attempts to succeed within a constraint, with a penalty c that doubles.

Both repeat: descend from the last solution until the first success, tighten the constraint, go on; if no
success comes, double c and start again from the last solution; give up at the largest c. A row does all of
this on its own, at its own round, c and iteration.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from rcfast.attacks._cw import (
    SPAN,
    TRAVEL,
    Adam,
    CarliniWagner,
    excess,
    movable,
    remember,
    tanh_slope,
    to_tanh,
)
from rcfast.attacks._passes import Searched
from rcfast.attacks.attacked import AttackedModel
from rcfast.attacks.inputs import check_counts, check_positive
from rcfast.attacks.margins import margin, per_row

CHECKS = 40  # times per attempt that the fall of what is missing is looked at
PATIENCE = 1.5  # how much faster than now a fall may become; all of them become slower
STALLED = 0.9999  # before the first success: a least value above this share of the one before has stalled
# Adam's steps do not depend on the scale of the loss: once the constraint is this small a part of the
# gradient throughout an attempt that failed, the same attempt with a larger c fails in the same way.
NEGLIGIBLE = 1e-2
SCALE_FREE = 1.0  # the smallest c from which on Adam's epsilon is nothing beside the gradients
# An attempt after twice the c of the one before that misses at least this share of what that one missed: larger c
# are not tried.
FUTILE = 0.8
OUTWEIGHED = (
    1.0  # where c·f outweighs the constraint throughout the attempt; before, a larger c changes little
)
CLOSER = 0.99  # of the least noise so far: where gradients are rough, only points below it are looked at
LOOK = 8  # iterations between two looks on a GPU, where each costs a synchronisation


@dataclass
class Climb(Adam):
    """One row for each example: its attempt, its constraint, and its last success."""

    x: Tensor  # [R,...] clean
    target: Tensor  # [R] int64
    unit: Tensor  # [R] difference of logits that is 1 in f
    pace: Tensor  # [R] length of Adam's steps, as a share of the rate
    c: Tensor  # [R]
    bound: Tensor  # [R] tau, or [R,...] bool: the coordinates that may change
    least: Tensor  # [R] the least that was missing since the last check
    past: Tensor  # [R,SPAN] the least at the checks before
    before: Tensor  # [R] what the failed attempt before this one missed, infinite after a success
    failed: (
        Tensor  # [R] the largest tau given up, 0 before, or [R,P] bool: pixels that could not be done without
    )
    best_c: Tensor  # [R] c at the last success
    steepest: Tensor  # [R] largest squared gradient of f in this attempt
    share: Tensor  # [R] the largest gradient of the constraint in this attempt, relative to that of c·f
    excess: (
        Tensor  # [R] by how much rough margins were found to be too large, where exact ones refuted a success
    )
    hit: Tensor  # [R] bool: the attempt succeeded
    over: Tensor  # [R] bool: the attempt failed
    point: Tensor  # [R,...] where it succeeded
    slope: Tensor  # [R,...] gradient of f there
    solved: Tensor  # [R] bool: some attempt has succeeded
    solution: Tensor  # [R,...] the last success of all attempts, the clean input before it
    nearest: Tensor  # [R,...] the least noisy success of all steps, the clean input before it
    noise: Tensor  # [R] its noise, infinite before


@dataclass(frozen=True, kw_only=True)
class ClimbingAttack(CarliniWagner):
    """Base of CW-L0 and CW-Linf: the loop over attempts. Subclasses say what the constraint is."""

    iterations: int
    rate: float
    c0: float
    c_max: float
    abort_early: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(iterations=self.iterations)
        check_positive(rate=self.rate, c0=self.c0, c_max=self.c_max)

    @abstractmethod
    def _bound(self, x: Tensor) -> Tensor:
        """The constraint at the start, for x [r,...]."""

    def _failed(self, x: Tensor) -> Tensor:
        """What was given up at the start: nothing, for x [r,...]."""
        return x.new_zeros(len(x))

    @abstractmethod
    def _adversarial(self, state: Climb) -> Tensor:
        """Points [R,...] at state.w."""

    @abstractmethod
    def _distance(self, adversarial: Tensor, state: Climb) -> tuple[Tensor, Tensor]:
        """The distance term [R] and its gradient [R,...] in the adversarial examples."""

    @abstractmethod
    def _succeeds(self, logits: Tensor, distance: Tensor, state: Climb) -> Tensor:
        """Which rows [R] end their attempt with success."""

    @abstractmethod
    def _missing(self, hinge: Tensor, distance: Tensor, state: Climb) -> Tensor:
        """What must reach zero [R] for a success."""

    def _missed(self, state: Climb) -> Tensor:
        """What an attempt missed [r], on a scale on which attempts with different c compare."""
        return state.least

    @abstractmethod
    def _goal(self, grain: Tensor) -> Tensor:
        """The margin between logits from which f is zero; what may be rounding is grain [R]."""

    @abstractmethod
    def _tighten(self, state: Climb) -> Tensor:
        """Tightens the bound of rows that succeeded, in place; returns which rows [r] have nothing left."""

    @abstractmethod
    def _least_c(self, state: Climb) -> Tensor:
        """The smallest c [r] that is worth an attempt, by the gradients met."""

    @abstractmethod
    def _futile(self, state: Climb) -> Tensor:
        """Which failed attempts [r] missed by so much that no larger c would succeed."""

    def _growth(self, state: Climb) -> Tensor:
        """By how much c grows after a failed attempt [r]."""
        return torch.full_like(state.c, 2.0)

    def _give_up(self, state: Climb) -> Tensor:
        """What happens to rows whose bound cannot be met, in place; returns which are finished [r]."""
        return torch.ones_like(state.solved)

    def _outcome(self, model: AttackedModel, state: Climb) -> Tensor:
        """The solutions [r,...] handed out for rows that are finished."""
        return state.nearest

    def _start(self, rows: Tensor, x: Tensor, labels: Tensor) -> Climb:
        zero, no = x.new_zeros(len(x)), torch.zeros_like(labels, dtype=torch.bool)
        return Climb(
            row=rows,
            w=self._begin(x),
            first=torch.zeros_like(x),
            second=torch.zeros_like(x),
            clock=torch.zeros_like(labels),
            x=x,
            target=labels,
            unit=zero + 1,
            pace=zero + 1,
            c=zero + self.c0,
            bound=self._bound(x),
            least=zero + torch.inf,
            past=zero[:, None].repeat(1, SPAN) + torch.inf,
            before=zero + torch.inf,
            failed=self._failed(x),
            best_c=zero + self.c0,
            steepest=zero.clone(),
            share=zero.clone(),
            excess=zero.clone(),
            hit=no,
            over=no.clone(),
            point=x.clone(),
            slope=torch.zeros_like(x),
            solved=no.clone(),
            solution=x.clone(),
            nearest=x.clone(),
            noise=zero + torch.inf,
        )

    def _begin(self, x: Tensor) -> Tensor:
        """The w where an attempt starts at x [r,...]; without abort_early the original's."""
        return movable(x) if self.abort_early else to_tanh(x)

    def _advance(self, pair: Searched, state: Climb) -> Tensor:
        """Some iterations; rows whose attempt ended start their next one. Returns finished rows [R]."""
        for _ in range(LOOK if state.w.is_cuda else 1):
            self._step(pair, state)
        finished = torch.zeros_like(state.hit)
        ended = (state.hit | state.over).nonzero().flatten()
        if len(ended):
            part = state.select(ended)
            finished[ended] = self._next_attempt(part)
            state.put(ended, part)
        return finished

    def _step(self, pair: Searched, state: Climb) -> None:
        adversarial = self._adversarial(state)
        logits, slope, grain = pair.towards(adversarial, state.row, state.target)
        slope.div_(per_row(state.unit, slope))
        grain = grain / state.unit
        lead = margin(logits, state.target, targeted=True) - state.excess
        lack = self._goal(grain) - lead / state.unit
        hinge = lack.clamp(min=0)
        distance, pull = self._distance(adversarial, state)
        success = self._succeeds(logits, distance, state)
        if pair.rough is not pair.exact:
            success &= lack < grain  # rarely a success by rounding alone
            self._confirm(pair, state, adversarial, distance, success)
        self._record(state, adversarial, slope, success)
        self._keep(pair, state, adversarial, logits, success)
        push = slope * per_row(state.c * (hinge > 0), slope)
        state.steepest = torch.maximum(state.steepest, slope.flatten(1).square().sum(1))
        share = pull.flatten(1).abs().amax(1) / (state.c * slope.flatten(1).abs().amax(1))
        state.share = torch.maximum(state.share, share.nan_to_num(nan=torch.inf))
        self._check_fall(state, self._missing(hinge, distance, state))
        state.step_((push + pull).mul_(self._slope(adversarial, state)), self.rate * state.pace)
        state.over |= (state.clock >= self.iterations) & ~state.hit

    def _confirm(
        self, pair: Searched, state: Climb, adversarial: Tensor, distance: Tensor, success: Tensor
    ) -> None:
        """Takes back successes [R] that are none by exact logits, in place.

        A row keeps to the edge of what it believes: it learns by how much that was wrong, or it would stay there.
        """
        rows = (success & ~(state.hit | state.over)).nonzero().flatten()
        if not len(rows):
            return
        logits = pair.exact.predict(adversarial[rows], state.row[rows])
        success[rows] = self._succeeds(logits, distance[rows], state.select(rows))
        rows = rows[~success[rows]]
        if len(rows):
            met = excess(pair, adversarial[rows], state.row[rows], state.target[rows])
            state.excess[rows] = torch.maximum(state.excess[rows], met)

    def _slope(self, adversarial: Tensor, state: Climb) -> Tensor:
        """dx/dw [R,...]."""
        return tanh_slope(adversarial)

    def _record(self, state: Climb, adversarial: Tensor, slope: Tensor, success: Tensor) -> None:
        """Keeps the first success of an attempt; what its row does until it is looked at is ignored."""
        now = success & ~(state.hit | state.over)
        state.point = torch.where(per_row(now, adversarial), adversarial, state.point)
        state.slope = torch.where(per_row(now, slope), slope, state.slope)
        state.hit = state.hit | now

    def _keep(
        self, pair: Searched, state: Climb, adversarial: Tensor, logits: Tensor, success: Tensor
    ) -> None:
        """Keeps the least noisy point with the wanted label, also where an attempt asks for more than the label."""
        noise = self._noise(adversarial, state)
        closer = self._accepts(logits, state.target) & (noise < state.noise)
        if pair.rough is not pair.exact:
            rows = (closer & (success | (noise < CLOSER * state.noise))).nonzero().flatten()
            closer = torch.zeros_like(closer)
            if not len(rows):
                return
            logits = pair.exact.predict(adversarial[rows], state.row[rows])
            closer[rows] = self._accepts(logits, state.target[rows])
        state.nearest = torch.where(per_row(closer, adversarial), adversarial, state.nearest)
        state.noise = torch.where(closer, noise, state.noise)

    def _noise(self, point: Tensor, state: Climb) -> Tensor:
        """The noise [R] of points [R,...] in the norm of the attack."""
        length: Tensor = torch.linalg.vector_norm((point - state.x).flatten(1), self.norm, dim=1)
        return length

    def _check_fall(self, state: Climb, missing: Tensor) -> None:
        """Ends attempts that would not succeed in the iterations left at several times their present pace.

        missing [R]: zero at a success. Before the first success of a row only one that has stalled: pixels at
        0 or 1 gather speed slowly.
        """
        if not self.abort_early:
            return
        period = max(1, self.iterations // CHECKS)
        state.least = torch.fmin(state.least, missing)  # logits that are NaN say nothing
        check = (state.clock % period == 0) & (state.clock > 0)
        left = (self.iterations - state.clock) / period
        fall = state.past[:, 0] - state.least  # infinite for the first SPAN checks
        late = PATIENCE * fall / SPAN * left < state.least
        stalled = state.least > STALLED * state.past[:, 0]
        hopeless = ~state.solved & (state.c < self._least_c(state))
        stalled &= state.clock >= TRAVEL / (self.rate * state.pace)
        state.over = state.over | (check & ~state.hit & (torch.where(state.solved, late, stalled) | hopeless))
        state.past = remember(state.past, state.least, check)

    def _next_attempt(self, state: Climb) -> Tensor:
        """Turns rows whose attempt ended to their next attempt, in place; returns which are finished [r]."""
        finished = torch.zeros_like(state.hit)
        won = state.hit.nonzero().flatten()
        if len(won):
            part = state.select(won)
            part.solution = part.point
            part.solved.fill_(True)
            finished[won] = self._tighten(part)
            state.put(won, part)
        lost = ~state.hit
        state.best_c = torch.where(lost, state.best_c, state.c)
        missed = self._missed(state)
        futile = (missed >= FUTILE * state.before) & (state.share < OUTWEIGHED) | self._futile(state)
        state.c = torch.where(lost, state.c * self._growth(state), state.c)
        given_up = lost & (state.c >= self.c_max)
        if self.abort_early:
            state.c = torch.fmax(state.c, self._least_c(state))
            given_up |= lost & (state.share < NEGLIGIBLE) & (state.c >= SCALE_FREE)
            given_up |= lost & state.solved & futile
        state.before = torch.where(lost, missed, torch.inf)
        rows = given_up.nonzero().flatten()
        if len(rows):
            part = state.select(rows)
            part.before.fill_(torch.inf)
            finished[rows] = self._give_up(part) | ~part.solved
            state.put(rows, part)
        everyone = torch.arange(len(state), device=state.c.device)
        state.reset_(everyone, self._begin(state.solution))
        state.least.fill_(torch.inf)
        state.past.fill_(torch.inf)
        state.share.zero_()
        state.steepest.zero_()
        state.hit.zero_()
        state.over.zero_()
        return finished

    @classmethod
    def fast(cls, **changes: Any) -> Self:
        """A smaller budget for a CPU: 200 iterations an attempt with larger steps, c from where it matters."""
        return cls(**{"iterations": 200, "rate": 5e-2, "c0": 1e-1, **changes})
