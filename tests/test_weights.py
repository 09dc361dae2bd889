"""Weighted votes: against means taken by hand, the same however they are cut, stopped no more wrongly than promised."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rcfast
from rcfast import Cube, Gaussian, L2Ball, RegionClassifier, Sphere, engine, learn_length, regions
from rcfast.ops import UNITS
from rcfast.stopping import StoppingRule, exact, leaders, sequential

NAMES = ["softmax", "margin", "distance"]


def network(seed: int = 0, labels: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, labels)).requires_grad_(
        False
    )


def exact_model(points: Tensor) -> Tensor:
    """Logits whose rounding does not depend on the number of rows, as those of matrix products do."""
    flat = points.flatten(1)
    return flat[:, :5] * 3 - flat[:, 5:10]


def images(batch: int = 6) -> Tensor:
    return torch.rand(batch, 3, 2, 2, generator=torch.Generator().manual_seed(3))


def confidence(logits: Tensor, points: Tensor, x: Tensor) -> Tensor:
    """A function as users write one: the probabilities of confident points, halved where a point is dark."""
    share = logits.float().softmax(-1)
    bright = points.float().flatten(2).mean(2) > x.flatten(1).mean(1)[:, None]
    return torch.where(bright[..., None], share, share / 2)


def by_hand(model: nn.Module, region: regions.Region, x: Tensor, m: int, weights: Any) -> Tensor:
    """Mean weights in float64, [B, L]."""
    points = regions.sample(x, region, m, seed=4)
    logits = model(points.flatten(0, 1)).unflatten(0, (len(x), m))
    share = logits.double().softmax(-1)
    chosen = nn.functional.one_hot(logits.argmax(-1), logits.shape[-1])
    top = share.topk(2).values
    if weights == "softmax":
        given = share
    elif weights == "margin":
        given = chosen * (top[..., :1] - top[..., 1:])
    elif weights == "distance":
        far = (points.double() - x[:, None]).flatten(2).norm(dim=2) / region.reach(x[0].numel())
        given = chosen * (1 - far).clamp(0, 1)[..., None]
    else:
        given = weights(logits, points, x).double()
    return given.mean(1)


@pytest.mark.parametrize("weights", [*NAMES, confidence])
@pytest.mark.parametrize("region", [Cube(0.4), Gaussian(0.5), L2Ball(1.0)], ids=repr)
def test_sums_are_those_by_hand(weights: Any, region: regions.Region) -> None:
    model, x = network(), images()
    votes = RegionClassifier(model, region, m=300, stop=None, seed=4, weights=weights).vote(x)
    wanted = by_hand(model, region, x, 300, weights)
    assert votes.counts.dtype == torch.float64
    torch.testing.assert_close(votes.counts / 300, wanted, rtol=0, atol=2e-6)
    assert torch.equal(votes.label, wanted.argmax(1))
    assert votes.samples.tolist() == [300] * 6
    assert votes.decided.all()


@pytest.mark.parametrize("weights", [*NAMES, confidence])
@pytest.mark.parametrize("stop", ["sequential", "exact", None])
def test_chunks_and_batches_leave_no_trace(weights: Any, stop: str | None) -> None:
    def make(chunk: int) -> RegionClassifier:
        return RegionClassifier(exact_model, Cube(0.4), m=200, stop=stop, weights=weights, chunk=chunk)

    x = images()
    whole = make(7).vote(x)
    for chunk in (64, 1000):
        votes = make(chunk).vote(x)
        assert torch.equal(votes.counts, whole.counts)
        assert torch.equal(votes.samples, whole.samples)
    order = torch.tensor([4, 0, 5])
    few = make(7).vote(x[order])
    assert torch.equal(few.counts, whole.counts[order])
    assert torch.equal(few.label, whole.label[order])


@pytest.mark.parametrize("weights", [*NAMES, confidence])
def test_exact_stops_at_the_label_of_all_points(weights: Any) -> None:
    for seed in range(4):
        model, x = network(seed), images(20)
        all_of_them = RegionClassifier(model, Cube(0.6), m=150, stop=None, weights=weights).vote(x)
        stopped = RegionClassifier(model, Cube(0.6), m=150, stop="exact", weights=weights).vote(x)
        assert torch.equal(stopped.label, all_of_them.label)
        assert (stopped.samples <= 150).all()
    if weights == "softmax":
        scale = torch.tensor([0.0, 99.0])
        sure = RegionClassifier(lambda p: p.flatten(1)[:, :2] * scale, 0.1, stop="exact", weights=weights)
        assert sure.vote(torch.full((1, 3, 2, 2), 0.5)).samples.item() == 501


def test_sequential_is_as_fast_on_certain_points() -> None:
    """Weights of nearly 1 are votes: 12 unanimous points do, or a checkpoint later."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
    for weights in ("softmax", "margin"):
        votes = RegionClassifier(model, 0.3, weights=weights).vote(images())
        assert votes.decided.all()
        assert votes.samples.max() <= 15
        assert votes.label.tolist() == [1] * 6


