"""Auto-PGD: the strongest attack of a given length, with a step size that the attack halves by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from rcfast.attacks._rolling import Rows
from rcfast.attacks._sampled import Sampled, SampledAttack, inside_ball, key, uniform
from rcfast.attacks.inputs import check_counts, check_positive
from rcfast.attacks.margins import hits, margin, per_row

__all__ = ["APGD"]

APGDLoss = Literal["ce", "dlr"]
FIRST, LESS, LEAST = 22, 3, 6  # % of the steps: the first interval between two looks, its fall, its least
MOMENTUM = 0.75
SURE = 64  # points in a row that are fooled: a vote that lost them is lost
COMPARED = 200  # points on which the last and the best iterate against a vote are compared


@dataclass
class _Climb(Rows):
    """One row for each example: where it is, the best it has met, and what the looks need."""

    x: Tensor  # [R,...] clean
    label: Tensor  # [R] int64
    at: Tensor  # [R,...]
    before: Tensor  # [R,...] the iterate before
    grad: Tensor  # [R,...] at `at`
    loss: Tensor  # [R] at `at`
    top: Tensor  # [R,...] the iterate with the largest loss
    top_grad: Tensor  # [R,...]
    top_loss: Tensor  # [R]
    step: Tensor  # [R]
    rises: Tensor  # [R] int64 since the last look
    halved: Tensor  # [R] bool: at the last look
    top_then: Tensor  # [R] the largest loss at the last look
    fooled: Tensor  # [R] int64: points in a row that are fooled
    sure: Tensor  # [R] bool: done


@dataclass(frozen=True, kw_only=True)
class APGD(SampledAttack):
    """APGD: the loss is driven up within a ball of radius `eps` in Linf or L2 around the example and in [0,1].

    Projected gradient ascent with momentum 0.75. The step starts at 2·eps and is halved, and the example sent back
    to its best iterate, where since the last look the loss rose in fewer than `rho` of the steps, or neither the
    step nor the best loss has changed. Looks come after 22% of `steps`, then at intervals 3% shorter each time, of
    at least 6%. `loss`: "ce" is cross-entropy; "dlr" (Z_o - Z_y)/(Z_1 - Z_3), o the strongest other label, Z_1 and Z_3
    the largest and the third largest logit. targeted: labels are targets, and the loss is turned round.

    Called with a :class:`rcfast.RegionClassifier` it attacks the vote: loss and gradient are means over `eot` fresh
    points of the region at each step (expectation over transformation), an example leaves once 64 points in a row are
    fooled, and of the best and the last iterate the one handed out has more votes on points of the attack's own. Of a
    plain network each example leaves at its first success. `restarts` begin at other random points of the ball; of
    those that are not sure, the one with more votes on those points is kept.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks" (2020), algorithm 1; eot as in the `rand` version there; Athalye, Engstrom, Ilyas and Kwok (2018).

    Raises ValueError for a norm other than 2 or inf, eps, steps, eot or restarts not positive, another loss.
    """

    eps: float
    norm: float = math.inf  # type: ignore[misc]
    loss: APGDLoss = "ce"
    steps: int = 100
    eot: int = 1
    restarts: int = 1
    rho: float = 0.75
    targeted: bool = False  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in (2, math.inf):
            raise ValueError(f"norm must be 2 or inf, got {self.norm!r}")
        if self.loss not in get_args(APGDLoss):
            raise ValueError(f"loss must be 'ce' or 'dlr', got {self.loss!r}")
        check_positive(eps=self.eps, rho=self.rho)
        check_counts(steps=self.steps, eot=self.eot, restarts=self.restarts)

    def _search(self, vote: Sampled, x: Tensor, labels: Tensor) -> Tensor:
        found, most = x.clone(), x.new_full((len(x),), -math.inf)
        rows = torch.arange(len(x), device=x.device)
        for restart in range(self.restarts):
            if not len(rows):
                break
            point, lead = self._climb(vote, x[rows], labels[rows], rows, restart)
            ahead = lead > most[rows]
            found[rows[ahead]], most[rows[ahead]] = point[ahead], lead[ahead]
            rows = rows[lead < math.inf]
        return found

    def _climb(
        self, vote: Sampled, x: Tensor, labels: Tensor, rows: Tensor, restart: int
    ) -> tuple[Tensor, Tensor]:
        """One run: what it found [n,...], and its lead [n], infinite where it is surely a success."""
        samples = self.eot if vote.votes else 1
        enough = SURE if vote.votes else 1
        every = (self.steps + 1) * samples  # points of one run
        state = self._start(vote, x, labels, rows, restart)
        whole = state.select(torch.arange(len(x), device=x.device))  # of all rows: where they leave to
        place = torch.arange(len(x), device=x.device)
        looks = [0, *_looks(self.steps)]
        for i in range(self.steps + 1):
            if i > 0:
                self._move(state, first=i == 1)
            self._evaluate(vote, state, restart * every + i * samples, enough, first=i == 0)
            left = state.sure.nonzero().flatten()
            if len(left):
                whole.put(place[left], state.select(left))
                state, place = state.select(~state.sure), place[~state.sure]
                vote.network.progress(1 - len(state) / len(vote.ids))
            if not len(state):
                break
            if i in looks[1:] and i < self.steps:  # after the last step there is no other to be made shorter
                self._look(state, i - looks[looks.index(i) - 1])
        whole.put(place, state)
        return self._better(vote, whole)

    def _start(self, vote: Sampled, x: Tensor, labels: Tensor, rows: Tensor, restart: int) -> _Climb:
        noise = uniform(x, vote.ids[rows], seed=key(self.seed, "start"), index=restart).to(x.dtype)
        # a normal variate's direction is uniform; any multiple of it has the same
        delta = 2 * noise - 1 if self.norm == math.inf else torch.erfinv(2 * noise - 1)
        at = (x + self.eps * self._unit(delta)).clamp(0, 1)
        zero, no = x.new_zeros(len(x)), torch.zeros_like(labels, dtype=torch.bool)
        none = torch.zeros_like(labels)
        return _Climb(
            row=rows,
            x=x,
            label=labels,
            at=at,
            before=at,
            grad=torch.zeros_like(x),
            loss=zero - math.inf,
            top=at,
            top_grad=torch.zeros_like(x),
            top_loss=zero - math.inf,
            step=zero + 2 * self.eps,
            rises=none,
            halved=~no,
            top_then=zero - math.inf,
            fooled=none,
            sure=no,
        )

    def _unit(self, delta: Tensor) -> Tensor:
        """delta [n,...] scaled to length 1 in the norm; zeros stay."""
        flat = delta.flatten(1)
        length = flat.abs().amax(1) if self.norm == math.inf else flat.norm(dim=1)
        return delta / per_row(length.clamp(min=1e-12), delta)

    def _project(self, x: Tensor, point: Tensor) -> Tensor:
        """The nearest point [n,...] that lies in the ball around x and in [0,1]."""
        delta = point - x
        if self.norm == math.inf:
            return (x + delta.clamp(-self.eps, self.eps)).clamp(0, 1)
        return inside_ball(x, delta, self.eps)

    def _move(self, state: _Climb, *, first: bool) -> None:
        direction = state.grad.sign() if self.norm == math.inf else self._unit(state.grad)
        point = self._project(state.x, state.at + per_row(state.step, state.at) * direction)
        if not first:
            ahead = MOMENTUM * (point - state.at) + (1 - MOMENTUM) * (state.at - state.before)
            point = self._project(state.x, state.at + ahead)
        state.before, state.at = state.at, point

    def _evaluate(self, vote: Sampled, state: _Climb, index: int, enough: int, *, first: bool) -> None:
        """Loss and gradient at the iterate, the best one, and who is done."""

        def mean_loss(logits: Tensor, some: Tensor) -> Tensor:
            labels = state.label[some].repeat_interleave(logits.shape[1])
            return self._loss(logits.flatten(0, 1), labels).unflatten(0, logits.shape[:2]).mean(1)

        logits, state.grad = vote.gradients(state.at, state.row, mean_loss, first=index, samples=self.eot)
        loss = mean_loss(logits, torch.arange(len(logits), device=logits.device)).to(state.loss.dtype)
        state.rises = state.rises + (loss > state.loss) * (not first)
        state.loss = loss
        better = loss > state.top_loss
        state.top = torch.where(per_row(better, state.at), state.at, state.top)
        state.top_grad = torch.where(per_row(better, state.at), state.grad, state.top_grad)
        state.top_loss = torch.where(better, loss, state.top_loss)
        fooled = hits(logits, state.label[:, None], targeted=self.targeted).all(1)
        state.fooled = torch.where(fooled, state.fooled + logits.shape[1], 0)
        state.sure = state.fooled >= enough

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What is driven up [n]: logits [n,L], labels [n]."""
        if self.loss == "ce":
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
            return -loss if self.targeted else loss
        if logits.shape[1] < 3:
            raise ValueError(f"loss='dlr' needs at least 3 labels, got {logits.shape[1]}")
        best = logits.topk(3, dim=1).values
        return margin(logits, labels, targeted=self.targeted) / (best[:, 0] - best[:, 2] + 1e-12)

    def _look(self, state: _Climb, interval: int) -> None:
        stuck = ~state.halved & (state.top_then >= state.top_loss)
        halve = (state.rises < self.rho * interval) | stuck
        back = per_row(halve, state.at)
        state.step = torch.where(halve, state.step / 2, state.step)
        state.at = torch.where(back, state.top, state.at)
        state.grad = torch.where(back, state.top_grad, state.grad)
        state.loss = torch.where(halve, state.top_loss, state.loss)
        state.halved, state.top_then = halve, state.top_loss
        state.rises = torch.zeros_like(state.rises)

    def _better(self, vote: Sampled, state: _Climb) -> tuple[Tensor, Tensor]:
        """What is handed out [n,...]: sure rows as they left, others their better iterate by votes; and its lead [n].

        The lead is a share of the votes, infinite for sure rows; of a plain network, the least there is for the others.
        """
        found = torch.where(per_row(state.sure, state.at), state.at, state.top)
        most = state.step.new_full((len(found),), torch.finfo(state.step.dtype).min)
        most = torch.where(state.sure, math.inf, most)
        rows = (~state.sure).nonzero().flatten()
        if not vote.votes or not len(rows):
            return found, most
        part, leads = state.select(rows), []
        for point in (part.top, part.at):
            votes = vote.vote(point, part.row, purpose="compare", m=COMPARED)
            leads.append(vote.lead(votes, part.label, targeted=self.targeted))
        last = per_row(leads[1] > leads[0], part.at)
        found[rows] = torch.where(last, part.at, part.top)
        most[rows] = torch.maximum(*leads).to(most.dtype)
        return found, most


def _looks(steps: int) -> list[int]:
    """After which of the steps the step size is looked at, ascending."""
    found, place, share = [], 0, FIRST
    while (place := place + share) <= 100:
        found.append(math.ceil(place * steps / 100))
        share = max(share - LESS, LEAST)
    return sorted(set(found))
