"""Regions as objects: they print, compare and hash by value, refuse what does not fit, and know their derivative."""

import json
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rcfast
from rcfast import (
    Cube,
    Gaussian,
    L1Ball,
    L2Ball,
    Laplace,
    RegionClassifier,
    Sphere,
    learn_length,
    regions,
)
from rcfast.regions import Region

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


BAD = [
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
