"""How a model is run: modes, precision, copies that follow the weights, compiled models, chunks, lack of memory."""

import copy
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcfast import ops
from rcfast.chunk import FIRST_ROWS, Chunk, step_of
from rcfast.classifier import RegionClassifier
from rcfast.engine import Engine
from rcfast.fused import FusedConv
from rcfast.fused.standin import Chain
from rcfast.hardware import full_float32
from rcfast.joined import ConvReLU, join_
from rcfast.models import mnist_cnn
from rcfast.running import tensors
from rcfast.ways import Way, fastest

BF16 = torch.bfloat16


class Watched(nn.Module):
    """A small convolutional network that notes what it is given and in which mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(288, 10)
        self.seen: list[tuple[torch.dtype, bool, bool]] = []
        self.scale, self.scales = 1.0, [1.0]

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((x.dtype, self.training, x.is_inference() or torch.is_grad_enabled()))
        return self.head(self.body(x).flatten(1)) * self.scale * self.scales[0]


def images(batch: int = 12) -> Tensor:
    return torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def counts(model: Any, **options: Any) -> Tensor:
    return RegionClassifier(model, 0.3, m=100, stop=None, **options).vote(images()).counts


def change_otherwise(model: Watched, how: str) -> None:
    if how == "attribute":
        model.scale = -1.0
    elif how == "list":
        model.scales[0] = -1.0
    elif how == "hook":
        model.body[0].register_forward_hook(lambda module, inputs, output: -output)
    else:
        model.body[2] = nn.Tanh()


# --- the model is left as it was found ------------------------------------------------------------------------------


def test_evaluation_mode_on_ordinary_tensors_inside_and_the_old_modes_after() -> None:
    model = Watched()
    model.train()
    model.body[1].eval()  # a mixture, as with a frozen batch norm
    before = [part.training for part in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = counts(model), counts(model)
    assert torch.equal(first, second)  # dropout is off
    assert [part.training for part in model.modules()] == before
    assert not any(training or inference_or_grad for _, training, inference_or_grad in model.seen)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(first, counts(copy.deepcopy(model).eval()))


def test_the_mode_comes_back_after_an_error() -> None:
    class Broken(Watched):
        def forward(self, x: Tensor) -> Tensor:
            raise ArithmeticError("broken")

    model = Broken().train()
    with pytest.raises(ArithmeticError, match="broken"):
        counts(model)
    assert all(part.training for part in model.modules())


@pytest.mark.parametrize("dtype", [BF16, torch.float16])
def test_the_users_model_keeps_its_precision_and_format(dtype: torch.dtype) -> None:
    model = Watched()
    before = [(p, p.dtype, p.stride(), p._version, p.requires_grad) for p in model.parameters()]
    votes = counts(model, dtype=dtype)
    assert [(p, p.dtype, p.stride(), p._version, p.requires_grad) for p in model.parameters()] == before
    assert (votes.argmax(1) == counts(model).argmax(1)).float().mean() > 0.9
    model(images()).sum().backward()  # still trains


def test_outputs_are_ordinary_tensors() -> None:
    x = images().requires_grad_()
    rc = RegionClassifier(Watched(), 0.1, m=20)
    out = rc(x)
    assert out.dtype == torch.float32
    assert not out.requires_grad
    assert torch.equal(out.argmax(1), rc.predict(x))
    (out * torch.ones(10, requires_grad=True)).sum().backward()
    rc.vote(x).counts.add_(1)


# --- precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "in place",
        "through .data",
        "loaded",
        "replaced",
        "buffer",
        "other activation",
        "attribute",
        "list",
        "hook",
    ],
)
def test_a_converted_copy_follows_the_weights(change: str) -> None:
    model, other = Watched(), Watched()
    torch.nn.init.normal_(other.head.weight)
    rc = RegionClassifier(model, 0.3, m=100, stop=None, dtype=BF16)
    before = rc.vote(images()).counts
    with torch.no_grad():
        if change == "in place":
            model.head.weight.copy_(other.head.weight)
        elif change == "through .data":
            model.head.weight.data.mul_(-1)
        elif change == "loaded":
            model.load_state_dict(other.state_dict())
        elif change == "replaced":
            model.head = other.head
        elif change == "buffer":
            model.body[1].running_mean.add_(torch.randn(8))
        else:
            change_otherwise(model, change)
    after = rc.vote(images()).counts
    assert not torch.equal(before, after)
    assert torch.equal(after, counts(copy.deepcopy(model), dtype=BF16))


def test_another_model_may_be_assigned() -> None:
    rc = RegionClassifier(Watched(), 0.3, m=100, stop=None, dtype=BF16)
    rc.vote(images())
    rc.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    assert rc.vote(images()).counts.shape == (12, 3)


def test_a_callable_runs_under_autocast() -> None:
    seen = []
    weight = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))

    def function(x: Tensor) -> Tensor:
        seen.append((x.dtype, torch.is_autocast_enabled(x.device.type)))
        return x.flatten(1) @ weight

    low, full = counts(function, dtype=BF16), counts(function)
    assert (BF16, True) in seen
    assert (torch.float32, False) in seen
    assert (low - full).abs().max() <= 5


def test_what_cannot_be_copied_runs_under_autocast() -> None:
    class Single(Watched):
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("there is only one")

    model = Single()
    votes = counts(model, dtype=BF16)
    assert model.seen[-1][0] == BF16
    assert (votes.argmax(1) == counts(Watched()).argmax(1)).float().mean() > 0.9


@pytest.mark.parametrize("own", [torch.float64, BF16, torch.float16])
def test_points_follow_the_models_dtype(own: torch.dtype) -> None:
    model = Watched().to(own)
    votes = counts(model)
    assert {dtype for dtype, _, _ in model.seen} == {own}
    assert (votes.argmax(1) == counts(Watched()).argmax(1)).float().mean() > 0.9


def test_float64_logits_are_not_rounded_into_ties() -> None:
    def close(x: Tensor) -> Tensor:
        return torch.tensor([1.0, 1.0 + 1e-12, float("-inf")], dtype=torch.float64).expand(len(x), 3)

    assert RegionClassifier(close, 0.1, m=10, stop=None).vote(images(2)).counts.tolist() == [[0, 10, 0]] * 2
    infinite = torch.tensor([0.0, float("inf")], dtype=torch.float64)
    rc = RegionClassifier(lambda x: infinite.expand(len(x), 2), 0.1, m=10)
    assert rc.predict(images(1)).tolist() == [1]


def test_a_model_that_needs_contiguous_points_gets_them() -> None:
    class Views(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(len(x), -1)[:, :10]

    x = torch.rand(2, 3, 8, 8)
    assert RegionClassifier(Views(), 0.1, m=10).vote(x).counts.shape == (2, 10)


# --- our own convolutions -----------------------------------------------------------------------------------------

own_kernel = pytest.mark.skipif(
    ops.build_info()["instruction_set"] == "portable", reason="torch's convolutions are faster there"
)


def kernel_of(rc: RegionClassifier) -> Any:
    (runner,) = rc._engine._runners.values()
    return runner.module


@own_kernel
def test_a_module_votes_on_our_convolutions_and_a_function_on_its_own() -> None:
    model = Watched()
    ours = RegionClassifier(model, 0.3, m=100, stop=None)
    plain = RegionClassifier(lambda x: model(x), 0.3, m=100, stop=None)
    model.eval()
    difference = ours.vote(images()).counts - plain.vote(images()).counts
    assert difference.abs().max() <= 1
    assert any(isinstance(part, FusedConv) for part in kernel_of(ours).modules())
    assert not any(isinstance(part, FusedConv) for part in model.modules())
    for other in (model.double(), torch.compile(model, backend="eager")):
        rc = RegionClassifier(other, 0.3, m=20, stop=None, chunk=20)
        rc.vote(images(1))
        assert not any(isinstance(part, FusedConv) for part in kernel_of(rc).modules())


@own_kernel
@pytest.mark.parametrize(
    "change", ["in place", "through .data", "replaced", "other activation", "attribute", "list", "hook"]
)
def test_our_convolutions_follow_the_model(change: str) -> None:
    model, other = Watched(), Watched()
    torch.nn.init.normal_(other.body[0].weight)
    rc = RegionClassifier(model, 0.3, m=100, stop=None)
    before = rc.vote(images()).counts
    with torch.no_grad():
        if change == "in place":
            model.body[0].weight.copy_(other.body[0].weight)
        elif change == "through .data":
            model.body[0].weight.data.mul_(-1)
        elif change == "replaced":
            model.body[0] = other.body[0]
        else:
            change_otherwise(model, change)
    after = rc.vote(images()).counts
    assert not torch.equal(before, after)
    assert (after - counts(copy.deepcopy(model))).abs().max() <= 1


@own_kernel
def test_a_kernel_that_says_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FusedConv, "forward", lambda self, x: self._layers[0](x) + 1)
    rc = RegionClassifier(Watched(), 0.3, m=20, stop=None)
    rc.vote(images())
    assert not any(isinstance(part, FusedConv) for part in kernel_of(rc).modules())


# --- compiled models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, BF16])
def test_compiled_models_see_one_shape(dtype: torch.dtype | None) -> None:
    torch.compiler.reset()  # recompilations are counted over all that a process compiles, and limited
    shapes = set()

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        def run(*args: Tensor) -> Any:
            shapes.update(tuple(a.shape) for a in args if isinstance(a, Tensor) and a.shape[1:] == (1, 8, 8))
            return graph(*args)

        return run

    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)]
    model = nn.Sequential(*layers)
    rc = RegionClassifier(torch.compile(model, backend=backend), 0.3, m=100, stop="exact", dtype=dtype)
    votes = rc.vote(images())
    rc.vote(images(1))
    assert len(shapes) == 1
    plain = RegionClassifier(model, 0.3, m=100, stop="exact", dtype=dtype).vote(images())
    assert torch.equal(votes.label, plain.label)


def test_compiled_functions() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    function = torch.compile(lambda x: plain(x), backend="eager")
    assert torch.equal(counts(function, chunk=64), counts(plain, chunk=64))


# --- chunks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("best", [32, 128, 1024])
def test_the_chunk_is_where_the_hardware_is_fullest(best: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def hardware(call: Any, points: Tensor) -> tuple[float, Tensor]:
        rows = len(points)
        speed = (
            min(rows, best) / best if rows <= best else 0.8
        )  # rows per microsecond, falling beyond the best
        return rows / speed * 1e-6, points

    monkeypatch.setattr("rcfast.chunk.timed", hardware)
    chunk = Chunk(None, 4, torch.device("cpu"))
    passes = 0
    while not chunk.settled:
        chunk.run(lambda points: points, torch.zeros(chunk.rows, 1))
        passes += 1
    assert chunk.rows == best
    assert passes <= 3 * 10


def test_the_chunk_is_bounded_by_memory_and_time() -> None:
    wide = Chunk(None, 3 << 20, torch.device("cpu"))
    assert wide.rows <= 10
    slow = Chunk(None, 4, torch.device("cpu"))
    for _ in range(3):
        slow._observe(1.0)
    assert slow.settled
    assert slow.rows == 32


def test_the_chunk_is_measured_on_the_work_itself_and_remembered() -> None:
    model = Watched()
    rc = RegionClassifier(model, 0.3, m=2000, stop=None)
    rc.vote(images())
    (runner,) = rc._engine._runners.values()
    for _ in range(100):  # a fast network wants more rows than one vote has
        if not runner.chunk.settled and runner.chunk.rows < 12 * 2000:
            rc.vote(images())
    assert runner.chunk.rows > 32
    calls = len(model.seen)
    rc.vote(images())
    assert len(model.seen) - calls <= 12 * (2000 / runner.chunk.rows + 1)  # no trial, no measuring


def test_lack_of_memory_halves_the_chunk() -> None:
    class Small(Watched):
        limit = 40

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > self.limit:
                raise torch.OutOfMemoryError("simulated")
            return super().forward(x)

    for stop in ("sequential", None):
        options = {"r": 0.3, "m": 3000, "stop": stop}
        small = RegionClassifier(Small(), **options)
        assert torch.equal(
            small.vote(images()).label, RegionClassifier(Watched(), **options).vote(images()).label
        )
    with pytest.raises(torch.OutOfMemoryError):
        RegionClassifier(Small(), 0.3, chunk=64, stop=None).vote(images(2))


# --- an nn.Module like others ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies(way: str) -> None:
    rc = RegionClassifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 0.3, m=100, dtype=BF16)
    votes = rc.vote(images())
    twin = copy.deepcopy(rc) if way == "deepcopy" else pickle.loads(pickle.dumps(rc))
    assert torch.equal(twin.vote(images()).counts, votes.counts)
    with torch.no_grad():
        twin.model[1].weight.zero_()
    assert torch.equal(rc.vote(images()).counts, votes.counts)
    assert torch.equal(twin.vote(images()).label, twin.model[1].bias.argmax().expand(12))


def test_state_repr_and_to() -> None:
    model = Watched()
    rc = RegionClassifier(model, 0.25, m=50)
    rc.vote(images())
    assert set(rc.state_dict()) == {f"model.{name}" for name in model.state_dict()}
    assert "region=Cube(r=0.25, clip='intersect'), m=50, stop='sequential', alpha=0.001" in repr(rc)
    assert "3 lengths" in repr(RegionClassifier(model, torch.zeros(3)))
    rc.to(torch.float64)
    assert rc.vote(images()).counts.shape == (12, 10)
    assert rc.train().training
    assert not rc.eval().model.training


@pytest.mark.parametrize("chunk", [1, 10, 32, 64, 250, 256, 1000, 16384])
def test_passes_of_a_gpu_are_of_few_sizes(chunk: int) -> None:
    sizes = {used: step_of(used, chunk) for used in range(1, chunk + 1)}
    assert all(used <= size <= chunk for used, size in sizes.items())
    assert len(set(sizes.values())) <= 16
    assert all(size < 2 * max(FIRST_ROWS, used) for used, size in sizes.items())
    assert all(size <= used + chunk / 8 + FIRST_ROWS for used, size in sizes.items())
    assert step_of(chunk + 1, chunk) == chunk + 1


def test_ways_are_told_apart_on_fewer_examples_where_memory_lacks() -> None:
    tried = []

    def model(points: Tensor) -> Tensor:
        tried.append(len(points))
        if len(points) > FIRST_ROWS:
            raise torch.OutOfMemoryError("no room")
        return points.flatten(1)[:, :10]

    makers = [partial(Way, model, torch.float32, torch.float32, last) for last in (True, False)]
    assert fastest(makers, torch.rand(1024, 1, 8, 8), int).channels_last
    assert tried[:2] == [1024, 1024]
    assert set(tried[2:]) == {FIRST_ROWS}


@pytest.mark.gpu
def test_on_a_gpu_convolutions_take_their_relu_along() -> None:
    """The copy that votes says what the model says, whether or not it was the faster way; weights stay in step."""
    model = mnist_cnn().cuda().eval()
    x = torch.rand(64, 1, 28, 28, device="cuda")
    for dtype in (torch.float16, BF16):
        twin = Engine(model, dtype, None)._convert(dtype, True, joined=True)
        chains = [part for part in twin.modules() if isinstance(part, Chain)]
        assert sum(isinstance(part, ConvReLU) for chain in chains for part in chain.joined) == 4
        assert [t.shape for t in tensors(twin)] == [t.shape for t in tensors(model)]
        with torch.no_grad():
            points = x.to(dtype).contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(twin(points).float(), model(x), rtol=0.05, atol=0.05)


def test_joined_layers_are_those_that_torch_runs_one_after_the_other() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3, padding="same"), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Tanh(),
        nn.Conv2d(2, 2, 3), nn.ReLU(),
    )  # fmt: skip
    model[-1].register_forward_hook(lambda *_: None)
    names, layers = [*model.state_dict()], [*model]
    join_(model)
    assert isinstance(model, Chain)
    assert [type(part).__name__ for part in model.joined] == [
        "ConvReLU", "Conv2d", "ReLU", "Conv2d", "Tanh", "Conv2d", "ReLU"
    ]  # fmt: skip
    assert [*model] == layers, "for whom takes them one by one"
    assert [*model.state_dict()] == names
    other = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
    join_(other)
    assert type(other) is nn.Sequential


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, BF16])
def test_cuda_votes_are_those_of_the_cpu(dtype: torch.dtype | None) -> None:
    def take(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10]

    x = images(50)
    on_cpu = RegionClassifier(take, 0.3, m=500, dtype=dtype).vote(x)
    on_gpu = RegionClassifier(take, 0.3, m=500, dtype=dtype).vote(x.cuda())
    assert torch.equal(on_gpu.counts.cpu(), on_cpu.counts)
    rc = RegionClassifier(Watched(), 0.3, m=500, dtype=dtype).to("cuda")
    with full_float32():
        found = rc.predict(x.cuda()).cpu()
    assert (found == RegionClassifier(Watched(), 0.3, m=500).predict(x)).float().mean() > 0.9
    with pytest.raises(ValueError, match="x must be on the device of the model, cuda:0, got cpu"):
        rc.predict(x)
