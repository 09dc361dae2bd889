"""A model's passes of one size replayed as one CUDA graph: one launch where there were dozens.

A pass of a small network takes a GPU less time than the host takes to launch its kernels. Where a model allows it, the
launches are recorded once for each size of pass and replayed; it is then called no more, so that only what it computes
from its input and its tensors counts. Recording needs fixed addresses: points stand in a buffer that is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .hardware import float32_settings
from .hooks import heard
from .running import Model, attributes_of, tensors

WARM = 3  # passes of a size before it is recorded: libraries choose their kernels in the first ones
CHECKED = 2  # replays of a size that are compared with the model itself
SIZES = 16  # recorded at a time
WORTH_SECONDS = 0.005  # passes that take longer are not bound by launches


def recordable(device: torch.device) -> bool:
    """Whether what is launched on a device can be recorded."""
    return device.type == "cuda"


@dataclass(frozen=True)
class Room:
    """Where passes are recorded, none of which runs at the same time as another: their memory, and a stream."""

    pool: Any
    stream: Any

    @classmethod
    def on(cls, device: torch.device) -> "Room":
        """Room on a device. A stream of its own: torch's one for recordings is of the device that was current at the
        first of them, and what is launched on another is not recorded."""
        return cls(torch.cuda.graph_pool_handle(), torch.cuda.Stream(device))


def capture(call: Model, points: Tensor, room: Room) -> Callable[[], Tensor]:
    """What ``call`` launches on ``points``, as a function that launches it again on what stands there by then."""
    with torch.cuda.device(points.device):
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads of the process may allocate meanwhile.
        recording = torch.cuda.graph(
            graph, pool=room.pool, stream=room.stream, capture_error_mode="thread_local"
        )
        # The outer one comes back to the caller's stream also where a recording fails at its end.
        with torch.cuda.stream(torch.cuda.current_stream()), recording:
            out = call(points)

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


def objection(module: Any) -> str | None:
    """Why passes of a model may not be recorded; None where nothing speaks against it."""
    if not isinstance(module, nn.Module):
        return "a callable may depend on anything"
    for name, part in module.named_modules():
        if heard(part):
            return f"{name or 'the model'} has hooks"
        if type(part).__call__ is not nn.Module.__call__:
            return f"{name or 'the model'} has a call of its own"
    return None


def fingerprint(module: Any) -> list[Any]:
    """What a recorded pass has taken for granted: addresses of tensors, attributes of the modules, torch's settings."""
    if not isinstance(module, nn.Module):
        return []
    told = [value for _, _, value in float32_settings()]
    return [*(t.data_ptr() for t in tensors(module)), attributes_of(module, versions=False), told]


class Replays:
    """Calls a model on points; passes of a size that keeps coming are recorded and replayed.

    ``refused`` tells why the model is called itself after all, and is None as long as nothing has spoken against
    recording: a model that waits for the device, or whose replay gives other labels than the model.
    """

    def __init__(self, call: Model, module: Any, *, allowed: bool) -> None:
        self._call, self._module = call, module
        self.refused = objection(module) if allowed else "not asked for"
        self._seen: dict[Any, int] = {}
        self._recorded: dict[Any, Callable[[], Tensor]] = {}
        self._fingerprint: list[Any] = []
        self._room: Room | None = None  # for all sizes

    def refresh(self) -> None:
        """Drop what was recorded if the model has changed: before each vote."""
        if self.refused is None and (now := fingerprint(self._module)) != self._fingerprint:
            self.clear()
            self._fingerprint = now

    def clear(self) -> None:
        """Drop what was recorded, as before the buffer of points moves."""
        self._seen.clear()
        self._recorded.clear()
        self._room = None  # memory whose recordings are all gone must not be used again

    def __call__(self, points: Tensor) -> Tensor:
        """Logits of ``points``, which stand where they always do. Overwritten by the next replay of this size."""
        # Under the caller's autocast a recording would hold casts of the weights that end with it.
        if self.refused is not None or torch.is_autocast_enabled(points.device.type):
            return self._call(points)
        size = (points.data_ptr(), points.shape, points.stride())
        seen = self._seen[size] = self._seen.get(size, 0) + 1
        if size in self._recorded and seen > WARM + CHECKED:
            return self._recorded[size]()
        logits = self._call(points)
        if seen >= WARM and (size in self._recorded or len(self._recorded) < SIZES):
            self._compare(size, points, logits)
        return logits

    def _compare(self, size: Any, points: Tensor, logits: Tensor) -> None:
        try:
            if size not in self._recorded:
                self._room = self._room or Room.on(points.device)
                self._recorded[size] = capture(self._call, points, self._room)
            again = self._recorded[size]()
            same = again.shape == logits.shape and torch.equal(again.argmax(1), logits.argmax(1))
        except Exception as error:  # a model may do anything that cannot be recorded
            self._refuse(f"{type(error).__name__}: {error}")
        else:
            if not same:
                self._refuse("a replay gave other labels than the model")

    def _refuse(self, why: str) -> None:
        self.refused = why
        self.clear()
