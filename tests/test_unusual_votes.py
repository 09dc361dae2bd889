"""Votes of networks, and in uses, out of the ordinary, each of which went wrong once."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from ordinary import inputs, linear
from torch import Tensor, nn

from rcfast import RegionClassifier, engine, ops, stopping
from rcfast.fused import fused
from rcfast.graphs import Replays
from rcfast.ops import UNITS, saliency
from rcfast.regions.ids import _positions
from rcfast.running import eager
from rcfast.running.modules import mode, unseen_in_training
from rcfast.stopping import _checkpoints

BF16 = torch.bfloat16


class InPlace(nn.Module):
    def __init__(self, inner: nn.Module, *, changes: bool) -> None:
        super().__init__()
        self.inner, self.changes = inner, changes

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.sub_(0.5) if self.changes else x - 0.5)


def test_weights_see_the_points_and_not_what_the_model_made_of_them() -> None:
    x = inputs()
    votes = [
        RegionClassifier(InPlace(linear(), changes=changes), 0.3, m=200, weights="distance", stop=None).vote(
            x
        )
        for changes in (True, False)
    ]
    assert torch.equal(votes[0].counts, votes[1].counts)


def test_modes_of_stays_that_overlap() -> None:
    """Two threads vote on one network: the first one to leave must not take the other's mode away."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    model[0].eval()
    first, second = mode(model, False), mode(model, False)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(part.training for part in model.modules())
    second.__exit__(None, None, None)
    assert [part.training for part in model.modules()] == [True, False, True]


def test_likelihoods_too_small_for_float32_are_told_apart() -> None:
    def model(points: Tensor) -> Tensor:
        return torch.stack([points[:, 0], points[:, 1]], 1).double() * 1e-100

    x = torch.tensor([[0.2, 0.8], [0.8, 0.2]])
    assert RegionClassifier(model, 0.1, m=20).predict(x).tolist() == [1, 0]


class Keeping(nn.Module):
    """Two names of one buffer, and one that a pass replaces by another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()
        shift = torch.zeros(6)
        self.register_buffer("one", shift)
        self.register_buffer("two", shift)
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.last = x.sum(1)
        return self.inner(x + self.one + self.two)


def test_a_copy_in_another_precision_follows_a_model_that_changes_in_its_passes() -> None:
    model, x = Keeping().eval(), inputs()
    vote = RegionClassifier(model, 0.05, m=50, dtype=BF16, stop=None)
    before = [vote.vote(x[:n]).counts for n in (5, 3, 5, 1)]
    assert torch.equal(before[0], before[2])
    model.one += 3.0
    again = RegionClassifier(model, 0.05, m=50, dtype=BF16, stop=None).vote(x).counts
    assert torch.equal(vote.vote(x).counts, again)
    assert not torch.equal(again, before[0])


class Scaled(nn.Module):
    scale = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale


def test_a_copy_in_another_precision_forgets_what_the_model_no_longer_has() -> None:
    model, x = Scaled().eval(), inputs()
    vote = RegionClassifier(model, 0.05, m=50, dtype=BF16, stop=None)
    before = vote.vote(x).counts
    model.scale = -1.0
    assert not torch.equal(vote.vote(x).counts, before)
    del model.scale
    assert torch.equal(vote.vote(x).counts, before)


def test_the_default_device_of_torch_is_nobodys_business() -> None:
    model, x = linear(), inputs()
    expected = RegionClassifier(model, 0.1, m=50).vote(x)
    for options in ({}, {"weights": "distance"}):
        for cached in (_checkpoints, _positions):  # made by whoever asks first
            cached.cache_clear()
        vote = RegionClassifier(model, 0.1, m=53, **options)
        with torch.device("meta"):
            again = RegionClassifier(model, 0.1, m=53, **options).vote(x)
        assert torch.equal(again.counts, vote.vote(x).counts)
    assert expected.counts.device.type == "cpu"


def test_the_default_dtype_of_torch_is_nobodys_business_of_jsma(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels write float32 into what is made for them, on a GPU beyond its end where it is narrower."""
    made: list[torch.dtype] = []
    monkeypatch.setattr(saliency, "_saliency_pair_", lambda out, workspace, *_: made.append(workspace.dtype))
    a, free = torch.rand(2, 5), torch.ones(2, 5, dtype=torch.bool)
    torch.set_default_dtype(torch.bfloat16)
    try:
        saliency.saliency_pair(a, a, free)
    finally:
        torch.set_default_dtype(torch.float32)
    assert made == [torch.float32]


