"""Regions as objects: they print, compare and hash by value, refuse what does not fit, and know their derivative."""

import json
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

import rcfast
from rcfast import (
    Cube,
    Decoded,
    Gaussian,
    L1Ball,
    L2Ball,
    Laplace,
    RegionClassifier,
    Sphere,
    Subspace,
    learn_length,
    regions,
)
from rcfast.regions import Region


def encode(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :4] * 2


def decode(codes: Tensor) -> Tensor:
    return torch.nn.functional.pad(codes / 2, (0, 6)).unflatten(1, (2, 5)) + 0.25


X = torch.rand(3, 2, 5, generator=torch.Generator().manual_seed(1))
X[0, 0], X[1, 1] = 0.0, 1.0
IDS = torch.tensor([5, -7, 2**60])
ADDRESS: dict[str, Any] = {"seed": 3, "example_ids": IDS, "first_sample": 4}
REGIONS: list[Region] = [
    Cube(0.3),
    Cube(0.3, clip="clamp"),
    Cube(torch.tensor([0.1, 0.0, 2.0])),
    Gaussian(0.3),
    Gaussian(torch.tensor([0.1, 0.5, 2.0]), clip="clamp"),
    Laplace(0.3),
    L2Ball(0.7),
    L2Ball(torch.tensor([0.1, 0.0, 2.0]), clip="clamp"),
    L1Ball(1.5),
    Sphere(1.2),
    Subspace(0.3, torch.eye(10)[[1, 4, 7]]),
    Subspace(torch.tensor([0.1, 0.0, 2.0]), regions.principal_components(X, 2), clip=None),
    Decoded(0.4, encode, decode),
]


def model(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :3]


def each(region: Region) -> Region:
    """The same region with one size per example."""
    return region if isinstance(region.size, Tensor) else region.resized(torch.full((3,), region.size))


@pytest.mark.parametrize("region", REGIONS, ids=repr)
def test_values(region: Region) -> None:
    twin = pickle.loads(pickle.dumps(region))
    assert twin == region
    assert hash(twin) == hash(region)
    assert region.resized(0.123) != region
    assert json.loads(json.dumps(region.identity()))["region"] == type(region).__name__
    with pytest.raises(AttributeError):
        setattr(region, region.SIZE, 0.5)
    assert getattr(rcfast, type(region).__name__) is type(region)


@pytest.mark.parametrize("region", REGIONS, ids=repr)
def test_one_size_each_is_the_same_region(region: Region) -> None:
    points = regions.sample(X, region, 6, seed=9, example_ids=IDS)
    assert torch.equal(regions.sample(X, each(region), 6, seed=9, example_ids=IDS), points)
    some = torch.tensor([2, 0])
    few = regions.sample(X[some], each(region).take(some), 6, seed=9, example_ids=IDS[some])
    assert torch.equal(few, points[some])


@pytest.mark.parametrize("region", REGIONS, ids=repr)
def test_the_vote_is_taken_on_these_points(region: Region) -> None:
    votes = RegionClassifier(model, region, m=50, stop=None, seed=9, chunk=7).vote(X, example_ids=IDS)
    points = regions.sample(X, region, 50, seed=9, example_ids=IDS)
    labels = model(points.flatten(0, 1)).argmax(1).view(3, 50)
    assert torch.equal(votes.counts, torch.stack([torch.bincount(row, minlength=3) for row in labels]).int())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("region", REGIONS, ids=repr)
def test_vjp_is_the_derivative(region: Region, dtype: torch.dtype) -> None:
    """Against differences: points are piecewise linear in x, so that a step of 2^-10 finds the slope."""
    region = each(region)
    points = torch.empty(3, 8, 2, 5)
    region.fill(points, X, **ADDRESS)
    grad = torch.randn(points.shape, generator=torch.Generator().manual_seed(2))
    found = region.vjp(X, points.to(dtype), grad.to(dtype), **ADDRESS)
    assert found.shape == X.shape
    assert found.dtype == torch.float32
    step = 2.0**-10
    lower, upper = torch.empty_like(points), torch.empty_like(points)
    region.fill(lower, X - step, **ADDRESS)
    region.fill(upper, X + step, **ADDRESS)
    smooth = ((upper - points) - (points - lower)).abs() < 1e-6  # no kink within the step
    expected = (torch.where(smooth, (upper - lower) / (2 * step) * grad, 0)).sum(1)
    found = region.vjp(X, points.to(dtype), torch.where(smooth, grad, 0).to(dtype), **ADDRESS)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3 if dtype == torch.float32 else 5e-2)


