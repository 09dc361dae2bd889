"""The classifier, against literal votes, closed forms, and itself under every way of cutting the work."""

import copy
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from rcfast import reference, regions
from rcfast.classifier import RegionClassifier, Votes
from rcfast.rounds import _group, _piece


class Shift(nn.Module):
    """Logits are the first L coordinates plus an offset: the same bits for any number of rows."""

    def __init__(self, labels: int = 4) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.linspace(0.0, 0.05, labels))
        self.rows: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        return x.flatten(1)[:, : len(self.offset)] + self.offset.to(x.dtype)


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(288, 10),
    ]
    return nn.Sequential(*layers)


def images(batch: int = 12, seed: int = 1) -> Tensor:
    return torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def literal(rc: RegionClassifier, x: Tensor, samples: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Counts [B, L] of all the samples of every example, one example at a time, in plain torch."""
    rows = []
    for example in x:
        ids = regions.content_ids(example[None])
        options: dict[str, Any] = {"seed": rc.seed, "example_ids": ids, "clip": rc.clip, "dtype": dtype}
        points = reference.sample_hypercube(example[None].float(), rc.r, samples, **options)
        with torch.no_grad():
            labels = copy.deepcopy(rc.model).eval().to(dtype)(points[0]).argmax(1)
        rows.append(torch.bincount(labels, minlength=4))
    return torch.stack(rows).to(torch.int32)


def same(a: Votes, b: Votes) -> bool:
    return all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("counts", "label", "samples", "decided")
    )


# --- what a vote is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", ["intersect", "clamp"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_votes_are_the_literal_ones(clip: Any, dtype: torch.dtype | None) -> None:
    x = images(5)
    rc = RegionClassifier(Shift(), 0.3, m=137, stop=None, clip=clip, dtype=dtype, seed=5)
    votes = rc.vote(x)
    assert torch.equal(votes.counts, literal(rc, x, 137, dtype or torch.float32))
    assert votes.label.tolist() == [row.index(max(row)) for row in votes.counts.tolist()]
    assert votes.samples.tolist() == [137] * 5


@pytest.mark.parametrize("stop", ["sequential", "exact"])
def test_a_stopped_vote_is_the_beginning_of_the_whole_one(stop: str) -> None:
    x = images(8)
    rc = RegionClassifier(Shift(), 0.4, m=300, stop=stop)
    votes = rc.vote(x)
    assert len(votes.samples.unique()) > 1
    for k in range(len(x)):
        assert torch.equal(votes.counts[k], literal(rc, x[k : k + 1], int(votes.samples[k]))[0])


@pytest.mark.parametrize(
    ("clip", "r", "x0"), [("intersect", 0.3, 0.1), ("clamp", 0.3, 0.1), ("intersect", 2.0, 0.5)]
)
def test_shares_are_those_of_the_region(clip: Any, r: float, x0: float) -> None:
    threshold, m = 0.15, 40_000
    low, high = max(0.0, x0 - r), min(1.0, x0 + r)
    share = (high - threshold) / (high - low) if clip == "intersect" else (x0 + r - threshold) / (2 * r)
    rc = RegionClassifier(
        lambda p: torch.stack([threshold - p[:, 0], p[:, 0] - threshold], 1), r, m=m, clip=clip, stop=None
    )
    votes = int(rc.vote(torch.full((1, 3), x0)).counts[0, 1])
    assert stats.binomtest(votes, m, share).pvalue > 1e-4


def test_at_length_zero_it_is_the_model() -> None:
    x, net = images(50), conv_net().eval()
    assert torch.equal(RegionClassifier(net, 0.0, m=1).predict(x), net(x).argmax(1))
    votes = RegionClassifier(net, 0.0).vote(x)
    assert (votes.samples == 12).all()
    assert (votes.share == 1).all()


def test_ties_go_to_the_lowest_label() -> None:
    votes = RegionClassifier(lambda p: torch.zeros(len(p), 3), 0.1, m=50).vote(images(2))
    assert votes.counts.tolist() == [[votes.samples[0], 0, 0]] * 2
    even = RegionClassifier(lambda p: torch.stack([p[:, 0] - 0.5, 0.5 - p[:, 0]], 1), 0.5, m=2, stop=None)
    tied = even.vote(torch.full((200, 1), 0.5), example_ids=torch.arange(200))
    where = (tied.counts == 1).all(1)
    assert where.any()
    assert (tied.label[where] == 0).all()


def test_exact_always_gives_the_label_of_all_votes() -> None:
    x = images(60)
    full = RegionClassifier(conv_net(), 0.5, m=200, stop=None).vote(x)
    exact = RegionClassifier(conv_net(), 0.5, m=200, stop="exact").vote(x)
    assert torch.equal(exact.label, full.label)
    assert exact.decided.all()
    assert exact.samples.min() < 200


def test_undecided_where_m_runs_out() -> None:
    coin = RegionClassifier(lambda p: torch.stack([p[:, 0] - 0.5, 0.5 - p[:, 0]], 1), 0.5, m=100)
    votes = coin.vote(torch.full((20, 1), 0.5), example_ids=torch.arange(20))
    assert not votes.decided.all()
    assert (votes.samples[~votes.decided] > 50).all()
    assert coin.vote(torch.full((1, 1), 0.5), m=1).samples.tolist() == [1]


# --- the same votes whatever the cut ------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", ["sequential", "exact", None])
def test_chunk_changes_nothing_and_is_never_exceeded(stop: str | None) -> None:
    x, votes = images(9), []
    for chunk in (1, 7, 32, 1000, None):
        model = Shift()
        votes.append(RegionClassifier(model, 0.3, m=150, stop=stop, chunk=chunk).vote(x))
        assert same(votes[0], votes[-1])
        if chunk:
            assert max(model.rows) <= chunk


def test_batch_order_and_company_change_nothing() -> None:
    x = images(20)
    rc = RegionClassifier(Shift(), 0.3, m=200)
    whole = rc.vote(x)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = rc.vote(x[order])
    assert torch.equal(shuffled.counts, whole.counts[order])
    alone = [rc.vote(x[k : k + 1]) for k in range(20)]
    assert torch.equal(torch.cat([v.counts for v in alone]), whole.counts)
    twice = rc.vote(torch.cat([x[:1], x[:1]]))
    assert torch.equal(twice.counts[0], twice.counts[1])


def test_threads_and_memory_format_change_nothing() -> None:
    x = images(6).expand(6, 3, 8, 8).contiguous()
    rc = RegionClassifier(Shift(), 0.3, m=200)
    expected, threads = rc.vote(x), torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert same(rc.vote(x), expected)
    finally:
        torch.set_num_threads(threads)
    assert same(rc.vote(x.to(memory_format=torch.channels_last)), expected)
    assert same(rc.vote(x.transpose(2, 3).contiguous().transpose(2, 3)), expected)
    assert same(RegionClassifier(Shift(), torch.full((6,), 0.3), m=200).vote(x), expected)


def test_each_example_may_have_its_own_length() -> None:
    x = images(3)
    lengths = torch.tensor([0.0, 0.1, 0.7])
    together = RegionClassifier(Shift(), lengths, m=100, stop=None).vote(x)
    for k, r in enumerate(lengths.tolist()):
        alone = RegionClassifier(Shift(), r, m=100, stop=None).vote(x[k : k + 1])
        assert torch.equal(together.counts[k], alone.counts[0])


def test_ids_and_seed_address_the_points() -> None:
    x = images(4)
    rc = RegionClassifier(Shift(), 0.3, m=100, stop=None)
    assert same(rc.vote(x), rc.vote(x, example_ids=regions.content_ids(x)))
    assert not torch.equal(rc.vote(x).counts, rc.vote(x, example_ids=torch.arange(4)).counts)
    assert not torch.equal(
        rc.vote(x).counts, RegionClassifier(Shift(), 0.3, m=100, stop=None, seed=1).vote(x).counts
    )


def test_votes_from_two_threads() -> None:
    x, rc, got = images(30), RegionClassifier(Shift(), 0.3, m=500), []
    expected = RegionClassifier(Shift(), 0.3, m=500).vote(x)
    workers = [threading.Thread(target=lambda: got.append(rc.vote(x))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(got) == 4
    assert all(same(votes, expected) for votes in got)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floating_inputs_count_as_their_float32(dtype: torch.dtype) -> None:
    x, rc = images(5).to(dtype), RegionClassifier(Shift(), 0.3, m=100)
    assert same(rc.vote(x), rc.vote(x.float()))


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (0, 5), (1, 1, 8, 8), (3, 5), (2, 3, 4, 5, 6), (1, 4)])
def test_shapes(shape: tuple[int, ...]) -> None:
    votes = RegionClassifier(Shift(), 0.2, m=30).vote(torch.rand(shape))
    assert votes.counts.shape == (shape[0], 4)
    assert votes.counts.dtype == torch.int32
    assert votes.label.dtype == votes.samples.dtype == torch.int64
    assert votes.label.shape == votes.samples.shape == votes.decided.shape == (shape[0],)
    assert len(votes) == shape[0]


def test_groups_fill_the_chunk() -> None:
    for rows in (1, 16, 32, 128, 1000):
        for samples in (1, 5, 18, 31, 127, 1000):
            group = _group(10_000, samples, rows)
            piece = _piece(samples, rows // group)
            assert group * piece <= rows
            assert group * piece >= 0.6 * min(rows, 10_000 * samples)
            assert 1 <= piece <= samples


# --- ids ----------------------------------------------------------------------------------------------------------


def test_content_ids_are_the_documented_hash() -> None:
    mask = (1 << 64) - 1

    def splitmix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    x = images(3)
    for example, got in zip(x, regions.content_ids(x).tolist(), strict=True):
        total = 0
        for position, word in enumerate(example.reshape(-1).view(torch.int32).tolist(), start=1):
            z = (word + splitmix(position * 0x9E3779B97F4A7C15 & mask)) * 0xD6E8FEB86659FD93 & mask
            total += (z ^ (z >> 32)) * 0xD6E8FEB86659FD93
        assert got & mask == splitmix((total + 64) & mask)


def test_content_ids_tell_neighbours_apart() -> None:
    pixels = torch.randint(0, 2, (20_000, 30), generator=torch.Generator().manual_seed(0)).float()
    distinct = len(pixels.unique(dim=0))
    assert len(regions.content_ids(pixels).unique()) == distinct
    one_changed = torch.zeros(1000, 1000) + torch.eye(1000)
    assert len(regions.content_ids(one_changed).unique()) == 1000
    assert torch.equal(
        regions.content_ids(torch.tensor([[-0.0, 0.0]])), regions.content_ids(torch.zeros(1, 2))
    )
    bits = regions.content_ids(one_changed)[:, None] >> torch.arange(64) & 1
    assert (bits.double().mean(0) - 0.5).abs().max() < 5 * 0.5 / math.sqrt(1000)


def test_sample_gives_the_points_of_the_vote() -> None:
    x = images(3)
    rc = RegionClassifier(Shift(), 0.3, m=64, stop=None, seed=9, clip="clamp")
    points = regions.sample(x, 0.3, 64, seed=9, clip="clamp")
    labels = Shift()(points.flatten(0, 1)).view(3, 64, 4).argmax(-1)
    assert torch.equal(torch.nn.functional.one_hot(labels, 4).sum(1).int(), rc.vote(x).counts)
    assert torch.equal(regions.sample(x, 0.3, 4, seed=9, clip="clamp", first_sample=60), points[:, 60:])


# --- on real digits -----------------------------------------------------------------------------------------------


@pytest.mark.mnist
@pytest.mark.slow
def test_stopping_on_mnist(data_root: Path) -> None:
    """Four hundred test images, r = 0.3: exact equals all m votes; sequential errs at most alpha, and saves."""
    with np.load(data_root / "mnist.npz") as data:
        train, labels = (
            torch.from_numpy(data["x_train"][:8000]),
            torch.from_numpy(data["y_train"][:8000]).long(),
        )
        x = torch.from_numpy(data["x_test"][:400])[:, None] / 255
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 5, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for batch in torch.arange(8000).repeat(3).split(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train[batch, None] / 255), labels[batch]).backward()
        optimizer.step()
    full = RegionClassifier(model, 0.3, m=1000, stop=None, chunk=256).vote(x)
    exact = RegionClassifier(model, 0.3, m=1000, stop="exact", chunk=256).vote(x)
    sequential = RegionClassifier(model, 0.3, m=1000, chunk=256).vote(x)
    print(
        f"samples: exact {exact.samples.double().mean():.1f}, sequential {sequential.samples.double().mean():.1f}"
    )
    assert torch.equal(exact.label, full.label)
    assert (exact.samples >= 500).all()
    # The largest share itself is unknown: ten thousand other votes decide it where they can.
    shares = RegionClassifier(model, 0.3, m=10_000, seed=1, chunk=256).vote(x)
    assert shares.decided.float().mean() > 0.95
    wrong = shares.decided & sequential.decided & (shares.label != sequential.label)
    assert wrong.sum() <= stats.binom.isf(1e-4, 400, 2e-3)
    assert (sequential.label == full.label)[sequential.decided].float().mean() >= 0.99
    assert sequential.samples.double().mean() < 120
    assert (sequential.samples == 12).float().mean() > 0.5
