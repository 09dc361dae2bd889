"""Runs a model on many points: precision, memory format, evaluation mode, and how many rows at a time."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from .chunk import Chunk, step_of
from .fused import Fused, fused
from .graphs import WORTH_SECONDS, Replays, recordable
from .hardware import DtypeChoice, resolve_dtype
from .joined import join_, joinable
from .running import (
    TRIED,
    Model,
    Needs,
    Plain,
    attributes_of,
    check_initialised,
    eager,
    logits_of,
    noise,
    tensors,
    warn_of_randomness,
)
from .ways import Way, fastest, rows_tried

VIEWS = 64  # of the buffer of points, kept
GROWTH = 8  # times what is needed that a buffer of points may have at first
RUNNERS = 16  # shapes of examples that are kept ready, each with its buffer


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
            most = max(rows, min(self.chunk.rows, GROWTH * rows))  # a chunk that is given may be of any size
            self.release()
            self._buffer = torch.zeros(most * n, dtype=self.dtype, device=device)
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
            short = (out - best).clamp(max=-torch.finfo(torch.float32).tiny)
            out = torch.where(out == best, 0, short).to(torch.float32)
        return out

    def release(self) -> None:
        """Let the buffer of points go."""
        self._buffer = None
        self._views.clear()
        self.replays.clear()


_Kind = tuple[torch.dtype, bool, bool]  # of a converted copy: its precision, channels_last, joined


class Engine:
    """Chooses how a model is run, once per shape of example, by running it; keeps converted copies true.

    Candidates: the model itself, or for another ``dtype`` a converted copy and autocast; each contiguous and,
    for images, channels_last. Before them, for images, in float32 on the CPU the model with its 3×3 convolutions on our
    own kernel (:mod:`rcfast.fused`), on CUDA a copy whose convolutions take their ReLU along (:mod:`rcfast.joined`);
    neither of a compiled one, which stays what it is. The user's model is never changed.
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
        runner = self._runners.pop(key, None) or self._choose(shape, device)
        self._runners[key] = runner  # the last one is that which was used last
        if len(self._runners) > RUNNERS:
            del self._runners[next(iter(self._runners))]
        runner.replays.refresh()
        return runner

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
            for kind, twin in self._copies.items():
                self._renew(twin, kind)
        shapes = [t.shape for t in now]
        for kind, twin in self._copies.items():
            if [t.shape for t in tensors(twin)] != shapes:  # untied by the conversion, or changed by a pass
                self._renew(twin, kind)
            else:
                torch._foreach_copy_(tensors(twin), now)

    def _renew(self, twin: nn.Module, kind: _Kind) -> None:
        """Make a copy what it would be today; the runners hold on to the same object."""
        made = vars(self._convert(*kind))
        vars(twin).clear()
        vars(twin).update(made)

    def _convert(self, dtype: torch.dtype, channels_last: bool, joined: bool) -> nn.Module:
        twin = copy.deepcopy(eager(self.model))
        assert isinstance(twin, nn.Module)
        twin.eval().requires_grad_(False).to(dtype=dtype)
        if joined:
            join_(twin)
        return twin.to(memory_format=torch.channels_last) if channels_last else twin

    def _ways(
        self, needs: Needs, image: bool, device: torch.device, wanted: torch.dtype | None
    ) -> list[Callable[[], Way]]:
        """Makers of the candidates, the preferred ones first."""
        own, module = needs.dtype, eager(self.model)
        dtype = wanted or (torch.float32 if own == torch.float64 else own)
        ways: list[Callable[[], Way]] = []
        if (
            image and module is self.model and own == dtype == torch.float32
        ):  # a compiled one stays what it is
            self._fused = self._fused or (fused(module) if isinstance(module, nn.Module) else None)
            if self._fused is not None:
                ways.append(partial(Way, self._fused, dtype, own, True, copied=True))
        for last in (True, False) if image else (False,):
            if wanted in (None, own) or not (tensors(self.model) or dtype != torch.float32):
                ways.append(partial(Way, module, dtype, own, last))
                continue
            if tensors(self.model):
                if device.type == "cuda" and last and module is self.model and joinable(module):
                    ways.append(partial(self._converted, dtype, last, True))
                ways.append(partial(self._converted, dtype, last))
            if dtype != torch.float32:
                ways.append(partial(Way, module, dtype, dtype, last, autocast=True))
        return ways

    def _converted(self, dtype: torch.dtype, channels_last: bool, joined: bool = False) -> Way:
        kind = (dtype, channels_last, joined)
        if kind not in self._copies:
            self._attributes = attributes_of(self.model)
            self._copies[kind] = self._convert(*kind)
        return Way(self._copies[kind], dtype, dtype, channels_last, copied=True)

    def _choose(self, shape: torch.Size, device: torch.device) -> Runner:
        rows = rows_tried(shape, device)
        rows = min(rows, self.chunk or rows)
        points = noise(torch.empty(0, *shape, device=device), rows)
        needs = Plain(self.model, tried=min(TRIED, rows)).needs(points)
        warn_of_randomness(needs, "a vote")
        best = self._fastest(needs, points)
        self._copies = {k: v for k, v in self._copies.items() if v is best.module or self._in_use(v)}
        return self._finish(best, needs, shape, device)

    def _fastest(self, needs: Needs, points: Tensor) -> Way:
        image, device = points.ndim == 4, points.device
        ways = self._ways(needs, image, device, resolve_dtype(self.dtype, device))
        if self.dtype != "auto":
            return fastest(ways, points, self._decide)
        try:
            return fastest(ways, points, self._decide, tries=True)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # not in this precision: nobody has asked for it
            return fastest(self._ways(needs, image, device, None), points, self._decide)

    def _in_use(self, twin: nn.Module) -> bool:
        return any(runner.module is twin for runner in self._runners.values())

    def _finish(self, way: Way, needs: Needs, shape: torch.Size, device: torch.device) -> Runner:
        chunk = Chunk(self.chunk, shape.numel() * way.dtype.itemsize, device)
        plainly = way.bind(way.module)
        compiled = eager(self.model) is not self.model
        if compiled:
            while not chunk.settled:  # on the eager twin: every size would be another compilation
                try:
                    chunk.run(plainly, way.arrange(_zeros(chunk.rows, shape, device)))
                except torch.OutOfMemoryError:
                    if not chunk.shrink():
                        raise
        function = way.module if way.copied else self.model
        if way.copied and hasattr(self.model, "dynamo_ctx"):
            # A compiled module holds the options that the user chose: the copy is compiled with them. Its class is
            # not imported by name, for that takes seconds.
            compiled_class: Any = type(self.model)
            function = compiled_class(way.module, self.model.dynamo_ctx)
        call, module = way.bind(function), way.module
        if needs.copies:  # weights are measured on the points after the pass
            call = _of_a_copy(call)
        replays = Replays(call, module, allowed=self.cuda_graphs and not compiled and recordable(device))
        stepped = recordable(device) and not compiled
        return Runner(
            call, way.dtype, way.channels_last, needs.labels, chunk, compiled, stepped, module, replays
        )


def _of_a_copy(call: Model) -> Model:
    return lambda points: call(points.clone())


def _zeros(rows: int, shape: torch.Size, device: torch.device) -> Tensor:
    return torch.zeros(rows, *shape, device=device)
