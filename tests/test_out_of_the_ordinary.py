"""Networks and uses out of the ordinary, each of which went wrong once: votes, and attacks."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcfast import RegionClassifier, engine, ops
from rcfast.attacks import APGD, CWL0, CWL2, Adapted, CWLinf, DeepFool, OptMargin, RegionCW, Untargeted
from rcfast.attacks._moves import pixels, point
from rcfast.attacks.optmargin import orthogonal
from rcfast.fused import fused
from rcfast.graphs import Replays
from rcfast.running import eager, evaluating
from rcfast.running.modules import unseen_in_training

BF16 = torch.bfloat16


def linear(classes: int = 4, n: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(n, 16), nn.Tanh(), nn.Linear(16, classes)).eval()


def inputs(count: int = 5, n: int = 6) -> Tensor:
    return 0.2 + 0.6 * torch.rand(count, n, generator=torch.Generator().manual_seed(1))


def said(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


# ---- votes


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
    first, second = evaluating(model), evaluating(model)
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
        vote = RegionClassifier(model, 0.1, m=50, **options)
        usual = vote.vote(x)
        with torch.device("meta"):
            again = RegionClassifier(model, 0.1, m=50, **options).vote(x)
        assert torch.equal(again.counts, usual.counts)
    assert expected.counts.device.type == "cpu"


def test_the_default_dtype_of_torch_is_nobodys_business() -> None:
    model, x = linear(), inputs()
    usual = RegionClassifier(model, 0.1, m=50, weights="distance").vote(x)
    torch.set_default_dtype(torch.float64)
    try:
        again = RegionClassifier(model, 0.1, m=50, weights="distance").vote(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(again.counts, usual.counts)


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


# ---- attacks


class Sometimes(nn.Module):
    """NaN in one pass."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.inner, self.passes, self.at = linear(), 0, at

    def forward(self, x: Tensor) -> Tensor:
        self.passes += torch.is_grad_enabled()
        return self.inner(x) * (math.nan if self.passes == self.at else 1.0)


@pytest.mark.parametrize(
    "attack", [CWL0.fast(iterations=30), CWLinf.fast(iterations=30), CWL2.fast()], ids=repr
)
@pytest.mark.filterwarnings("ignore:the gradient of the model")
def test_logits_that_are_nan_in_one_pass_are_passed_over(attack: Any) -> None:
    x, model = inputs(), linear()
    with torch.no_grad():
        targets = model(x).topk(2).indices[:, 1]
    usual = attack(model, x, targets)
    found = attack(Sometimes(4).eval(), x, targets)
    assert usual.success.all()
    assert found.success.all()


def test_a_label_that_cannot_be_is_not_reached_and_hinders_nobody() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).index_fill(1, torch.tensor([3]), -math.inf)

    model, x = Masked().eval(), inputs()
    vote = RegionClassifier(model, 0.02, m=100)
    with torch.no_grad():
        targets = model(x).topk(2).indices[:, 1]
    attack = RegionCW.fast(steps=40, votes=100)
    alone = attack(vote, x, targets)
    both = attack(vote, x.repeat(2, 1), torch.cat([targets, torch.full_like(targets, 3)]))
    assert alone.success.any()
    assert torch.equal(both.success[:5], alone.success)
    assert not both.success[5:].any()
    torch.testing.assert_close(both.adversarial[:5], alone.adversarial, rtol=0, atol=1e-5)


def test_a_tie_is_left_by_the_least_noise() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 3, bias=False)).eval()
    x = torch.zeros(2, 6)
    found = RegionCW(steps=100)(model, x, torch.tensor([1, 2]))
    assert found.success.all()
    assert (found.noise.l2 < 0.2).all()


