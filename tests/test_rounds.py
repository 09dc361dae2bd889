"""Rounds of a vote: what they cost the host, that their cut leaves no trace, and passes that are replayed."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rcfast import engine, graphs, ops, rounds
from rcfast.chunk import Chunk
from rcfast.classifier import RegionClassifier, Votes
from rcfast.hardware import full_float32
from rcfast.stopping import StoppingRule

# Operators whose result the host must see: on a GPU it would wait.
WAITS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
}


class Network(nn.Module):
    """A convolutional network that notes its passes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
        self.rows: deque[int] = deque()  # not compared, as a list would be
        self.counter: Counter | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        if self.counter is None:
            return self.body(x)
        with self.counter.paused():
            return self.body(x)


class Counter(TorchDispatchMode):
    """Counts the operators that are dispatched, and those that wait, beside the network's own."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self._off = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._off = True
        yield
        self._off = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._off:
            self.names.append(function.name().split(".")[0])
        return function(*args, **(kwargs or {}))


def images(batch: int = 12) -> Tensor:
    return torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def same(a: Votes, b: Votes) -> bool:
    names = ("counts", "label", "samples", "decided")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def close_call(x: Tensor) -> Tensor:
    """Two labels of nearly equal shares: the same bits for any number of rows."""
    return torch.stack([x.flatten(1)[:, 0], x.flatten(1)[:, 1] + 0.02, 0 * x.flatten(1)[:, 2]], 1)


# --- what a round costs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", ["one", "each"])
def test_a_round_costs_one_wait_and_a_dozen_operators(lengths: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Network()
    r: Any = 0.6 if lengths == "one" else torch.full((40,), 0.6)
    rc = RegionClassifier(model, r, m=1000, chunk=4000)
    rc.vote(images(40))  # buffers are made and views of them kept
    counter, costs, fetch = Counter(), [], rounds.fetch
    model.counter, model.rows = counter, deque()

    def counted(votes: Tensor) -> Tensor:
        costs.append(list(counter.names))
        counter.names.clear()
        return fetch(votes)

    monkeypatch.setattr(rounds, "fetch", counted)
    with counter:
        votes = rc.vote(images(40))
    assert len(costs) > 10  # one wait a round
    assert (
        len(costs)
        == len(model.rows)
        == len([n for n in StoppingRule("sequential", 1000, 10).checkpoints() if n <= votes.samples.max()])
    )
    assert not [name for cost in costs[1:] for name in cost if name in WAITS]
    assert max(len(cost) for cost in costs[1:]) <= 15, costs[1]  # the bar is 40
    unchanged = min(costs[1:], key=len)  # nobody has left
    assert len(unchanged) <= 8, unchanged


def test_further_passes_of_a_round_cost_a_dozen_operators_each(monkeypatch: pytest.MonkeyPatch) -> None:
    model, counter = Network(), Counter()
    rc = RegionClassifier(model, 0.3, m=100, stop=None, chunk=100)
    rc.vote(images(50))
    model.counter, model.rows = counter, deque()
    waits: list[int] = []
    fetch = rounds.fetch
    monkeypatch.setattr(rounds, "fetch", lambda votes: waits.append(1) or fetch(votes))
    with counter:
        rc.vote(images(50))
    assert len(model.rows) == 50
    assert len(counter.names) <= 50 * 12 + 60
    assert len(waits) == 2  # after the first pass, for a model that returns NaN, and at the end


# --- rounds that are run together ---------------------------------------------------------------------------------


def test_checkpoints_are_reached_together_while_rows_are_free() -> None:
    checkpoints = [12, 15, 19, 24, 30]
    assert rounds.together(checkpoints, 0, 5, 0) == [12]
    assert rounds.together(checkpoints, 0, 5, 5 * 19) == [12, 15, 19]
    assert rounds.together(checkpoints[1:], 12, 1, 10**6) == [15, 19, 24, 30]
    assert rounds.together(list(range(1, 200)), 0, 1, 10**6) == list(range(1, ops.MAX_SEGMENTS + 1))


@pytest.mark.parametrize("stop", ["sequential", "exact", None])
def test_rounds_run_together_leave_no_trace(stop: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    x, seen = images(9), []

    def watched(points: Tensor) -> Tensor:
        seen.append(len(points))
        return close_call(points)

    expected = RegionClassifier(close_call, 0.4, m=1000, stop=stop, chunk=2000).vote(x)
    assert stop is None or len(expected.samples.unique()) > 3
    passes = []
    for free in (0, 40, 500, 2000):
        monkeypatch.setattr(engine.Runner, "free_rows", free)
        rc = RegionClassifier(watched, 0.4, m=1000, stop=stop, chunk=2000)
        rc.vote(x[:1])
        seen.clear()
        assert same(rc.vote(x), expected)
        passes.append(len(seen))
        assert max(seen) <= 2000
    if stop == "sequential":
        assert passes == sorted(passes, reverse=True)
        assert passes[-1] < passes[0] / 2


def test_a_compiled_model_fills_its_passes() -> None:
    """Each of its passes has all rows anyway: later checkpoints cost nothing."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    rc = RegionClassifier(torch.compile(model, backend="eager"), 0.5, m=1000, chunk=1000)
    calls: list[int] = []
    rc.vote(images(1))
    (runner,) = rc._engine._runners.values()
    call = runner.call
    runner.replays._call = runner.call = lambda points: calls.append(len(points)) or call(points)
    votes = rc.vote(images(1))
    assert votes.samples.item() <= 1000
    assert calls == [1000]
    assert same(votes, RegionClassifier(model, 0.5, m=1000).vote(images(1)))


