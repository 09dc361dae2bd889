"""Runs a model on many points: precision, memory format, evaluation mode, and how many rows at a time."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from .fused import Fused, fused
from .graphs import WORTH_SECONDS, Replays, recordable
from .hardware import DtypeChoice, resolve_dtype
from .joined import join_, joinable
from .running import (
    TRIED,
    Model,
    Needs,
    Plain,
    alike,
    attributes_of,
    check_initialised,
    eager,
    logits_of,
    noise,
    tensors,
    warn_of_randomness,
)

FIRST_ROWS = 32  # the smallest chunk tried
# A GPU waits for its host below some hundreds of rows, whatever it is asked to do: ways of running a model are told
# apart at more, of so many bytes at most.
WAYS_ROWS, WAYS_BYTES = 1024, 8 << 20
STEPS = 8  # sizes of passes between half a chunk and a chunk are eighths of it
MAX_ROWS = 1 << 16
POINT_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}  # the most that one chunk of points may take
VIEWS = 64  # of the buffer, kept
FULL_SECONDS = {"cpu": 0.03, "cuda": 0.1}  # hardware busy this long is full: larger chunks only cost memory
FREE = 1.25  # a pass of more rows that takes at most so many times as long as the smallest is as good as free
GAIN = 1.05  # a larger chunk must bring 5%, or it is not worth its memory
PATIENCE = 2  # doublings without gain before the search ends
TIMINGS = 3
SLOW_SECONDS = 0.1  # a pass of this length is timed once
# Ways of running differ in the last bits of the logits, so that votes near a boundary could differ with them.
# The preferred way therefore stands unless another is far faster: noise on a busy machine must not decide.
PREFERENCE = 1.5


def timed(call: Model, points: Tensor) -> tuple[float, Tensor]:
    """Seconds that ``call(points)`` takes, and what it returns."""
    cuda = points.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(points.device)
    start = time.perf_counter()
    out = call(points)
    if cuda:
        torch.cuda.synchronize(points.device)
    return time.perf_counter() - start, out


class Chunk:
    """The number of rows per forward pass: given, or found by timing real passes at growing powers of two.

    The passes timed are those of the work at hand, so that measuring costs nothing but the small chunks it
    starts with. It ends when twice in a row a doubling has not brought 5% more rows per second, or at a
    bound.
    """

    def __init__(self, given: int | None, row_bytes: int, device: torch.device) -> None:
        self.limit = max(1, min(MAX_ROWS, POINT_BYTES.get(device.type, 32 << 20) // row_bytes))
        self.rows = given or min(FIRST_ROWS, self.limit)
        self.settled = self._given = given is not None
        self._device = device
        self._patience = PATIENCE
        self._seconds: list[float] = []
        self._best = (0.0, self.rows)  # rows per second, rows
        self._smallest: float | None = None  # seconds of the smallest pass
        self.free = 0  # the most rows that take hardly longer than the smallest pass; 0 where not measured

    def run(self, call: Model, points: Tensor) -> Tensor:
        """``call(points)``, timed while the chunk is not settled."""
        if self.settled or not 0.7 * self.rows < len(points) <= self.rows:
            return call(points)
        seconds, logits = timed(call, points)
        self._observe(seconds * self.rows / len(points))
        return logits

    def shrink(self) -> bool:
        """Half as many rows from now on, as there was no memory for more. False where that is impossible."""
        if self._given or self.rows == 1:
            return False
        self.rows, self.settled = self.rows // 2, True
        self.free = min(self.free, self.rows)
        return True

    @property
    def seconds(self) -> float | None:
        """What a pass of so many rows took; None where not measured."""
        rate, rows = self._best
        return rows / rate if rate else None

    def _observe(self, seconds: float) -> None:
        self._seconds.append(seconds)
        if len(self._seconds) < TIMINGS:
            return
        fastest = min(self._seconds)
        self._seconds = []
        if self._smallest is None:
            self._smallest = fastest
        elif fastest <= FREE * self._smallest:
            self.free = self.rows
        if self.rows / fastest > GAIN * self._best[0]:
            self._best, self._patience = (self.rows / fastest, self.rows), PATIENCE
        else:
            self._patience -= 1
        enough = fastest > FULL_SECONDS.get(self._device.type, 0.1)
        if self._patience == 0 or enough or 2 * self.rows > self.limit:
            self.rows, self.settled = self._best[1], True
        else:
            self.rows *= 2


def step_of(used: int, chunk: int) -> int:
    """The rows of a pass of which ``used`` matter: an eighth of the chunk, two, ..., below that a half each time.

    On a GPU each size costs: libraries plan their kernels for it, and its launches are recorded.
    """
    most = max(used, chunk)
    step = max(FIRST_ROWS, -(-most // STEPS))
    if used > step:
        return min(most, -(-used // step) * step)
    rows = step
    while rows // 2 >= max(used, FIRST_ROWS):
        rows //= 2
    return min(rows, most)


@dataclass
class Runner:
    """One way of running a model on points of one shape; made by :class:`Engine`."""

    call: Model
    dtype: torch.dtype  # of the points
    channels_last: bool
    num_classes: int
    chunk: Chunk
    padded: bool  # every pass has exactly chunk.rows rows, so that a compiled model sees one shape
    stepped: bool  # passes are of few sizes, :func:`step_of`
    module: Model  # what is run eagerly
    replays: Replays
    _buffer: Tensor | None = field(default=None, repr=False)  # kept from one vote to the next
    _views: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def free_rows(self) -> int:
        """The most rows that a pass may have and take hardly longer than the smallest."""
        return self.chunk.rows if self.padded else self.chunk.free

    def points(
        self, examples: int, samples: int, shape: torch.Size, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Room for points: [examples, samples, ...], and the [rows, ...] view that the network gets.

        Raises torch.OutOfMemoryError.
        """
        if (examples, samples) not in self._views:
            made = self._arrange(examples, samples, shape, device)
            if len(self._views) >= VIEWS:
                self._views.clear()
            self._views[examples, samples] = made
        return self._views[examples, samples]

    def _arrange(
        self, examples: int, samples: int, shape: torch.Size, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        used = examples * samples
        rows = max(used, self.chunk.rows) if self.padded else used
        if self.stepped:
            rows = step_of(used, self.chunk.rows)
        n = shape.numel()
        if self._buffer is None or len(self._buffer) < rows * n:
            size = max(rows, self.chunk.rows) * n
            self.release()
            self._buffer = torch.zeros(size, dtype=self.dtype, device=device)
        flat = self._buffer[: rows * n]
        if self.channels_last:
            c, h, w = shape
            flat = flat.view(rows, h, w, c).permute(0, 3, 1, 2)
        else:
            flat = flat.view(rows, *shape)
        return flat[:used].unflatten(0, (examples, samples)), flat

    def logits(self, points: Tensor, used: int) -> Tensor:
        """Logits [used, L] of the first ``used`` rows, checked. Raises TypeError or ValueError."""
        seconds = self.chunk.seconds
        share = len(points) / self.chunk.rows
        replayed = self.chunk.settled and (seconds is None or share * seconds <= WORTH_SECONDS)
        out = logits_of(self.chunk.run(self.replays if replayed else self.call, points), len(points))
        if out.shape[1] != self.num_classes:
            raise ValueError(
                f"model must return {self.num_classes} logits per point, got shape {tuple(out.shape)}"
            )
        out = out[:used] if used < len(out) else out
        if out.dtype == torch.float64:  # relative to the largest, rounding to float32 makes no ties
            best = out.amax(1, keepdim=True)
            out = torch.where(out == best, 0, out - best).to(torch.float32)
        return out

    def release(self) -> None:
        """Let the buffer of points go."""
        self._buffer = None
        self._views.clear()
        self.replays.clear()


@dataclass(frozen=True)
class _Way:
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


_Kind = tuple[torch.dtype, bool, bool]  # of a converted copy: its precision, channels_last, joined


class Engine:
    """Chooses how a model is run, once per shape of example, by running it; keeps converted copies true.

    Candidates: the model itself, or for another ``dtype`` a converted copy and autocast; each contiguous and,
    for images, channels_last. Before them, for images in float32 on the CPU, the model with its 3×3 convolutions on
    our own kernel (:mod:`rcfast.fused`). The user's model is never changed.
    """

    def __init__(
        self,
        model: Model,
        dtype: DtypeChoice,
        chunk: int | None,
        *,
        cuda_graphs: bool = True,
        decide: Callable[[int], int] = int,
    ) -> None:
        self.model, self.dtype, self.chunk, self.cuda_graphs = model, dtype, chunk, cuda_graphs
        self._decide = (
            decide  # of the candidate that was fastest here: what is fastest for all processes of a group
        )
        self._runners: dict[Any, Runner] = {}
        self._copies: dict[_Kind, nn.Module] = {}
        self._fused: Fused | None = None
        self._form: list[Any] = []
        self._attributes: list[Any] = []  # of the modules when they were copied
        self.lock = RLock()  # the buffer of points is one

    def runner(self, shape: torch.Size, device: torch.device) -> Runner:
        """How to run the model on points of this shape, inside :func:`running.evaluating`; timed the first time."""
        self._refresh()
        key = (shape, device)
        if key not in self._runners:
            self._runners[key] = self._choose(shape, device)
        self._runners[key].replays.refresh()
        return self._runners[key]

    def _refresh(self) -> None:
        """Today's weights in the copies; nothing kept for a model that has changed its form."""
        check_initialised(self.model)
        now = tensors(self.model)
        form: list[Any] = [(t.shape, t.dtype, t.device) for t in now]
        form += self.model.modules() if isinstance(self.model, nn.Module) else []
        if form != self._form or (self._fused is not None and not self._fused.refresh()):
            self._form, self._fused = form, None
            self._copies.clear()
            self._runners.clear()
        # At every vote: version counters miss writes through .data, and the weights are small beside the
        # dozens of forward passes that follow.
        if self._copies and (attributes := attributes_of(self.model)) != self._attributes:
            self._attributes = attributes
            for kind, twin in self._copies.items():  # the runners hold on to the same object
                vars(twin).update(vars(self._convert(*kind)))
        for twin in self._copies.values():
            torch._foreach_copy_(tensors(twin), now)

    def _convert(self, dtype: torch.dtype, channels_last: bool, joined: bool) -> nn.Module:
        twin = copy.deepcopy(eager(self.model))
        assert isinstance(twin, nn.Module)
        twin.eval().requires_grad_(False).to(dtype=dtype)
        if joined:
            join_(twin)
        return twin.to(memory_format=torch.channels_last) if channels_last else twin

    def _ways(self, needs: Needs, image: bool, device: torch.device) -> list[Callable[[], _Way]]:
        """Makers of the candidates, the preferred ones first."""
        own, module = needs.dtype, eager(self.model)
        wanted = resolve_dtype(self.dtype, device)
        dtype = wanted or (torch.float32 if own == torch.float64 else own)
        ways: list[Callable[[], _Way]] = []
        if (
            image and module is self.model and own == dtype == torch.float32
        ):  # a compiled one stays what it is
            self._fused = self._fused or (fused(module) if isinstance(module, nn.Module) else None)
            if self._fused is not None:
                ways.append(partial(_Way, self._fused, dtype, own, True, copied=True))
        for last in (True, False) if image else (False,):
            if wanted in (None, own) or not (tensors(self.model) or dtype != torch.float32):
                ways.append(partial(_Way, module, dtype, own, last))
                continue
            if tensors(self.model):
                if device.type == "cuda" and last and joinable(module):
                    ways.append(partial(self._converted, dtype, last, True))
                ways.append(partial(self._converted, dtype, last))
            if dtype != torch.float32:
                ways.append(partial(_Way, module, dtype, dtype, last, autocast=True))
        return ways

    def _converted(self, dtype: torch.dtype, channels_last: bool, joined: bool = False) -> _Way:
        kind = (dtype, channels_last, joined)
        if kind not in self._copies:
            self._attributes = attributes_of(self.model)
            self._copies[kind] = self._convert(*kind)
        return _Way(self._copies[kind], dtype, dtype, channels_last, copied=True)

    def _choose(self, shape: torch.Size, device: torch.device) -> Runner:
        rows = FIRST_ROWS
        if device.type == "cuda":
            rows = max(rows, min(WAYS_ROWS, WAYS_BYTES // (shape.numel() * 4)))
        rows = min(rows, self.chunk or rows)
        points = noise(torch.empty(0, *shape, device=device), rows)
        needs = Plain(self.model, tried=min(TRIED, rows)).needs(points)
        warn_of_randomness(needs, "a vote")
        best = self._fastest(self._ways(needs, len(shape) == 3, device), points)
        self._copies = {k: v for k, v in self._copies.items() if v is best.module or self._in_use(v)}
        return self._finish(best, needs.labels, shape, device)

    def _fastest(self, makers: list[Callable[[], _Way]], points: Tensor) -> _Way:
        """The first of the candidates that can be run, unless another is far faster."""
        if len(makers) == 1:
            return makers[0]()
        trials: dict[int, _Trial] = {}
        error: Exception | None = None
        for index, make in enumerate(makers):
            try:
                trials[index] = _Trial(make(), points)
            except Exception as failure:  # such as .view on channels_last, or a module that cannot be copied
                error = failure
        trials = {index: trial for index, trial in trials.items() if trial.agrees(list(trials.values()))}
        if not trials:
            assert error is not None
            raise error
        for _ in range(TIMINGS):  # in turns, so that a busy moment hits all of them
            for trial in trials.values() if len(trials) > 1 else ():
                trial.repeat()
        fastest = min(trial.seconds for trial in trials.values())
        best = next(index for index, trial in trials.items() if trial.seconds <= PREFERENCE * fastest)
        return makers[self._decide(best)]()

    def _in_use(self, twin: nn.Module) -> bool:
        return any(runner.module is twin for runner in self._runners.values())

    def _finish(self, way: _Way, labels: int, shape: torch.Size, device: torch.device) -> Runner:
        chunk = Chunk(self.chunk, shape.numel() * way.dtype.itemsize, device)
        plainly = way.bind(way.module)
        compiled = eager(self.model) is not self.model
        if compiled:
            while not chunk.settled:  # on the eager twin: every size would be another compilation
                chunk.run(plainly, way.arrange(_zeros(chunk.rows, shape, device)))
        function = way.module if way.copied else self.model
        if way.copied and hasattr(self.model, "dynamo_ctx"):
            # A compiled module holds the options that the user chose: the copy is compiled with them. Its class is
            # not imported by name, for that takes seconds.
            compiled_class: Any = type(self.model)
            function = compiled_class(way.module, self.model.dynamo_ctx)
        call, module = way.bind(function), way.module
        replays = Replays(call, module, allowed=self.cuda_graphs and not compiled and recordable(device))
        stepped = recordable(device) and not compiled
        return Runner(call, way.dtype, way.channels_last, labels, chunk, compiled, stepped, module, replays)


class _Trial:
    """A candidate's first pass, which may fail, what it gave, and its least time."""

    def __init__(self, way: _Way, points: Tensor) -> None:
        self.way = way
        self._call, self._source = way.bind(way.module), points
        self._points = way.arrange(points)
        self.seconds, out = timed(self._call, self._points)
        self._logits = logits_of(out, len(points))
        self._first = True

    def agrees(self, trials: "list[_Trial]") -> bool:
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


def _zeros(rows: int, shape: torch.Size, device: torch.device) -> Tensor:
    return torch.zeros(rows, *shape, device=device)
