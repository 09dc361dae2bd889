"""The rounds of a vote: points are drawn, labelled and tallied on the device of the model, and judged on the host.

A round goes to the next checkpoint of the stopping rule, or to a later one where the points up to there share a pass
that takes hardly longer. Its examples stop all the same at the first checkpoint at which the rule stops them, and what
was cast after it is not counted: how the rounds are cut leaves no trace in a vote. The host waits for the device once a
round, for the votes.
"""

from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import ops
from .engine import Runner
from .regions import Region
from .sharing import Sharing
from .stopping import StoppingRule

ALONE = Sharing()
FEW = 4  # examples for each process below which they share samples rather than examples
LONG = 4  # passes after which a round looks whether the model has returned NaN, before it ends


class Examples(Protocol):
    """Examples [B, ...] in some region, and whose random numbers they get."""

    @property
    def x(self) -> Tensor: ...
    @property
    def region(self) -> Region: ...
    def __len__(self) -> int: ...
    def take(self, some: Tensor) -> Self: ...
    def fill(self, out: Tensor, first_sample: int) -> None: ...


class Casting:
    """How points are cast: here each one vote for its label, int32 [A, K, L]. Another tally is a subclass."""

    dtype = torch.int32

    def columns(self, labels: int) -> int:
        """The length of the last dimension of the votes."""
        return labels

    def cast(
        self, votes: Tensor, logits: Tensor, ends: list[int], points: Tensor, examples: Examples
    ) -> None:
        """Add the points [A, s, ...] with ``logits`` [A, s, L] to ``votes``, whose K segments end at ``ends``."""
        ops.vote_(votes, logits, ends)

    def missing(self, votes: Tensor, samples: int) -> Tensor:
        """How many of the samples were not cast, as their logits hold NaN: [A]."""
        return samples - votes.sum((1, 2))


