"""rcfast.certify on models whose shares are known: what is proven, how early, on which lattice, what is refused."""

import math

import pytest
import torch
from scipy import stats

from rcfast import Cube, Gaussian, L1Ball, L2Ball, Laplace, RegionClassifier, Sphere, certify
from rcfast.certificates import bounds, share_needed
from rcfast.certificates.grid import LatticeCube
from rcfast.regions import sample


def half_space(x):
    """Label 1 where the first coordinate is above 0.5: the share of a cube is linear in that coordinate."""
    first = x.flatten(1)[:, :1]
    return torch.cat([0.5 - first, first - 0.5], 1)


def at(*values: float) -> torch.Tensor:
    x = torch.full((len(values), 1, 2, 2), 128 / 255)
    x[:, 0, 0, 0] = torch.tensor(values)
    return x


CLAMPED = Cube(0.25, clip="clamp")


def test_radius_is_below_the_true_distance_and_near_it():
    x = at(0.6, 0.7, 0.72, 0.3)
    found = certify(half_space, x, region=CLAMPED, n=50_000)
    distance = (x[:, 0, 0, 0] - 0.5).abs().double()
    assert found.label.tolist() == [1, 1, 1, 0]
    assert (found.radius < distance).all()
    assert (found.radius > distance - 0.01).all()
    assert found.samples.tolist() == [50_100] * 4
    assert (found.norm, found.arithmetic, len(found)) == ("L1", "real", 4)
    torch.testing.assert_close(found.radii["Linf"] * 2, found.radii["L2"])


def test_bounds_are_those_of_the_fresh_points():
    x, n, n0 = at(0.6, 0.55), 2000, 50
    region = RegionClassifier(half_space, CLAMPED)
    found = region.certify(x, n=n, n0=n0, alpha=0.01)
    votes = region.tally(x, n0, n0 + n)
    assert votes.sum(1).tolist() == [n, n]
    expected = bounds.clopper_pearson(votes[:, 1].numpy(), n, 0.01)
    assert found.lower.tolist() == pytest.approx(expected.tolist())
    assert found.radius.tolist() == pytest.approx((0.25 * (2 * expected - 1)).tolist())
    torch.testing.assert_close(region.tally(x, 0, 30) + region.tally(x, 30, 100), region.tally(x, 0, 100))


def test_near_the_boundary_it_abstains():
    found = certify(half_space, at(0.5), region=CLAMPED, n=1000)
    assert found.abstained.tolist() == [True]
    assert found.radius.tolist() == [0]


def test_examples_do_not_depend_on_the_batch():
    x = at(0.55, 0.62, 0.71, 0.3)
    together = certify(half_space, x, region=CLAMPED, n=3000, gain=0.1)
    for i in range(len(x)):
        alone = certify(half_space, x[i : i + 1], region=CLAMPED, n=3000, gain=0.1, chunk=7)
        assert alone.radius.item() == together.radius[i].item()
        assert alone.samples.item() == together.samples[i].item()


def test_a_question_of_radius_ends_early():
    """Yes and no both: 0.2 is proven at 0.74, hopeless at 0.6, and close at 0.7."""
    x = at(0.74, 0.6, 0.705)
    found = certify(half_space, x, region=CLAMPED, n=20_000, radius=0.2)
    yes, no, close = found.radius.tolist()
    assert yes >= 0.2 > no
    assert close < 0.205
    fast, slow = found.samples[:2].tolist(), found.samples[2].item()
    assert max(fast) < 1000
    assert slow > 5000


def test_gain_ends_when_the_rest_could_not_raise_it():
    x = at(0.745, 0.65)
    whole = certify(half_space, x, region=CLAMPED, n=20_000)
    early = certify(half_space, x, region=CLAMPED, n=20_000, gain=0.05)
    assert early.samples[0] < 10_000
    assert (early.radius > 0.9 * whole.radius).all()
    assert (early.radius <= whole.radius).all()


def test_two_sides_help_where_the_other_votes_are_spread():
    def spread(x):  # the last coordinates choose among nine other labels
        first, rest = x.flatten(1)[:, 0], x.flatten(1)[:, 1]
        other = 1 + (rest * 1000).long() % 9
        label = torch.where(first > 0.5, 0, other)
        return torch.nn.functional.one_hot(label, 10).float()

    x = at(0.5, 0.6)
    one, two = (certify(spread, x, region=CLAMPED, n=20_000, sides=sides) for sides in (1, 2))
    assert one.abstained.tolist() == [True, False]
    assert (two.radius > one.radius + 0.02).all()