# --- the rules --------------------------------------------------------------------------------------------------------


def test_whole_weights_are_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 60, (4000, 4), generator=generator)
    opening = (counts * torch.rand(counts.shape, generator=generator)).long()
    opening[:, 0] += 12 - opening.sum(1).clamp(max=12)
    opening = opening[opening.sum(1) == 12]
    counts = counts[: len(opening)]
    found = sequential(counts * UNITS, opening * UNITS, 1e-2, unit=UNITS, opened=12)
    assert torch.equal(found, sequential(counts, opening, 1e-2))
    for remaining in (0, 1, 30):
        assert torch.equal(exact(counts * UNITS, remaining * UNITS), exact(counts, remaining))


def test_leaders_of_large_sums() -> None:
    sums = torch.tensor([[2**54, 2**54, 1], [2**54, 2**54 + 1, 2**54], [0, 5, 5]])
    a, b, surplus = leaders(sums)
    assert a.tolist() == [2**54, 2**54 + 1, 5]
    assert b.tolist() == [2**54, 2**54, 5]
    assert surplus.tolist() == [0, 0, 0]  # label 0 or 1 would win the ties of the second row


CASES = {  # means of equal size at labels 0 and 1, so that label 1 is wrong as often as not: the test's worst case
    "soft": lambda u, v: torch.stack([u, 1 - u, torch.zeros_like(u)], -1),
    "rare": lambda u, v: torch.stack([(u < 0.1) * v, ((u > 0.1) & (u < 0.2)) * v, (u > 0.2) * 0.04], -1),
    "hard": lambda u, v: torch.stack([(u < 0.5) * 1.0, (u >= 0.5) * 1.0, 0 * u], -1),
    "skewed": lambda u, v: torch.stack([(u < 0.1) * 0.9, (u >= 0.1) * 0.1, 0 * u], -1),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_label_is_accepted_at_most_at_alpha(case: str) -> None:
    """10^4 votes between labels of equal mean weight: how often a test of 5% ever accepts label 1, whose mean we lower.

    Label 0's mean is the largest by a hair; accepting 1 is the error.
    """
    generator, alpha, m, trials = torch.Generator().manual_seed(7), 0.05, 400, 10_000
    rule = StoppingRule("sequential", m, 3, alpha, unit=UNITS)
    totals = torch.zeros(trials, 3, dtype=torch.int64)
    wrong, first, opening = torch.zeros(trials, dtype=torch.bool), 0, totals
    for last in rule.checkpoints():
        u, v = torch.rand(2, trials, last - first, generator=generator)
        given = CASES[case](u, v)
        given[..., 1] *= 0.999
        totals = totals + (given * UNITS).long().sum(1)
        opening = totals if first == 0 else opening
        accepted = sequential(totals, opening, alpha, unit=UNITS, opened=rule.checkpoints()[0])
        wrong |= accepted & (totals.argmax(1) != 0)
        first = last
    assert wrong.float().mean() <= alpha
    if case == "hard":  # as often as a test at alpha does that can err on either side
        assert wrong.float().mean() > alpha / 20


# --- learning r, bad input ------------------------------------------------------------------------------------------


def test_learning_with_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    x, model = torch.rand(80, 3, 2, 2, generator=generator), network()
    y = model(x).argmax(1)
    options: dict[str, Any] = {"m": 100, "step": 0.1, "r_max": 0.6, "curve": True}
    for weights in (*NAMES, confidence):
        found = learn_length(model, x, y, weights=weights, **options)
        last = RegionClassifier(model, 0.6, m=100, stop="exact", weights=weights).predict(x)
        assert found.accuracy[-1] == pytest.approx(float((last == y).float().mean()))


BAD = [
    (
        lambda: RegionClassifier(network(), 0.1, weights="loud"),
        ValueError,
        "weights must be one of 'count', 'softmax'",
    ),
    (
        lambda: RegionClassifier(network(), 0.1, weights=3),
        TypeError,
        "weights must be a name or a function, got 3",
    ),
    (
        lambda: RegionClassifier(network(), Sphere(0.1), weights="distance"),
        ValueError,
        "weights = 'distance' tells nothing where all points are equally far, as in Sphere(r=0.1",
    ),
    (
        lambda: RegionClassifier(network(), 0.1, weights="softmax").tally(images(), 0, 5),
        ValueError,
        "a tally counts labels: weights must be 'count', got 'softmax'",
    ),
    (
        lambda: RegionClassifier(network(), Gaussian(0.1), weights="margin").certify(images()),
        ValueError,
        "a certificate counts labels: weights must be 'count', got 'margin'",
    ),
    (
        lambda: RegionClassifier(network(), 0.1, weights=lambda z, p, x: z.softmax(-1) * 2).vote(images()),
        ValueError,
        "weights must return weights >= 0 of which a point gives at most 1 in all",
    ),
    (
        lambda: RegionClassifier(network(), 0.1, weights=lambda z, p, x: z - z.amax() - 1).vote(images()),
        ValueError,
        "weights must return weights >= 0",
    ),
    (
        lambda: RegionClassifier(network(), 0.1, weights=lambda z, p, x: z[..., 0]).vote(images()),
        ValueError,
        "weights must return a tensor of shape [",
    ),
    (
        lambda: learn_length(
            network(), images(), torch.zeros(6, dtype=torch.int64), region=rcfast.Sphere, weights="distance"
        ),
        ValueError,
        "tells nothing where all points are equally far",
    ),
    (
        lambda: RegionClassifier(lambda p: p.flatten(1) * float("nan"), 0.1, weights="softmax").vote(
            images()
        ),
        ValueError,
        "model must not return NaN, got NaN logits at",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD, ids=[message[:50] for *_, message in BAD])
def test_bad_input(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)


def test_what_lies_beyond_the_end_of_a_vote_is_nobodys_business(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN at a late point, drawn in the round in which the vote ends or not at all."""
    x, seen = images(1), []

    def certain(points: Tensor) -> Tensor:
        seen.append(points.flatten(1).clone())
        return torch.tensor([[0.0, 50.0]]).repeat(len(points), 1)

    RegionClassifier(certain, 0.1, stop=None, chunk=1000).vote(x)
    rare = seen[-1][500, 0]
    assert len(seen[-1]) == 1000
    assert (seen[-1][:, 0] == rare).sum() == 1

    def model(points: Tensor) -> Tensor:
        return certain(points).masked_fill(points.flatten(1)[:, :1] == rare, float("nan"))

    for free in (0, 1000):
        monkeypatch.setattr(engine.Runner, "free_rows", property(lambda self, free=free: free))
        votes = RegionClassifier(model, 0.1, weights="softmax").vote(x)
        assert votes.decided.all()
        assert votes.samples.item() < 500
