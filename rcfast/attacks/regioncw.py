"""The least noise that makes a vote say the target: gradients through fresh points of the region at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from rcfast.attacks._level import needed, raised, settle, settle_whole
from rcfast.attacks._moves import first_size, point, size_of
from rcfast.attacks._rolling import Rows
from rcfast.attacks._sampled import Sampled, SampledAttack, another, key
from rcfast.attacks.base import Attack
from rcfast.attacks.inputs import check_counts, check_positive
from rcfast.attacks.margins import margin, per_row
from rcfast.attacks.result import Noise, check_norm
from rcfast.hardware import divisor

__all__ = ["RegionCW"]

VoteLoss = Literal["margin", "tanh", "probability", "count"]
AVERAGED = (0.3, 0.03)  # share of the newest gradient in the mean, at the first and at the last step
# Of the logarithm of the size, for what the lead is short of its level or beyond it. A faster first pace is for short
# searches only: the size may run away from a direction that is not one yet, to pictures of nothing but ends of [0,1].
PACE, FASTEST, WAY = (0.07, 0.02), 0.2, 17.0
FAR = 0.1  # slope of the loss at points far from the target, where it is 1 at undecided ones
SMOOTH = 0.1  # share of the newest points in the mean square of margins and in the votes
SHARP = 3.0  # of softmax, for margins of mean square 1
FEW = 64  # votes that tell a size at which an example is far from leading
SIZES = (1e-9, 1e6)  # of the noise, while it is searched: below every grid, and beyond every corner


@dataclass
class _State(Rows):
    x: Tensor  # [R,...] clean
    label: Tensor  # [R] int64, the target
    mean: Tensor  # [R,...] the mean gradient, which is the direction
    size: Tensor  # [R] of the noise
    square: Tensor  # [R] mean square of the margins among the points
    votes: Tensor  # [R,L] share of each label among the points

    @property
    def rival(self) -> Tensor:
        """The label [R] with the most votes besides the target."""
        return self.votes.scatter(1, self.label[:, None], -1).argmax(1)


@dataclass(frozen=True, kw_only=True)
class RegionCW(SampledAttack):
    """T-RegionCW: the least noise in L2, Linf or L0 with which the vote says the target.

    Where the noise is least, it is the best point of its size along its own gradient g: x + s·g in L2, x + s·sign g in
    Linf, the s pixels with the largest gain in L0, each clipped to [0,1]. The search goes there with two coupled
    averages: g is the running mean of gradients at `points` fresh points of the region in each of `steps` steps
    (`last_points` at the end), over a window that grows from 3 to 33 steps; log s falls where the target leads by more
    of these points than it must at the end, and rises where by less (Robbins and Monro). There is no penalty to
    search for, and coordinates at 0 or 1 stay there unless the mean gradient leads inside. Many steps of few points
    find less noise than few steps of many. Of `restarts` searches by other points the least noise stays that leads.

    What is to rise stands for the lead of the target over its strongest rival among the labels: the mean over points
    of (f(u) + f(-v))/2, u the margin of the target, Z_t - max Z_i, and v that of the rival, both divided by the root
    mean square of u, so that the scale of the logits does not matter. `loss`: "tanh" is f(u) = tanh(u) + 0.1·min(u, 0);
    "margin" min(u, 1); "count" counts points, with the gradient of clip(u, -1, 1) + 0.1·min(u, 0) passed straight
    through; "probability" takes the logarithm of the ratio of mean softmaxes instead.

    At the end `votes` points decide about the size: that at which the lead of the target is `certainty` standard
    deviations above a tie, counting the chance of these votes and of another m votes. 2.75 fail one time in 330.

    `levels`: None, or of the grid on which images are stored, 255 for 8 bits: what is handed out, and what decides
    about its size, are points rounded to multiples of 1/levels. Rounding later undoes half of a noise of one level.

    `start`: an attack on the network, whose examples are carried over: the least noisy one that leads safely is
    where the search begins, and stays if nothing better is found. By default the search begins at x.

    Called with a :class:`rcfast.RegionClassifier`; of a plain network it looks for the least noise itself, with one
    point and no region: the least noisy point that got the label on the way counts, and the next search begins there.
    Every vote of the search is of points of its own: the votes under the classifier's seed decide about `success`
    alone.

    Source: the stationarity condition of Carlini and Wagner (2017), section V, for the expectation over
    transformation of Athalye et al. (2018); direction and size apart as in Rony et al., "Decoupling direction and
    norm" (2019); averaged gradients as in Xiao, "Dual averaging methods" (2010); straight-through: Bengio et al.
    (2013).

    Raises TypeError or ValueError for hyperparameters outside their range.
    """

    targeted: ClassVar[bool] = True

    norm: float = 2  # type: ignore[misc]
    steps: int = 600
    points: int = 2
    last_points: int | None = None
    restarts: int = 2
    loss: VoteLoss = "tanh"
    votes: int = 2000
    certainty: float = 2.75
    levels: int | None = None
    start: Attack | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self.norm)
        check_counts(steps=self.steps, points=self.points, restarts=self.restarts, votes=self.votes)
        given = {"last_points": self.last_points, "levels": self.levels}
        check_counts(**{name: value for name, value in given.items() if value is not None})
        check_positive(certainty=self.certainty)
        if self.loss not in get_args(VoteLoss):
            raise ValueError(f"loss must be one of {', '.join(get_args(VoteLoss))}, got {self.loss!r}")
        if self.start is not None and not (isinstance(self.start, Attack) and self.start.targeted):
            raise TypeError(f"start must be a targeted attack such as CWL2(), or None, got {self.start!r}")

    @classmethod
    def fast(cls, **changes: Any) -> Self:
        """A smaller budget for a CPU: one search of 240 steps of 2 points, 1,000 votes."""
        return cls(**{"steps": 240, "restarts": 1, "votes": 1000, **changes})

    def _search(self, vote: Sampled, x: Tensor, labels: Tensor) -> Tensor:
        best, held = self._carried_over(vote, x, labels)
        # Of a network that always answers alike, a point is all there is to say: the least noisy one on the way counts.
        sure = not vote.votes and vote.point_model.needs(x).repeats
        first, restarts = 0, self.restarts if vote.votes or sure else 1
        for again in range(restarts):
            begun = held & (again == 0 or sure)
            state, first = self._begin(vote, x, labels, best, begun, first=first)
            for i in range(self.steps):
                part = i / max(1, self.steps - 1)
                samples = round(_between((self.points, self.last_points or self.points), part))
                at, logits = self._step(vote, state, part, first=first, samples=samples)
                if sure and self.levels is None:  # the answer is of the point as it is
                    best, held = self._better(x, at, self._accepts(logits[:, 0], labels), best, held)
                first += samples
                vote.network.progress((again + (i + 1) / (self.steps + 1)) / restarts)
            unchecked = not sure and restarts == 1 and self.start is None
            found, leads = self._settled(vote, state, name=str(again), checked=not unchecked)
            if unchecked:
                return found
            best, held = self._better(x, found, leads, best, held)
        return best

    def _better(
        self, x: Tensor, found: Tensor, leads: Tensor, best: Tensor, held: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The less noisy [n,...] of what was found and the best so far, where they lead and are held, and where [n]."""
        noise, before = (Noise.between(p, x).of(self.norm) for p in (found, best))
        return torch.where(per_row(~held | (leads & (noise < before)), x), found, best), held | leads

    def _leads(
        self, vote: Sampled, found: Tensor, labels: Tensor, rows: Tensor, *, purpose: str, few: bool = False
    ) -> Tensor:
        """Where [n] half as many votes again, or a few, agree that the search for a size ended at one, up to chance."""
        m = -(-self.votes // 2)
        m = min(m, FEW) if few else m
        if not vote.votes:
            return self._accepts(vote.logits(found, rows, first=0, samples=1)[:, 0], labels)
        lead = vote.lead(vote.vote(found, rows, purpose=purpose, m=m), labels, targeted=True)
        return lead >= self._level(vote) - (3 if few else 2) / math.sqrt(m)

    def _settled(self, vote: Sampled, state: _State, *, name: str, checked: bool) -> tuple[Tensor, Tensor]:
        """The points [n,...] along the directions that were found, of the least size that leads safely, and which of
        them do by votes that had no part in it: a few, which tell only who is far from it, where not `checked`."""

        def at(size: Tensor, some: Tensor | slice = slice(None)) -> Tensor:
            return self._stored(point(self.norm, state.x[some], state.mean[some], size[some]))

        def leads(size: Tensor, some: Tensor, purpose: str, few: bool = False) -> Tensor:
            tried, told = at(size, some), f"{purpose} {name}"
            return self._leads(vote, tried, state.label[some], state.row[some], purpose=told, few=few)

        ends = settle_whole if self.norm == 0 else settle
        options: dict[str, Any] = {"votes": self.votes, "certainty": self.certainty}
        size = ends(vote, state.row, state.label, at, state.size, purpose=f"settle {name}", **options)
        every = torch.arange(len(size), device=size.device)
        lead = leads(size, every, "leads", not checked)
        if vote.votes and not lead.all():
            size = raised(leads, size, ~lead, whole=self.norm == 0)
            short = every[~lead]
            lead[short] = leads(size, short, "raised")
        return at(size), lead

    def _stored(self, x: Tensor) -> Tensor:
        """Points [n,...] as they are stored."""
        return x if self.levels is None else (x * self.levels).round() / divisor(x, self.levels)

    def _carried_over(self, vote: Sampled, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The least noisy examples of `start` [n,...] that lead safely by votes of the attack's own, and where [n]."""
        if self.start is None:
            return x, torch.zeros_like(labels, dtype=torch.bool)
        limit = vote.network.limit
        result = self.start._attack(vote.point_model, x, labels, progress=False, batch=limit)
        vote.queries += result.queries

        def safe_label(tried: Tensor, rows: Tensor) -> Tensor:
            tried = self._stored(tried)
            if vote.voter is None:
                return vote.network.predict(tried, rows).argmax(1)
            judge = another(vote.voter, seed=key(self.seed, "start"), stop=None)
            votes = judge.vote(tried, m=self.votes)
            vote.queries.index_add_(0, rows, votes.samples.to(rows.device))
            best = votes.counts.topk(2, dim=1).values
            lead = (best[:, 0] - best[:, 1]) / votes.samples
            return torch.where(lead >= self._level(vote), votes.label, -1)

        chosen = result.judged_by_rows(safe_label, labels, targeted=True, norm=self.norm)
        return self._stored(chosen.adversarial), chosen.success

    def _begin(
        self, vote: Sampled, x: Tensor, labels: Tensor, best: Tensor, held: Tensor, *, first: int
    ) -> tuple[_State, int]:
        """The state before the first step, from sample `first` on, and the next sample."""
        rows = torch.arange(len(x), device=x.device)
        logits = vote.logits(x, rows, first=first, samples=self.points)
        square = _mean_square(logits, labels, torch.ones_like(x.flatten(1)[:, 0]))

        def linear(logits: Tensor, some: Tensor) -> Tensor:
            return (_margins(logits, labels[some]) / square[some].sqrt()[:, None]).mean(1)

        logits, mean = vote.gradients(x, rows, linear, first=first, samples=self.points)
        size = first_size(self.norm, x, mean, -linear(logits, rows))
        if held.any():
            there = best - x
            length = mean.flatten(1).norm(dim=1) / there.flatten(1).norm(dim=1)
            mean = torch.where(per_row(held, x), there * per_row(length, x), mean)
            size = torch.where(held, size_of(self.norm, there), size)
        votes = _votes(logits).to(x.dtype)
        state = _State(row=rows, x=x, label=labels, mean=mean, size=size, square=square, votes=votes)
        return state, first + self.points

    def _step(
        self, vote: Sampled, state: _State, part: float, *, first: int, samples: int
    ) -> tuple[Tensor, Tensor]:
        """Take one; return where points were drawn [n,...] and their logits [n,k,L]."""
        at = point(self.norm, state.x, state.mean, state.size)
        rival, spread = state.rival, state.square.sqrt()

        def rises(logits: Tensor, some: Tensor) -> Tensor:
            return self._rises(logits, state.label[some], rival[some], spread[some])

        logits, gradient = vote.gradients(at, state.row, rises, first=first, samples=samples)
        state.square = state.square.lerp(_mean_square(logits, state.label, state.square), SMOOTH)
        votes = _votes(logits).to(state.votes.dtype)
        state.votes = state.votes.lerp(votes, SMOOTH)
        state.mean = state.mean.lerp(gradient, _between(AVERAGED, part))
        own, other = (votes.gather(1, label[:, None])[:, 0] for label in (state.label, state.rival))
        pace = _between((min(FASTEST, max(PACE[0], WAY / self.steps)), PACE[1]), part)
        size = state.size * (pace * (self._level(vote) - (own - other))).exp()
        state.size = size.clamp(*SIZES)  # of a label that no point gets it would grow without end
        return at, logits

    def _level(self, vote: Sampled) -> float:
        """The lead of the target, as a share of the points, at which the search keeps an example."""
        return 0.0 if vote.voter is None else needed(vote.voter.m, self.votes, self.certainty)

    def _rises(self, logits: Tensor, labels: Tensor, rival: Tensor, spread: Tensor) -> Tensor:
        """What the gradient climbs [g]: logits [g,k,L], targets and rivals [g], spread of the margins [g]."""
        if self.loss == "probability":
            chances = (logits * (SHARP / spread)[:, None, None]).log_softmax(2).logsumexp(1)  # [g,L]
            return (chances.gather(1, labels[:, None]) - chances.gather(1, rival[:, None]))[:, 0]
        own, other = (_margins(logits, label) / spread[:, None] for label in (labels, rival))
        return (self._gain(own) + self._gain(-other)).mean(1) / 2

    def _gain(self, u: Tensor) -> Tensor:
        """What a margin is worth [g,k], in units of their root mean square."""
        if self.loss == "margin":
            return u.clamp(max=1)
        return (torch.tanh(u) if self.loss == "tanh" else u.clamp(-1, 1)) + FAR * u.clamp(max=0)


def _mean_square(logits: Tensor, labels: Tensor, usual: Tensor) -> Tensor:
    """The mean square [g] of the margins at logits [g,k,L]; `usual` [g] at a tie, or for a label that cannot be."""
    square = _margins(logits, labels).square().mean(1)
    return torch.where(square.isfinite() & (square > 0), square, usual.to(square.dtype))


def _votes(logits: Tensor) -> Tensor:
    """The share of each label among the points [g,L] of logits [g,k,L]."""
    return torch.nn.functional.one_hot(logits.argmax(2), logits.shape[2]).double().mean(1)


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Margins of the target [g,k] of logits [g,k,L], labels [g]."""
    flat = labels.repeat_interleave(logits.shape[1])
    return margin(logits.flatten(0, 1), flat, targeted=True).unflatten(0, logits.shape[:2])


def _between(ends: tuple[float, float], part: float) -> float:
    """The geometric way from one number to another."""
    return ends[0] * math.pow(ends[1] / ends[0], part)