def test_a_question_of_radius_with_two_sides_is_not_given_up_early():
    def spread(x):
        first, rest = x.flatten(1)[:, 0], x.flatten(1)[:, 1]
        return torch.nn.functional.one_hot(
            torch.where(first > 0.5, 0, 1 + (rest * 1000).long() % 9), 10
        ).float()

    found = certify(spread, at(0.5), region=CLAMPED, n=20_000, sides=2, radius=0.08)
    assert found.radius.item() >= 0.08
    assert found.samples.item() < 20_000


@pytest.mark.parametrize("name", ["m", "stop"])
def test_arguments_of_a_vote_are_not_swallowed(name):
    with pytest.raises(TypeError, match=f"certify has no {name}"):
        certify(half_space, at(0.6), region=CLAMPED, **{name: None})


@pytest.mark.parametrize(
    ("region", "norm", "known"),
    [
        (Gaussian(0.2), "L2", lambda p: 0.2 * stats.norm.ppf(p)),
        (Gaussian(0.2, clip="clamp"), "L2", lambda p: 0.2 * stats.norm.ppf(p)),
        (Laplace(0.1), "L1", lambda p: -0.1 * math.log(2 * (1 - p))),
        (L2Ball(0.5), "L2", lambda p: math.sqrt(stats.beta.ppf(p - 0.5, 0.5, 2.5))),
        (L1Ball(0.5), "L1", lambda p: 1 - (1.5 - p) ** 0.25),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "fill") else "",
)
def test_every_region_with_a_theorem(region, norm, known):
    """The radius is the theorem's at the bound, and below the distance to the half space's boundary."""
    found = certify(half_space, at(0.6), region=region, n=4000)
    assert found.norm == norm
    assert found.radius.item() == pytest.approx(known(found.lower.item()))
    assert 0 < found.radius.item() < 0.1
    each = type(region)(torch.full((1,), float(region.size)), clip=region.clip)
    again = certify(half_space, at(0.6), region=each, n=4000)
    torch.testing.assert_close(again.radius, found.radius, rtol=1e-6, atol=0)  # sizes in a tensor are float32


@pytest.mark.parametrize("question", [{"gain": 0.05}, {"radius": 0.02}], ids=str)
def test_sizes_of_examples_that_end_early_stay_theirs(question):
    sizes, x, ids = torch.tensor([0.1, 0.3, 0.2]), at(0.9, 0.55, 0.6), torch.arange(3)
    each = certify(half_space, x, region=Gaussian(sizes), n=4000, example_ids=ids, **question)
    assert len(set(each.samples.tolist())) > 1
    for i in range(3):
        alone = certify(
            half_space,
            x[i : i + 1],
            region=Gaussian(sizes[i : i + 1]),
            n=4000,
            example_ids=ids[i : i + 1],
            **question,
        )
        assert alone.samples.item() == each.samples[i]
        assert alone.lower.item() == each.lower[i]
        assert alone.radius.item() == each.radius[i]


def test_error_counts_the_whole_procedure():
    """At a share of exactly 1/2 any radius above 0 is an error: at most alpha of 600 certificates may have one."""
    x = torch.full((600, 1, 1, 2), 0.5)
    alpha = 0.05
    for question in ({}, {"radius": 0.05}, {"gain": 0.05}):
        ids = torch.arange(600)
        found = certify(half_space, x, region=CLAMPED, n=200, n0=5, alpha=alpha, example_ids=ids, **question)
        wrong = int((found.radius > 0).sum())
        assert wrong <= stats.binom.ppf(1 - 1e-6, 600, alpha)
        assert question or wrong > 0


def test_intersecting_cube_uses_the_examples_own_distance_from_the_ends():
    black, grey = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.45)

    def constant(x):
        return torch.tensor([[0.0, 1.0]]).expand(len(x), 2)

    found = certify(constant, torch.cat([black, grey]), region=Cube(0.2), n=10_000)
    p = found.lower[0].item()
    assert found.radius[0].item() == pytest.approx(0.2 * math.log(2 * p))
    assert found.radius[1].item() == pytest.approx(0.2 * (2 * p - 1))


