"""The theorems behind certified radii, against exact worst cases (Neyman and Pearson) and numerical volumes."""

import numpy as np
import pytest
from scipy import integrate, stats

from rcfast.certificates import radii

SHARES = np.array([0.51, 0.6, 0.75, 0.9, 0.99, 0.999])


def widths(x, r):
    """Ends of the intervals [max(0, x-r), min(1, x+r)]."""
    return np.maximum(0, x - r), np.minimum(1, x + r)


def worst_share(p, x, moved, r):
    """The least share at ``moved`` of a label that has the share p around ``x``, in the cubes cut to [0,1]^n.

    Both densities are constant, so that the lemma of Neyman and Pearson is one line: the label loses first what lies
    outside the new cube, and the rest of it weighs there what the volumes say.
    """
    (a, b), (a2, b2) = widths(x, r), widths(moved, r)
    common = np.prod(np.maximum(0, np.minimum(b, b2) - np.maximum(a, a2)) / (b - a))
    return np.maximum(0, p - 1 + common) * np.prod((b - a) / (b2 - a2))


def shifts(rng, x, n):
    """Directions inside [0,1]^n of L1 length 1: single coordinates, few, all, inwards."""
    for count in {1, min(2, n), max(1, n // 2), n}:
        for _ in range(6):
            chosen = rng.choice(n, count, replace=False)
            part = np.zeros(n)
            part[chosen] = rng.dirichlet(np.ones(count)) if rng.random() < 0.5 else 1 / count
            sign = np.where(rng.random(n) < 0.3, rng.choice([-1, 1], n), np.where(x < 0.5, 1, -1))
            yield part * sign


@pytest.mark.parametrize("r", [0.05, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("n", [1, 3, 40])
def test_cut_cube_holds_against_the_worst_network(r, n):
    rng = np.random.default_rng(n)
    for _ in range(60):
        kind = rng.integers(4)
        x = [np.zeros(n), rng.random(n), rng.choice([0.0, 1.0], n), rng.uniform(0.1, 0.9, n)][kind]
        p = rng.choice(SHARES)
        edge = np.minimum(x, 1 - x).min()
        radius = float(radii.clipped_cube(r, 2 * p - 1, n, edge)["L1"])
        for direction in shifts(rng, x, n):
            moved = np.clip(x + 0.9999 * radius * direction, 0, 1)
            assert worst_share(p, x, moved, r) > 0.5


@pytest.mark.parametrize("p", SHARES)
def test_cut_cube_cannot_be_improved_for_many_black_pixels(p):
    n, r = 20_000, 0.3
    radius = float(radii.clipped_cube(r, 2 * p - 1, n)["L1"])
    assert radius == pytest.approx(r * np.log(2 * p))
    assert worst_share(p, np.zeros(n), np.full(n, 1.001 * radius / n), r) < 0.5


def test_cut_cube_far_from_the_ends_is_the_whole_cube():
    cut = radii.clipped_cube(0.05, 2 * SHARES - 1, 10, edge=0.4)["L1"]
    np.testing.assert_allclose(cut, radii.cube(0.05, 2 * SHARES - 1, 10)["L1"])
    middle = radii.clipped_cube(0.3, 2 * SHARES - 1, 10, edge=0.2)["L1"]
    least = radii.clipped_cube(0.3, 2 * SHARES - 1, 10)["L1"]
    np.testing.assert_array_less(
        least[least < 0.19], middle[least < 0.19]
    )  # further out the ends are reached
    assert (middle >= least).all()
    assert (middle[2:] < 0.3 * (2 * SHARES[2:] - 1)).all()


@pytest.mark.parametrize("norm", radii.NORMS)
@pytest.mark.parametrize("n", [1, 2, 30])
def test_cube_holds_and_is_attained(norm, n):
    """p minus the volume that the cubes do not share is more than 1/2 within the radius, and at it is 1/2."""
    rng, r = np.random.default_rng(0), 0.4

    def left(p, shift):
        return p - 1 + np.prod(np.maximum(0, 1 - np.abs(shift) / (2 * r)))

    order = {"L1": 1, "L2": 2, "Linf": np.inf}[norm]
    for p in SHARES:
        radius = float(radii.cube(r, 2 * p - 1, n)[norm])
        for _ in range(50):
            shift = rng.standard_normal(n) * (rng.random(n) < rng.random())
            if shift.any():
                assert left(p, shift * 0.9999 * radius / np.linalg.norm(shift, order)) > 0.5
        single = np.zeros(n)
        single[0] = 1
        worst = single if norm == "L1" else np.ones(n)
        assert left(p, worst * radius / np.linalg.norm(worst, order)) == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("p", SHARES)
def test_gaussian_is_attained_by_a_half_space(p):
    radius = radii.gaussian(0.7, p, 1 - p, 5)["L2"]
    assert stats.norm.cdf(stats.norm.ppf(p) - radius / 0.7) == pytest.approx(0.5)
    both = radii.gaussian(0.7, p, (1 - p) / 3, 5)["L2"]
    assert both > radius


@pytest.mark.parametrize("p", SHARES)
def test_laplace_is_attained_in_one_coordinate(p):
    """The other labels' 1 - p lie where the shift by d raises the density most, by exp(d/scale)."""
    scale = 0.2
    d = float(radii.laplace(scale, p, 1 - p, 1)["L1"])
    assert 1 - p <= np.exp(-d / scale) / 2 + 1e-12, "there is room for them beyond d"
    assert (1 - p) * np.exp(d / scale) == pytest.approx(0.5)


def test_laplace_with_a_bounded_runner_up_takes_the_larger_form():
    assert radii.laplace(1, 0.6, 0.01, 1)["L1"] == pytest.approx(0.5 * np.log(60))
    assert radii.laplace(1, 0.6, 0.39, 1)["L1"] == pytest.approx(-np.log(0.79))


@pytest.mark.parametrize("n", [1, 2, 3, 50])
@pytest.mark.parametrize("p", [0.55, 0.8, 0.999])
def test_l2_ball_by_integration(n, p):
    """The common part of two balls are two caps."""
    r = 0.9
    d = float(radii.l2_ball(r, 2 * p - 1, n)["L2"])

    def slab(z):
        return (1 - (z / r) ** 2) ** ((n - 1) / 2)

    whole, cap = integrate.quad(slab, -r, r)[0], integrate.quad(slab, d / 2, r)[0]
    assert 2 * cap / whole == pytest.approx(1.5 - p, rel=1e-6)


@pytest.mark.parametrize("p", [0.55, 0.8, 0.999])
def test_l1_ball_in_two_dimensions(p):
    """|x| + |y| <= r is a square of side r√2 whose diagonal shift by d leaves (r√2 - d/√2)²."""
    r = 0.9
    d = float(radii.l1_ball(r, 2 * p - 1, 2)["L1"])
    assert (r * np.sqrt(2) - d / np.sqrt(2)) ** 2 / (2 * r**2) == pytest.approx(1.5 - p)


def test_l1_ball_worst_direction_is_an_axis():
    rng = np.random.default_rng(0)
    n, r, p = 4, 1.0, 0.9
    d = float(radii.l1_ball(r, 2 * p - 1, n)["L1"])
    points = rng.laplace(size=(400_000, n))
    radius = rng.random((len(points), 1)) ** (1 / n)
    points *= r * radius / np.abs(points).sum(1, keepdims=True)
    for direction in (np.eye(n)[0], np.ones(n) / n, np.array([0.7, 0.3, 0, 0])):
        shared = (np.abs(points - d * direction).sum(1) <= r).mean()
        assert shared > 1.5 - p - 0.003


@pytest.mark.parametrize("norm", radii.NORMS)
def test_lattice_radii_are_the_largest_whole_numbers(norm):
    steps, values, levels, n = 428, 65536, 255, 3
    for p in SHARES:
        radius = float(radii.lattice_cube(steps, values, levels, 2 * p - 1, n)[norm])
        real = float(radii.cube(values / (2 * steps * levels), 2 * p - 1, n)[norm])
        assert radius < real
        whole = radius * levels if norm != "L2" else (radius * levels) ** 2
        assert whole == pytest.approx(round(whole), abs=1e-6)
        more = (round(whole) + 1) ** (0.5 if norm == "L2" else 1) / levels
        assert more >= real * (1 - 1e-9)


def test_nothing_is_certified_without_a_lead():
    for lead in (0.0, -0.3):
        p = (1 + lead) / 2
        for found in (
            radii.gaussian(1, p, 1 - p, 4),
            radii.laplace(1, p, 1 - p, 4),
            radii.cube(1, lead, 4),
            radii.clipped_cube(1, lead, 4),
            radii.l2_ball(1, lead, 4),
            radii.l1_ball(1, lead, 4),
            radii.lattice_cube(428, 65536, 255, lead, 4),
        ):
            assert all(float(value) == 0 for value in found.values())


def test_share_for_is_the_inverse():
    for radius in (0.01, 0.2, 0.29):
        p = radii.share_for(radius, lambda p: float(radii.cube(0.3, 2 * p - 1, 9)["L1"]))
        assert radii.cube(0.3, 2 * p - 1, 9)["L1"] == pytest.approx(radius)
    assert radii.share_for(0.31, lambda p: float(radii.cube(0.3, 2 * p - 1, 9)["L1"])) == np.inf