def test_free_rows_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardware that is full at 256 rows: up to there a pass takes as long as the smallest."""

    def hardware(call: Any, points: Tensor) -> tuple[float, Tensor]:
        return 1e-4 * max(1.0, len(points) / 256), points

    monkeypatch.setattr("rcfast.chunk.timed", hardware)
    chunk = Chunk(None, 4, torch.device("cpu"))
    while not chunk.settled:
        chunk.run(lambda points: points, torch.zeros(chunk.rows, 1))
    assert chunk.free == 256
    assert Chunk(64, 4, torch.device("cpu")).free == 0  # who gives the chunk gives the passes
    while chunk.rows > 128:
        assert chunk.shrink()
    assert chunk.free == 128


# --- memory -------------------------------------------------------------------------------------------------------


def test_the_buffer_is_kept_from_one_vote_to_the_next() -> None:
    rc = RegionClassifier(Network(), 0.3, chunk=500)
    rc.vote(images())
    (runner,) = rc._engine._runners.values()
    buffer = runner._buffer
    rc.vote(images())
    assert buffer is not None
    assert runner._buffer is buffer
    assert len(buffer) == 500 * 64


@pytest.mark.parametrize("stop", ["sequential", None])
def test_no_memory_for_the_buffer_halves_the_chunk(stop: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros, refused = torch.zeros, []

    def limited(*size: Any, **options: Any) -> Tensor:
        if size and isinstance(size[0], int) and len(size) == 1 and size[0] > 40 * 64:
            refused.append(size[0])
            raise torch.OutOfMemoryError("simulated")
        return zeros(*size, **options)

    expected = RegionClassifier(close_call, 0.4, m=1000, stop=stop).vote(images())
    rc = RegionClassifier(close_call, 0.4, m=1000, stop=stop)
    rc.vote(images(1), m=1)
    (runner,) = rc._engine._runners.values()
    runner.chunk.rows, runner.chunk.settled, runner._buffer = 256, True, None
    runner._views.clear()
    monkeypatch.setattr(engine.torch, "zeros", limited)
    assert same(rc.vote(images()), expected)
    assert refused == [256 * 64, 128 * 64, 64 * 64]
    assert runner.chunk.rows == 32


# --- passes that are recorded -------------------------------------------------------------------------------------


class Recorder:
    """In place of a CUDA graph: a pass is repeated on the same addresses, without what the host did."""

    def __init__(self) -> None:
        self.recorded: list[int] = []
        self.replayed: list[int] = []

    def __call__(self, call: Callable[[Tensor], Tensor], points: Tensor, room: Any) -> Callable[[], Tensor]:
        out = call(points).clone()
        self.recorded.append(len(points))

        def replay() -> Tensor:
            self.replayed.append(len(points))
            return out.copy_(call(points))

        return replay


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(graphs, "capture", recorder)
    monkeypatch.setattr(graphs.Room, "on", lambda device: graphs.Room(None, None))
    monkeypatch.setattr(engine, "recordable", lambda device: True)
    return recorder


def replays_of(rc: RegionClassifier) -> graphs.Replays:
    (runner,) = rc._engine._runners.values()
    return runner.replays


def test_passes_of_a_size_are_replayed(recorder: Recorder) -> None:
    x, options = images(50), {"m": 100, "stop": None, "chunk": 100}
    expected = RegionClassifier(Network(), 0.3, cuda_graphs=False, **options).vote(x)
    assert not recorder.recorded
    rc = RegionClassifier(Network(), 0.3, **options)
    assert same(rc.vote(x), expected)
    assert replays_of(rc).refused is None
    assert recorder.recorded == [100]
    first = len(recorder.replayed)
    assert first >= 40
    assert same(rc.vote(x), expected)
    assert recorder.recorded == [100]  # kept, with the buffer
    assert len(recorder.replayed) - first == 50


@pytest.mark.parametrize(
    "change", ["weights", "replaced", "attribute", "list", "training only", "full float32"]
)
def test_a_changed_model_is_recorded_anew(recorder: Recorder, change: str) -> None:
    class Scaled(Network):
        scale = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scale * self.scales[0]

    model = Scaled()
    model.scale, model.scales = 1.0, [1.0]
    rc = RegionClassifier(model, 0.3, m=100, stop=None, chunk=100)
    rc.vote(images(20))
    with torch.no_grad():
        if change == "weights":
            model.body[3].weight.mul_(-1)  # at the same address: the replay sees it
        elif change == "replaced":
            model.body[3].weight.data = -model.body[3].weight
        elif change == "attribute":
            model.scale = -1.0
        elif change == "list":
            model.scales[0] = -1.0
        elif change == "training only":
            model.train()
    with full_float32() if change == "full float32" else nullcontext():
        after = rc.vote(images(20))
    assert len(recorder.recorded) == (2 if change in ("replaced", "attribute", "list", "full float32") else 1)
    assert same(
        after, RegionClassifier(model, 0.3, m=100, stop=None, chunk=100, cuda_graphs=False).vote(images(20))
    )


@pytest.mark.parametrize("trouble", ["waits", "differs", "callable", "hooks"])
def test_a_model_that_does_not_allow_it_is_run_itself(
    recorder: Recorder, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = Network()
    if trouble == "waits":

        def refuse(call: Any, points: Tensor, pool: Any) -> Any:
            raise RuntimeError("operation not permitted when stream is capturing")

        monkeypatch.setattr(graphs, "capture", refuse)
    elif trouble == "differs":
        monkeypatch.setattr(
            graphs, "capture", lambda call, points, pool: lambda: torch.zeros(len(points), 10)
        )
    elif trouble == "callable":
        model = close_call
    else:
        model.body[0].register_forward_hook(lambda *_: None)
    options = {"m": 100, "stop": None, "chunk": 100}
    rc = RegionClassifier(model, 0.3, **options)
    assert same(
        rc.vote(images(20)), RegionClassifier(model, 0.3, cuda_graphs=False, **options).vote(images(20))
    )
    reason = {
        "waits": "not permitted",
        "differs": "other labels",
        "callable": "anything",
        "hooks": "body.0 has hooks",
    }
    assert reason[trouble] in str(replays_of(rc).refused)
    assert not replays_of(rc)._recorded


@pytest.mark.parametrize("fails", [False, True])
def test_a_pass_is_recorded_on_a_stream_of_its_device_and_the_callers_comes_back(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """With contexts in place of torch.cuda's, that note when they are entered and left."""
    inside: list[tuple[str, Any]] = []
    left: list[tuple[str, Any]] = []

    @contextmanager
    def entered(name: str, what: Any) -> Iterator[None]:
        inside.append((name, what))
        try:
            yield
        finally:
            left.append((name, what))

    @contextmanager
    def recording(graph: None, *, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
        inside.append(("graph", stream))
        yield
        if fails:  # as torch's own does, before it comes back to the caller's stream
            raise RuntimeError("operation failed due to a previous error during capture")

    fakes: dict[str, Any] = {
        "device": partial(entered, "device"),
        "stream": partial(entered, "stream"),
        "current_stream": lambda: "the caller's",
        "CUDAGraph": lambda: None,
        "graph": recording,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    points: Any = SimpleNamespace(device="cuda:1")
    seen: list[Any] = []
    with pytest.raises(RuntimeError, match="during capture") if fails else nullcontext():
        graphs.capture(lambda _: seen.extend(inside), points, graphs.Room("memory", "of cuda:1"))  # type: ignore[arg-type, func-returns-value]
    assert seen == [("device", "cuda:1"), ("stream", "the caller's"), ("graph", "of cuda:1")]
    assert left == [("stream", "the caller's"), ("device", "cuda:1")]


def test_long_passes_are_not_recorded(recorder: Recorder) -> None:
    rc = RegionClassifier(Network(), 0.3, m=100, stop=None, chunk=100)
    rc.vote(images(1))
    (runner,) = rc._engine._runners.values()
    runner.chunk._best = (100 / (2 * graphs.WORTH_SECONDS), 100)
    rc.vote(images(50))
    assert not recorder.recorded


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_votes_with_cuda_graphs_are_those_without(dtype: torch.dtype | None) -> None:
    x, options = images(50).cuda(), {"m": 500, "chunk": 256, "dtype": dtype}
    model = Network().cuda()
    plain = RegionClassifier(model, 0.3, cuda_graphs=False, **options).vote(x)
    rc = RegionClassifier(model, 0.3, **options)
    for _ in range(3):
        assert same(rc.vote(x), plain)
    assert replays_of(rc).refused is None
    assert replays_of(rc)._recorded


@pytest.mark.gpu
def test_a_round_on_the_gpu_waits_only_for_its_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    rc, x = RegionClassifier(Network().cuda(), 0.5, chunk=2000), images(40).cuda()
    rc.vote(x)
    fetch, count = rounds.fetch, rounds.count
    fetched = []

    def allowed(votes: Tensor) -> Tensor:
        torch.cuda.set_sync_debug_mode("default")
        fetched.append(fetch(votes))
        torch.cuda.set_sync_debug_mode("error")
        return fetched[-1]

    def strict(*arguments: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return count(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(rounds, "fetch", allowed)
    monkeypatch.setattr(rounds, "count", strict)
    rc.vote(x)
    assert fetched