class Breaking(nn.Module):
    """NaN beyond a brightness, at label 1."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear(classes=3)

    def forward(self, x: Tensor) -> Tensor:
        broken = (x.mean(1) > 0.55)[:, None] & (torch.arange(3) == 1)
        return torch.where(broken, math.nan, self.inner(x) * 0.01 + x.mean(1, keepdim=True) * torch.eye(3)[2])


@pytest.mark.parametrize(
    "attack", [APGD(eps=0.3, steps=20), DeepFool(), Adapted(DeepFool(), 3.0)], ids=lambda a: type(a).__name__
)
@pytest.mark.filterwarnings("ignore:the gradient of the model")
def test_nan_is_no_success(attack: Any) -> None:
    model, x = Breaking().eval(), inputs() * 0.8
    labels = said(model, x)
    found = attack(model, x, labels)
    assert not model(found.adversarial[found.success]).isnan().any()
    for part in found.candidates:
        assert not model(part.adversarial[part.success]).isnan().any()


def test_on_a_plateau_c_is_not_infinite() -> None:
    attack = CWLinf(c_max=5.0)
    state = attack._start(torch.arange(2), torch.full((2, 3), 0.5), torch.zeros(2, dtype=torch.int64))
    state.solved[:] = True
    state.slope[:] = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert attack._least_c(state).tolist() == [5.0, attack._least_c(state)[1].item()]
    assert attack._least_c(state)[1] < 1


def test_looks_of_others_end_no_search() -> None:
    """170 iterations are no multiple of the four between looks: rows that begin anew have others at other steps."""
    x, model = inputs(12), linear()
    targets = (said(model, x) + 1 + torch.arange(12) % 3) % 4
    attack = CWL2(iterations=170, searches=4, c0=0.01, rate=0.05, precision="float32", forecast=False)
    whole = attack(model, x, targets)
    for i in range(12):
        alone = attack(model, x[i : i + 1], targets[i : i + 1])
        assert alone.queries.item() == whole.queries[i].item()
        torch.testing.assert_close(alone.noise.l2[0], whole.noise.l2[i], rtol=1e-4, atol=1e-6)


def test_labels_without_votes_are_ranked_by_the_network() -> None:
    model, x = linear(classes=40), inputs()
    labels = said(model, x)
    vote = RegionClassifier(model, 0.001, m=50)
    (targets,), _, passes = Untargeted(RegionCW.fast(), targets=1)._wanted(vote, x, labels, None)
    second = model(x).detach().scatter(1, labels[:, None], -math.inf).argmax(1)
    assert torch.equal(targets, second)
    assert (passes > 1).all()


def test_pixels_are_those_of_images_alone() -> None:
    assert pixels(torch.ones(2, 3, 4, 4)).shape == (2, 16)
    assert pixels(torch.ones(2, 4, 4)).shape == (2, 16)
    assert pixels(torch.ones(2, 7)).shape == (2, 7)
    x = torch.full((1, 4, 4), 0.5)
    direction = torch.zeros(1, 4, 4)
    direction[0, 1, 2] = 1.0
    assert int((point(0, x, direction, torch.ones(1)) != x).sum()) == 1


def test_directions_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, ids = inputs(7), torch.arange(7)
    whole = orthogonal(x, ids, 3, seed=5)
    monkeypatch.setattr("rcfast.attacks.optmargin.AT_ONCE", 2)
    assert torch.equal(orthogonal(x, ids, 3, seed=5), whole)
    assert OptMargin().directions == 19


def test_a_longer_noise_costs_what_its_vote_costs() -> None:
    model, x = linear(), inputs()
    vote = RegionClassifier(model, 0.05, m=60, stop=None)
    labels = said(model, x)
    of = CWL2.fast(searches=2, iterations=20)(model, x, (labels + 1) % 4)
    longer = Adapted(CWL2.fast(), 1.0)._of(of, vote, (labels + 1) % 4, limit=100)
    assert torch.equal(longer.queries, of.queries + 60)


def test_apgd_compares_its_last_iterate_and_not_the_best_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    usual = APGD._look

    def look(self: APGD, state: Any, interval: int) -> None:
        looked.append(interval)
        usual(self, state, interval)

    monkeypatch.setattr(APGD, "_look", look)
    model, x = linear(), inputs()
    APGD(eps=1e-4, steps=20)(model, x, said(model, x))
    assert sum(looked) < 20
