"""How many rows a forward pass has: given, or found by timing real passes; on a GPU of few sizes."""

import time

import torch
from torch import Tensor

from .running import Model

FIRST_ROWS = 32  # the smallest chunk tried
STEPS = 8  # passes of more than an eighth of a chunk are multiples of it
MAX_ROWS = 1 << 16
POINT_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}  # the most that one chunk of points may take
FULL_SECONDS = {"cpu": 0.03, "cuda": 0.1}  # hardware busy this long is full: larger chunks only cost memory
FREE = 1.25  # a pass of more rows that takes at most so many times as long as the smallest is as good as free
GAIN = 1.05  # a larger chunk must bring 5%, or it is not worth its memory
PATIENCE = 2  # doublings without gain before the search ends
TIMINGS = 3


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