def test_empty_batch():
    found = certify(half_space, at(0.6)[:0], region=CLAMPED, n=200, gain=0.1)
    assert len(found) == 0
    assert found.radii["L2"].shape == (0,)


# ---- on the grid


def test_lattice_points_are_a_function_of_one_whole_number():
    region = LatticeCube.near(0.3, 255)
    assert region.r == pytest.approx(0.3, abs=1e-3)
    x = torch.tensor([0, 1, 100, 254, 255]).div(255).view(5, 1, 1, 1).expand(5, 1, 4, 6).contiguous()
    ids = torch.zeros(5, dtype=torch.int64)  # the same noise for all
    points = sample(x, region, 300, example_ids=ids)
    unit = 255 * region.steps
    place = (points.double() * unit).round()
    assert torch.equal((place.float() / unit), points)
    assert points.min() == 0
    assert points.max() == 1
    inside = (place[2] > 0) & (place[2] < unit) & (place[1] > 0) & (place[1] < unit)
    assert torch.equal((place[2] - place[1])[inside], torch.full_like(place[1][inside], 99.0 * region.steps))
    half = sample(x, region, 300, example_ids=ids, dtype=torch.bfloat16)
    assert torch.equal(half, points.to(torch.bfloat16))


def test_lattice_noise_is_uniform():
    region = LatticeCube.near(0.25, 255)
    x = torch.full((1, 1, 100, 100), 127 / 255)
    place = (sample(x, region, 20).double() * 255 * region.steps).round() - 127 * region.steps
    assert place.min() >= -32768
    assert place.max() <= 32767
    counts = torch.histc(place.float(), bins=64, min=-32768, max=32768)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_grid_certificate_is_in_whole_levels_and_says_so():
    x = (at(0.7, 0.6) * 255).round() / 255
    found = certify(half_space, x, region=CLAMPED, n=20_000, grid=255)
    real = certify(half_space, x, region=CLAMPED, n=20_000)
    assert found.arithmetic == "grid"
    levels = found.radius * 255
    assert torch.equal(levels.round(), (levels * (1 + 1e-12)).round())
    assert (levels - levels.round()).abs().max() < 1e-9
    assert (found.radius - real.radius).abs().max() < 0.015


def test_share_needed_is_what_a_radius_takes():
    assert share_needed(CLAMPED, 0.125, shape=(1, 2, 2)) == pytest.approx(0.75)
    assert share_needed(CLAMPED, 0.3, shape=(1, 2, 2)) == math.inf


# ---- bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n": 10}, ValueError, "n must be at least n0 = 100, got 10"),
        ({"n0": 0}, ValueError, "n0 must lie in"),
        ({"alpha": 0.0}, ValueError, "alpha must lie in"),
        ({"alpha": 1.0}, ValueError, "alpha must lie in"),
        ({"radius": 0.0}, ValueError, "radius must lie in"),
        ({"gain": -0.1}, ValueError, "gain must lie in"),
        ({"sides": 3}, ValueError, "sides must be 1 or 2, got 3"),
        ({"norm": "L0"}, ValueError, "norm must be one of L1, L2, Linf, got 'L0'"),
        ({"region": 0.3}, TypeError, "region must be a region"),
        ({"region": Sphere(0.3)}, ValueError, "two spheres share no volume"),
        ({"grid": 255, "region": Gaussian(0.3)}, ValueError, "grid needs region Cube"),
        ({"grid": 255, "region": Cube(0.3)}, ValueError, "grid needs region Cube"),
        ({"grid": 255, "region": Cube(0.001, clip="clamp")}, ValueError, "r must be at least 0.00196"),
        (
            {"region": Cube(torch.tensor([0.1, 0.2]))},
            ValueError,
            r"r must be a number or have the shape \[1\]",
        ),
    ],
)
def test_bad_input_is_refused_before_any_work(change, error, message):
    def model(x):
        pytest.fail("the model was run")

    with pytest.raises(error, match=message):
        certify(model, at(0.6), **{"region": CLAMPED, **change})


def test_examples_off_the_grid_are_refused():
    with pytest.raises(ValueError, match=r"x must lie on the grid of 255 levels .* in example 1"):
        certify(half_space, at(128 / 255, 0.601), region=CLAMPED, grid=255)
