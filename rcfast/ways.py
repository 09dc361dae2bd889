"""Ways of running a model that say the same up to rounding, and which of them is taken."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .chunk import FIRST_ROWS, TIMINGS, timed
from .running import Model, alike, logits_of

# A GPU waits for its host below some hundreds of rows, whatever it is asked to do: ways of running a model are told
# apart at more, of so many bytes at most.
ROWS, BYTES = 1024, 8 << 20
SLOW_SECONDS = 0.1  # a pass of this length is timed once
# Ways of running differ in the last bits of the logits, so that votes near a boundary could differ with them.
# The preferred way therefore stands unless another is far faster: noise on a busy machine must not decide.
PREFERENCE = 1.5


@dataclass(frozen=True)
class Way:
    """A candidate: what is called, eagerly, and what it gets."""

    module: Model
    dtype: torch.dtype  # of the points
    takes: torch.dtype  # of the inputs of the module
    channels_last: bool
    copied: bool = False
    autocast: bool = False

    def bind(self, function: Model) -> Model:
        """``function`` such that it takes points of ``dtype``."""
        if self.autocast:

            def call(points: Tensor) -> Tensor:
                with torch.autocast(points.device.type, dtype=self.dtype):
                    return function(points)

            return call
        return function if self.takes == self.dtype else lambda points: function(points.to(self.takes))

    def arrange(self, points: Tensor) -> Tensor:
        """A copy of ``points`` [rows, ...] in the precision and memory format of this way."""
        form = torch.channels_last if self.channels_last else torch.contiguous_format
        return points.to(self.dtype).clone(memory_format=form)


def fastest(
    makers: list[Callable[[], Way]], points: Tensor, decide: Callable[[int], int], *, tries: bool = False
) -> Way:
    """The first of the candidates that can be run on ``points``, unless another is far faster.

    ``decide``: of the index that was found here, that which all take. ``tries``: one that is alone, too.
    """
    if len(makers) == 1 and not tries:
        return makers[0]()
    trials: dict[int, Trial] = {}
    error: Exception | None = None
    for index, make in enumerate(makers):
        try:
            trials[index] = Trial(make(), points)
        except Exception as failure:  # such as .view on channels_last, or a module that cannot be copied
            error = failure
    if isinstance(error, torch.OutOfMemoryError) and len(points) > FIRST_ROWS:
        trials.clear()
        return fastest(makers, points[:FIRST_ROWS], decide, tries=tries)
    trials = {index: trial for index, trial in trials.items() if trial.agrees(list(trials.values()))}
    if not trials:
        assert error is not None
        raise error
    for _ in range(TIMINGS):  # in turns, so that a busy moment hits all of them
        for trial in trials.values() if len(trials) > 1 else ():
            trial.repeat()
    least = min(trial.seconds for trial in trials.values())
    best = next(index for index, trial in trials.items() if trial.seconds <= PREFERENCE * least)
    return makers[decide(best)]()


def rows_tried(shape: torch.Size, device: torch.device) -> int:
    """How many examples of a shape the ways are told apart on."""
    on_a_gpu = min(ROWS, BYTES // (4 * shape.numel())) if device.type == "cuda" else 0
    return max(FIRST_ROWS, on_a_gpu)


class Trial:
    """A candidate's first pass, which may fail, what it gave, and its least time."""

    def __init__(self, way: Way, points: Tensor) -> None:
        self.way = way
        self._call, self._source = way.bind(way.module), points
        self._points = way.arrange(points)
        self.seconds, out = timed(self._call, self._points)
        self._logits = logits_of(out, len(points))
        self._first = True

    def agrees(self, trials: "list[Trial]") -> bool:
        """Whether another memory format, or other convolutions, have not changed what the model says."""
        kind = (self.way.dtype, self.way.autocast, False)
        same = (t for t in trials if (t.way.dtype, t.way.autocast, t.way.channels_last) == kind)
        return all(alike(t._logits, self._logits) for t in same)

    def repeat(self) -> None:
        """Time it again, unless it is so slow that its first pass tells enough: on a GPU that one loads kernels."""
        if self.seconds > SLOW_SECONDS and not (self._first and self._points.is_cuda):
            return
        self._points.copy_(self._source)  # some models change what they are given
        seconds = timed(self._call, self._points)[0]
        self.seconds = seconds if self._first else min(seconds, self.seconds)
        self._first = False