def count(
    runner: Runner, examples: Examples, rule: StoppingRule, sharing: Sharing = ALONE
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rounds until every example has stopped: counts [B, L] int32, label, samples [B] int64, decided [B] bool.

    Raises ValueError where the model returns NaN.
    """
    batch, labels, device = len(examples), rule.num_classes, examples.x.device
    counts = torch.zeros(batch, labels, dtype=torch.int32, device="cpu")
    opening = torch.zeros_like(counts) if rule.stop == "sequential" else counts
    samples = torch.zeros(batch, dtype=torch.int64, device="cpu")
    decided = torch.zeros(batch, dtype=torch.bool, device="cpu")
    active, draw = np.arange(batch), Drawing(runner, examples, sharing)
    checkpoints, first = rule.checkpoints(), 0
    while checkpoints and len(active):
        ends = together(checkpoints, first, len(active), runner.free_rows * sharing.size)
        ends = checkpoints[: sharing.first(len(ends))]
        votes = fetch(draw.votes(active, first, ends))
        tensors = (counts, opening, samples, decided, torch.from_numpy(active), votes)
        state = ops.judge_(
            *tensors, checkpoints=ends, opens=first == 0, m=rule.m, stop=rule.stop, alpha=rule.alpha
        ).numpy()
        if (state == ops.INCOMPLETE).any():
            index = int(active[int((state == ops.INCOMPLETE).argmax())])
            _refuse(int(samples[index] - counts[index].sum()), int(samples[index]), index)
        if (state != ops.GOES_ON).any():
            active = active[state == ops.GOES_ON]
        first, checkpoints = ends[-1], checkpoints[len(ends) :]
    label = counts.argmax(1)
    return sent(counts, device), sent(label, device), sent(samples, device), sent(decided, device)


def tally(runner: Runner, examples: Examples, first: int, last: int, sharing: Sharing = ALONE) -> Tensor:
    """Votes for samples ``first`` to ``last``, no stopping: int32 [B, L]. Raises ValueError for NaN."""
    who = np.arange(len(examples))
    if first == last:
        shape = (len(who), runner.num_classes)
        return torch.zeros(shape, dtype=torch.int32, device=examples.x.device)
    votes = Drawing(runner, examples, sharing).votes(who, first, [last])
    check_cast(Casting(), votes, last - first, who)
    return votes[:, 0]


def together(checkpoints: list[int], first: int, active: int, free_rows: int) -> list[int]:
    """The checkpoints that one round reaches: one, or as many as ``active`` examples reach in ``free_rows`` points."""
    n = 1
    while n < min(len(checkpoints), ops.MAX_SEGMENTS) and active * (checkpoints[n] - first) <= free_rows:
        n += 1
    return checkpoints[:n]


def fetch(votes: Tensor) -> Tensor:
    """``votes`` in host memory: where a round waits for the device."""
    return votes.cpu()


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` of the host on a device, for which the host does not wait."""
    return tensor.to(device, non_blocking=True)


class Drawing:
    """Draws points of examples and has the model label them."""

    def __init__(
        self, runner: Runner, examples: Examples, sharing: Sharing, casting: Casting | None = None
    ) -> None:
        self.runner, self.examples, self.sharing = runner, examples, sharing
        self.casting = casting or Casting()
        self._active: NDArray[np.int64] | None = None  # those of the last round
        self._where = torch.empty(0)  # the same on the device
        self._group: Examples | None = None  # all of them, where they shared its passes

    def votes(self, active: NDArray[np.int64], first: int, ends: list[int]) -> Tensor:
        """Votes of the ``active`` examples [A] for samples ``first`` to ``ends``: [A, K, L] on the device."""
        shape = (len(active), len(ends), self.casting.columns(self.runner.num_classes))
        votes = torch.zeros(shape, dtype=self.casting.dtype, device=self.examples.x.device)
        if self.sharing.alone:
            self._vote(active, votes, first, ends[-1], ends)
        elif len(active) < FEW * self.sharing.size:
            low, high = self.sharing.part(ends[-1] - first)
            self._vote(active, votes, first + low, first + high, ends)
        else:
            low, high = self.sharing.part(len(active))
            self._vote(active[low:high], votes[low:high], first, ends[-1], ends)
        return self.sharing.add_(votes)

    def _vote(self, active: NDArray[np.int64], votes: Tensor, first: int, last: int, ends: list[int]) -> None:
        """Add the votes of samples ``first`` to ``last`` of the ``active`` examples."""
        runner, start = self.runner, 0
        while start < len(active) and first < last:
            group = _group(len(active) - start, last - first, runner.chunk.rows)
            tally = votes[start : start + group] if group < len(active) else votes
            if not self._cast(self._taken(active, start, group), tally, first, last, ends):
                continue
            start += group
            # A model that returns NaN mostly does so at once, and may take long. Processes find out together, later.
            long = last - first > LONG * runner.chunk.rows
            if self.sharing.alone and start < len(active) and (long or (start == group and first == 0)):
                check_cast(self.casting, fetch(tally), last - first, active[start - group : start])

    def _taken(self, active: NDArray[np.int64], start: int, group: int) -> Examples:
        """``group`` of the active examples from ``start`` on; kept while all of them share their passes."""
        if self._active is not active:
            self._active = active
            self._group = None
            self._where = torch.from_numpy(active).to(self.examples.x.device, non_blocking=True)
        if group < len(active):
            return self.examples.take(self._where[start : start + group])
        if self._group is None:
            self._group = self.examples.take(self._where)
        return self._group

    def _cast(self, some: Examples, votes: Tensor, first: int, last: int, ends: list[int]) -> bool:
        """Samples ``first`` to ``last`` of ``some``; False where there was no memory for so many at a time."""
        runner, group, done = self.runner, len(some), first
        while done < last:
            take = _piece(last - done, runner.chunk.rows // group)
            try:
                out, points = runner.points(group, take, some.x.shape[1:], some.x.device)
                some.fill(out, done)
                logits = runner.logits(points, group * take)
            except torch.OutOfMemoryError:
                out = points = torch.empty(0)  # or they would hold the buffer
                runner.release()
                if not runner.chunk.shrink():
                    raise
                if done == first:
                    return False
                continue
            within = [min(max(end - done, 0), take) for end in ends]
            self.casting.cast(votes, logits.unflatten(0, (group, take)), within, out, some)
            done += take
        return True


def _piece(samples: int, most: int) -> int:
    """The size of the even pieces, of at most ``most``, into which ``samples`` are cut: passes are of one size."""
    pieces = -(-samples // max(1, most))
    return -(-samples // pieces)


def _group(examples: int, samples: int, rows: int) -> int:
    """How many examples share a forward pass of at most ``rows`` points, so that it is as full as may be."""
    fewest = -(-samples // rows)
    sizes = [-(-samples // pieces) for pieces in range(fewest, fewest + 3)]
    groups = [(min(examples, max(1, rows // size)), size) for size in sizes]
    return max(groups, key=lambda pair: pair[0] * pair[1])[0]


def check_cast(casting: Casting, votes: Tensor, samples: int, who: NDArray[np.int64]) -> None:
    """Every point of ``votes`` [A, K, L] has been cast. Raises ValueError naming the first example with NaN."""
    missing = casting.missing(votes, samples)
    if bool(missing.any()):
        index = int(missing.nonzero()[0, 0])
        _refuse(int(missing[index]), samples, int(who[index]))


def _refuse(missing: int, samples: int, example: int) -> None:
    where = f"{missing} of {samples} points of example {example}"
    raise ValueError(f"model must not return NaN, got NaN logits at {where}")