def test_the_default_dtype_of_torch_is_nobodys_business() -> None:
    model, x = linear(), inputs()
    usual = RegionClassifier(model, 0.1, m=50, weights="distance").vote(x)
    torch.set_default_dtype(torch.float64)
    try:
        again = RegionClassifier(model, 0.1, m=50, weights="distance").vote(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(again.counts, usual.counts)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weighted_votes_are_judged_in_float64(dtype: torch.dtype) -> None:
    counts, opened = torch.tensor([[999, 801]]), torch.tensor([[7, 5]])
    alphas = torch.logspace(-8, -0.5, 200).tolist()
    expected = [bool(stopping.sequential(counts, opened, alpha)) for alpha in alphas]
    assert 0 < sum(expected) < len(expected)
    torch.set_default_dtype(dtype)
    try:
        found = [
            bool(stopping.sequential(counts * UNITS, opened * UNITS, alpha, unit=UNITS, opened=12))
            for alpha in alphas
        ]
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == expected


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_region_of_no_size_casts_whole_votes(dtype: torch.dtype | None) -> None:
    model, x = linear(), inputs()
    x[0, 0] = 1 + 5e-7  # rounding, which is accepted and clamped
    vote = RegionClassifier(model, 0.0, m=4, stop=None, weights="distance", dtype=dtype).vote(x)
    assert torch.equal(vote.counts.sum(1), torch.full((len(x),), 4.0, dtype=vote.counts.dtype))


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
def test_auto_takes_the_models_own_precision_where_the_reduced_one_cannot_be(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "resolve_dtype", lambda dtype, device: BF16 if dtype == "auto" else dtype)
    model = linear()

    def of_numpy(points: Tensor) -> Tensor:
        return model(torch.from_numpy(points.numpy()))

    x = inputs().view(-1, *shape)
    vote = RegionClassifier(of_numpy, 0.1, m=50, dtype="auto", stop=None).vote(x)
    assert torch.equal(vote.counts, RegionClassifier(of_numpy, 0.1, m=50, stop=None).vote(x).counts)
    with pytest.raises(TypeError, match="BFloat16"):
        RegionClassifier(of_numpy, 0.1, m=50, dtype=BF16).vote(x)


class Delegating(nn.Module):
    """Answers for what it wraps, and does more in its pass."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: Tensor) -> Tensor:
        return -self.inner(x)


def test_a_wrapper_around_a_compiled_model_is_what_is_run() -> None:
    inner, x = linear(), inputs()
    wrapper = Delegating(torch.compile(inner, backend="eager")).eval()
    assert eager(wrapper) is wrapper
    assert eager(wrapper.inner) is inner
    assert torch.equal(RegionClassifier(wrapper, 0.01, m=20).predict(x), inner(x).argmin(1))


def test_of_many_shapes_few_are_kept_ready() -> None:
    def model(points: Tensor) -> Tensor:
        return torch.stack([points.flatten(1).mean(1), points.flatten(1).amax(1) / 2], 1)

    vote = RegionClassifier(model, 0.1, m=10)
    for n in range(3, 3 + 2 * engine.RUNNERS):
        vote.predict(torch.rand(2, n))
        vote.predict(torch.rand(2, 2))
    kept = vote._engine._runners
    assert len(kept) == engine.RUNNERS
    assert any(shape == (2,) for shape, _ in kept), "which is used all the time"


def test_a_chunk_that_is_given_takes_no_more_memory_than_is_used() -> None:
    vote = RegionClassifier(linear(), 0.1, m=10, chunk=10**9)
    vote.predict(inputs())
    (runner,) = vote._engine._runners.values()
    assert runner._buffer is not None
    assert runner._buffer.numel() <= engine.GROWTH * 5 * 10 * 6


class Lazy(Mapping[str, Any]):
    def __getitem__(self, name: str) -> Any:
        raise AssertionError("read")

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


ARCHIVE = Lazy()


def test_mappings_that_read_when_they_are_asked_are_left_alone() -> None:
    inner = linear()

    def model(points: Tensor) -> Tensor:
        return inner(points) * len(ARCHIVE)

    inner.archive = ARCHIVE
    assert len(RegionClassifier(model, 0.1, m=20).predict(inputs())) == 5
    assert len(RegionClassifier(inner, 0.1, m=20, dtype=BF16).predict(inputs())) == 5


@pytest.mark.skipif(
    ops.build_info()["instruction_set"] == "portable", reason="torch's convolutions are faster there"
)
def test_looking_at_another_model_ends_no_fused_one() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
    twin = fused(model)
    assert twin is not None
    with unseen_in_training(linear()):
        assert twin.refresh()


def test_nothing_is_recorded_under_the_callers_autocast() -> None:
    calls = Replays(lambda points: points, linear(), allowed=True)
    with torch.autocast("cpu", BF16):
        for _ in range(10):
            calls(inputs())
    assert not calls._seen
    calls(inputs())
    assert calls._seen