def test_a_number_is_a_cube() -> None:
    rc = RegionClassifier(model, 0.3, clip="clamp")
    assert rc.region == RegionClassifier(model, r=0.3, clip="clamp").region == Cube(0.3, clip="clamp")
    assert (rc.r, rc.clip) == (0.3, "clamp")
    rc.r = torch.tensor([0.1, 0.2, 0.3])
    assert rc.region == Cube(torch.tensor([0.1, 0.2, 0.3]), clip="clamp")
    assert repr(rc.region) == "Cube(r=[3 lengths], clip='clamp')"


def test_families() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(60, 6, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    network = nn.Linear(6, 3)
    with torch.no_grad():
        y[:40] = network(x[:40]).argmax(1)
    options: dict[str, Any] = {"m": 60, "step": 0.05, "r_max": 0.6, "curve": True, "tolerance": 0.1}
    plain = learn_length(network, x, y, clip="clamp", **options)
    assert learn_length(network, x, y, region=partial(Cube, clip="clamp"), **options) == plain
    clips = ("clamp", "intersect")  # not one region in several sizes: scored one by one
    mixed = learn_length(network, x, y, region=lambda r: Cube(r, clips[round(r / 0.05) % 2]), **options)
    assert mixed.accuracy[2::2] == plain.accuracy[2::2]


def test_points_of_a_subspace() -> None:
    """In the span and in the cube; along every direction spread as a uniform point is; the same from any order."""
    generator = torch.Generator().manual_seed(5)
    x, k = torch.rand(2, 3, 4, 4, generator=generator), 5
    components = torch.linalg.qr(torch.randn(48, k, generator=generator)).Q.T
    region = Subspace(torch.tensor([0.05, 2.0]), components, clip=None)
    points = regions.sample(x, region, 4000, seed=1)
    moves = (points - x[:, None]).flatten(2).double()
    part = moves @ components.double().T
    assert (moves - part @ components.double()).abs().max() < 1e-6
    greatest = moves.abs().amax(2) / torch.tensor([[0.05], [2.0]])
    for row in greatest:  # |b|^k of a uniform point of a ball is uniform
        assert kstest(row.numpy() ** k, "uniform").pvalue > 1e-4
        assert row.max() <= 1 + 1e-5
    way = part / part.norm(dim=2, keepdim=True)
    assert way.mean(1).abs().max() < 5 / (k * 4000) ** 0.5
    assert kstest(way[0, :, 0].numpy() ** 2, "beta", (0.5, (k - 1) / 2)).pvalue > 1e-4

    inside = regions.sample(x, region.resized(0.7), 100, seed=1)
    clamped = regions.sample(x, Subspace(0.7, components), 100, seed=1)
    assert torch.equal(clamped, inside.clamp(0, 1))
    few = regions.sample(x, Subspace(0.7, components), 7, seed=1, first_sample=31, dtype=torch.bfloat16)
    assert torch.equal(few, clamped[:, 31:38].bfloat16())
    last = torch.empty(2, 100, 4, 4, 3).movedim(-1, 2)
    ids = regions.content_ids(x)
    Subspace(0.7, components).fill(last, x, seed=1, example_ids=ids, first_sample=0)
    assert torch.equal(last, clamped)
    exact = Subspace(0.7, components).components * 2**28
    assert torch.equal(exact, exact.round())


def test_principal_components_are_those_of_an_svd() -> None:
    x = torch.randn(200, 2, 6, generator=torch.Generator().manual_seed(0)) * torch.linspace(3, 1, 12).view(
        2, 6
    )
    flat = x.flatten(1).double()
    wanted = torch.linalg.svd(flat - flat.mean(0)).Vh[:4]
    found = regions.principal_components(x, 4)
    torch.testing.assert_close((found * wanted).sum(1).abs(), torch.ones(4).double())


def test_codes_of_a_decoder_fill_a_ball() -> None:
    points = regions.sample(X, Decoded(0.4, encode, decode, clip=None), 3000, seed=2)
    codes = (points.flatten(2)[..., :4] - 0.25) * 2 - encode(X)[:, None]
    distance = codes.double().norm(dim=2) / 0.4
    assert distance.max() <= 1 + 1e-5
    assert kstest(distance[0].numpy() ** 4, "uniform").pvalue > 1e-4
    assert Decoded(0.4, encode, decode) != Decoded(0.4, encode, lambda c: decode(c))


BAD = [
    (
        lambda: Subspace(0.1, torch.ones(2, 4)),
        ValueError,
        "components must be orthonormal, got products that",
    ),
    (
        lambda: Subspace(0.1, torch.eye(3).int()),
        TypeError,
        "components must be a floating tensor [k, ...], got",
    ),
    (lambda: Subspace(0.1, torch.eye(4)[:3].T), ValueError, "components must have the shape [k, ...]"),
    (lambda: Subspace(-1.0, torch.eye(4)), ValueError, "r must be finite and >= 0, got -1.0"),
    (lambda: Subspace(0.1, torch.eye(4), clip="intersect"), ValueError, "clip must be None or 'clamp'"),
    (
        lambda: RegionClassifier(model, Subspace(0.1, torch.eye(4))).vote(X),
        ValueError,
        "components must have the 10 coordinates of an example, got 4",
    ),
    (lambda: regions.principal_components(X, 11), ValueError, "k must lie in [1, 10], got 11"),
    (lambda: Decoded(0.1, encode, 3), TypeError, "decode must be callable, got 3"),
    (
        lambda: regions.sample(X, Decoded(0.1, encode, encode), 3),
        ValueError,
        "decode must return points of shape [9, 2, 5], got [9, 4]",
    ),
    (
        lambda: RegionClassifier(model, Subspace(0.1, torch.eye(10)), weights="distance"),
        ValueError,
        "weights = 'distance' needs a region that has a reach",
    ),
    (lambda: RegionClassifier(model, 0.3, r=0.3), TypeError, "give a region or a length r, got both"),
    (lambda: RegionClassifier(model, Cube(0.3), clip="clamp"), ValueError, "clip belongs to a length r"),
    (lambda: Cube(-1.0), ValueError, "r must be finite and >= 0, got -1.0"),
    (lambda: Gaussian(0.0), ValueError, "sigma must be finite and > 0, got 0.0"),
    (
        lambda: Gaussian(torch.tensor([0.1, -1.0])),
        ValueError,
        "sigma must be finite and > 0, got -1.0 at index 1",
    ),
    (lambda: Laplace(-2), ValueError, "scale must be finite and > 0, got -2.0"),
    (lambda: Laplace("wide"), TypeError, "scale must be a number or a floating tensor [B], got 'wide'"),
    (lambda: L2Ball(float("nan")), ValueError, "r must be finite and >= 0, got nan"),
    (lambda: Sphere(float("inf")), ValueError, "r must be finite and >= 0, got inf"),
    (lambda: L1Ball(1.0, clip="intersect"), ValueError, "clip must be None or 'clamp', got 'intersect'"),
    (lambda: Cube(0.1, clip="wrap"), ValueError, "clip must be one of 'intersect', 'clamp', got 'wrap'"),
    (
        lambda: learn_length(model, X, torch.zeros(3, dtype=torch.int64), region=Cube(0.3)),
        TypeError,
        "region must be a family such as rcfast.Cube, from a size to a region, got Cube(r=0.3",
    ),
    (
        lambda: learn_length(model, X, torch.zeros(3, dtype=torch.int64), region=lambda r: r),
        TypeError,
        "region must make a region of a size, got 0.01 for the size 0.01",
    ),
    (
        lambda: learn_length(
            model, X, torch.zeros(3, dtype=torch.int64), region=lambda r: Cube(r), clip="clamp"
        ),
        ValueError,
        "clip belongs to rcfast.Cube, got clip = 'clamp'",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD, ids=[message[:40] for *_, message in BAD])
def test_bad_input(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)
