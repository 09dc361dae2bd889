"""Paired and repeated comparisons, power, and the comparison with printed values."""

import itertools

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep

from rcfast.eval.statistics import (
    Interval,
    Mean,
    compare_means,
    compare_rates,
    compatible_with,
    detectable_drop,
    discordant,
    examples_needed,
    fewest_discordant,
    holm,
    mcnemar,
    paired_difference,
    paired_ratio,
    sign_flip,
    tango,
    wilson,
)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (3, 3), (9, 18), (32, 10), (0, 12), (400, 300)])
def test_mcnemar_equals_statsmodels_and_the_sign_flip_test(b: int, c: int) -> None:
    assert mcnemar(b, c) == pytest.approx(sm_mcnemar([[5, b], [c, 7]], exact=True).pvalue)
    assert sign_flip([1] * b + [-1] * c + [0] * 5) == pytest.approx(mcnemar(b, c))


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(ValueError, match="got -1 and 2"):
        mcnemar(-1, 2)


# Fagerland, Lydersen and Laake, Recommended tests and confidence intervals for paired binomial proportions, 2014,
# table VI: 1 and 7 discordant of 21.
@pytest.mark.parametrize(("b", "c", "n", "low", "high"), [(1, 7, 21, -0.517, -0.026)])
def test_tango_equals_the_published_interval(b: int, c: int, n: int, low: float, high: float) -> None:
    found = tango(b, c, n)
    assert found == Interval(pytest.approx(low, abs=5e-4), pytest.approx(high, abs=5e-4))


@pytest.mark.parametrize(("b", "c", "n"), [(18, 9, 10_000), (1, 7, 21), (0, 3, 10), (5, 5, 10), (0, 10, 10)])
def test_the_ends_of_tango_are_where_the_score_test_rejects(b: int, c: int, n: int) -> None:
    """The restricted maximum of the likelihood is found by brute force."""
    found = tango(b, c, n)
    for end in (found.low, found.high):
        if abs(end) == 1:
            continue
        q = np.linspace(max(0.0, -end), (1 - end) / 2, 2_000_001)[1:-1]  # share of pairs (no, yes)
        with np.errstate(divide="ignore"):
            logs = np.log(np.stack([q + end, q, 1 - 2 * q - end]).clip(1e-300))
        best = q[(np.array([b, c, n - b - c])[:, None] * logs).sum(0).argmax()]
        z = (b - c - n * end) / np.sqrt(n * (2 * best + end - end * end))
        assert abs(z) == pytest.approx(1.95996, abs=2e-3)


def test_tango_without_a_difference_and_at_its_limits() -> None:
    assert tango(0, 0, 0) == Interval(-1.0, 1.0)
    z2 = scipy.stats.norm.ppf(0.975) ** 2
    assert tango(0, 0, 10) == Interval(pytest.approx(-z2 / (10 + z2)), pytest.approx(z2 / (10 + z2)))
    assert tango(10, 0, 10).high == 1.0
    assert tango(3, 8, 40) == Interval(
        pytest.approx(-tango(8, 3, 40).high), pytest.approx(-tango(8, 3, 40).low)
    )
    with pytest.raises(ValueError, match="got 5 and 6 of n = 10"):
        tango(5, 6, 10)


def test_the_figures_of_mnist() -> None:
    """10,000 test images: a length of 0.30 loses 18 and gains 9, 0.35 loses 32 and gains 10."""
    assert mcnemar(18, 9) == pytest.approx(0.12, abs=0.005)
    assert mcnemar(32, 10) == pytest.approx(0.0009, abs=0.0001)
    interval = tango(18, 9, 10_000)
    assert (round(100 * interval.low, 2), round(100 * interval.high, 2)) == (-0.01, 0.20)


@pytest.mark.parametrize(("n", "lost", "gained"), [(20, 0.3, 0.1), (100, 0.05, 0.02), (1000, 0.004, 0.002)])
def test_tango_covers(n: int, lost: float, gained: float) -> None:
    """Exactly: over all tables of 20, by simulation of 4,000 beyond."""
    rng = np.random.default_rng(1)
    tables = rng.multinomial(n, [lost, gained, 1 - lost - gained], 4000)[:, :2]
    found = {pair: tango(*pair, n) for pair in {(int(b), int(c)) for b, c in tables}}
    hits = np.mean([lost - gained in found[int(b), int(c)] for b, c in tables])
    assert 0.93 < hits <= 0.99


def test_sign_flip_equals_enumeration_and_scipy() -> None:
    differences = np.random.default_rng(2).integers(-9, 10, 11)
    signs = np.array(list(itertools.product([-1, 1], repeat=11)))
    sums = np.abs((signs * np.abs(differences)).sum(1))
    exact = (sums >= abs(differences.sum())).mean()
    assert sign_flip(differences) == pytest.approx(exact)
    theirs = scipy.stats.permutation_test(
        (differences, np.zeros(11, int)),
        lambda x, y: np.sum(x - y),
        permutation_type="samples",
        n_resamples=np.inf,
    )
    assert sign_flip(differences) == pytest.approx(theirs.pvalue)
    assert sign_flip([]) == sign_flip([0, 0]) == sign_flip([3, -3]) == 1


def clustered_pairs(rng: np.random.Generator, n: int, low: float) -> tuple[np.ndarray, np.ndarray]:
    """Two defences whose targets share the example's difficulty; the second one's rate is `low` smaller."""
    own = rng.beta(2, 3, (n, 1))
    return rng.random((n, 9)) < own, rng.random((n, 9)) < own * (1 - low)


@pytest.mark.parametrize("n", [10, 50])
def test_the_paired_interval_covers_and_the_test_keeps_its_level(n: int) -> None:
    rng = np.random.default_rng(3)
    for low in (0.0, 0.5):
        found = [paired_difference(*clustered_pairs(rng, n, low), resamples=500) for _ in range(800)]
        assert np.mean([0.4 * low in d.interval for d in found]) > 0.92
        if not low:
            assert np.mean([d.p <= 0.05 for d in found]) < 0.07


def test_a_paired_difference_of_single_trials_is_mcnemars() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.random(60) < 0.7, rng.random(60) < 0.5
    found, only = paired_difference(first, second), discordant(first, second)
    assert (found.first_only, found.second_only) == only
    assert found.p == mcnemar(*only)
    assert found.interval == tango(*only, 60)
    assert found.value == pytest.approx(first.mean() - second.mean())


def test_a_paired_difference_where_resampling_has_nothing_to_say() -> None:
    all_, none = np.ones((10, 9), bool), np.zeros((10, 9), bool)
    clear = paired_difference(all_, none)
    assert (clear.value, clear.p) == (1.0, 2**-9)
    assert clear.interval.high == 1
    assert clear.interval.low == pytest.approx(2 * 0.6915 - 1, abs=0.01)
    equal = paired_difference(all_, all_)
    assert (equal.value, equal.p) == (0.0, 1.0)
    assert 0.1 < equal.interval.high == pytest.approx(-equal.interval.low, abs=0.02)
    with pytest.raises(ValueError, match=r"got \(10, 9\) and \(10, 8\)"):
        paired_difference(all_, none[:, :8])


def test_holm_equals_statsmodels() -> None:
    p = np.random.default_rng(6).random(19) ** 4
    assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([]) == []
    assert holm([0.04]) == [0.04]
    with pytest.raises(ValueError, match=r"got 1\.5 at index 1"):
        holm([0.1, 1.5])


# Power


def test_power_is_what_the_tests_give() -> None:
    assert compatible_with(10) == pytest.approx(0.3085, abs=1e-4)
    assert compatible_with(100) == pytest.approx(0.0362, abs=1e-4)
    for comparisons in (1, 2, 19, 64):
        k = fewest_discordant(comparisons)
        assert mcnemar(k, 0) <= 0.05 / comparisons < mcnemar(k - 1, 0)
    assert detectable_drop(9, 19) is None
    for n, comparisons in ((10, 1), (10, 19), (100, 19)):
        drop = detectable_drop(n, comparisons)
        assert drop is not None
        reached = scipy.stats.binom.sf(fewest_discordant(comparisons) - 1, n, drop)
        assert reached == pytest.approx(0.8)
    with pytest.raises(ValueError, match="got 0"):
        fewest_discordant(0)


@pytest.mark.parametrize(("half", "rate"), [(0.05, 0.5), (0.1, 0.5), (0.03, 0.0), (0.03, 0.9)])
def test_examples_needed_is_the_fewest(half: float, rate: float) -> None:
    n = examples_needed(half, rate=rate)

    def width(count: int) -> float:
        return wilson(rate * count, count).high - wilson(rate * count, count).low

    assert width(n) <= 2 * half < width(n - 1)
    with pytest.raises(ValueError, match=r"got 0 and 0\.5"):
        examples_needed(0)


# Beside a printed value


def test_rates_beside_a_printed_one_equal_newcombes_interval() -> None:
    for (a, n), (b, m) in (((56, 70), (48, 80)), ((9, 10), (3, 10)), ((10, 10), (0, 20))):
        low, high = confint_proportions_2indep(a, n, b, m, method="newcomb")
        found = compare_rates(a / n, wilson(a, n), b / m, m)
        assert found.interval == Interval(pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
        assert found.agrees == (low <= 0 <= high)


def test_a_printed_rate_errs_too_and_is_rounded() -> None:
    ours = wilson(820, 900)
    assert 0.945 not in ours
    assert not compare_rates(820 / 900, ours, 0.945, 900).agrees
    assert compare_rates(820 / 900, ours, 0.945, 900, effect=4).agrees  # theirs came from 100 images, too
    exact = compare_rates(0.5, Interval(0.49, 0.51), 0.6, 1_000_000)
    assert not exact.agrees
    assert compare_rates(0.5, Interval(0.49, 0.51), 0.6, 1_000_000, rounding=0.1).agrees
    with pytest.raises(ValueError, match="printed = 38, n = 900, effect = 1"):
        compare_rates(0.5, wilson(1, 2), 38, 900)


def test_means_beside_a_printed_one() -> None:
    ours = Mean(2.3, 0.1, 90, clusters=10)
    same_size = compare_means(ours, 2.0, 90)
    assert same_size is not None
    half = scipy.stats.t.ppf(0.975, 9) * 0.1 * np.sqrt(2)
    assert same_size.interval == Interval(pytest.approx(0.3 - half), pytest.approx(0.3 + half))
    assert same_size.agrees
    larger = compare_means(ours, 2.0, 900)
    assert larger is not None
    assert not larger.agrees
    assert compare_means(Mean(2.3, None, 1), 2.0, 90) is None
    assert compare_means(ours, 2.0, 0) is None


def test_a_ratio_is_that_of_the_pairs_and_its_interval_student_s() -> None:
    rng = np.random.default_rng(0)
    second = rng.uniform(1, 3, (8, 4))
    ratios = np.exp(rng.normal(0.1, 0.05, 8))[:, None] * np.exp(rng.normal(0, 0.02, (8, 4)))
    found = paired_ratio(second * ratios, second)
    logs = np.log(ratios).mean(1)
    low, high = scipy.stats.t.interval(0.95, 7, logs.mean(), scipy.stats.sem(logs))
    assert (found.n, found.pairs) == (8, 32)
    assert found.value == pytest.approx(np.exp(logs.mean()))
    assert (found.interval.low, found.interval.high) == pytest.approx((np.exp(low), np.exp(high)))
    back = paired_ratio(second, second * ratios)
    assert back.value == pytest.approx(1 / found.value)
    assert back.interval.low == pytest.approx(1 / found.interval.high)


def test_a_ratio_leaves_out_what_failed_or_took_nothing() -> None:
    first = np.array([[2.0, np.inf], [8.0, 3.0], [0.0, np.inf], [6.0, 5.0]])
    second = np.array([[1.0, 7.0], [2.0, 0.0], [1.0, np.inf], [np.inf, 5.0]])
    found = paired_ratio(first, second)
    assert (found.n, found.pairs) == (3, 3)
    assert found.value == pytest.approx(2.0)  # of 2, 4 and 1


def test_a_ratio_of_one_example_and_of_none() -> None:
    one = paired_ratio(np.array([[3.0]]), np.array([[2.0]]))
    assert (one.value, one.interval) == (pytest.approx(1.5), Interval(0.0, np.inf))
    none = paired_ratio(np.array([[3.0]]), np.array([[np.inf]]))
    assert (none.n, none.pairs) == (0, 0)
    assert np.isnan(none.value)


@pytest.mark.parametrize("bad", [np.ones((2, 3)), np.full((2, 2), -1.0), np.full((2, 2), np.nan)])
def test_a_ratio_refuses_what_is_no_noise(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="first and second must"):
        paired_ratio(np.ones((2, 2)), bad)


def test_the_interval_of_a_ratio_covers() -> None:
    """Ten examples with nine trials that share an effect: the true ratio lies inside in 95% of 2,000 draws."""
    rng, inside = np.random.default_rng(1), 0
    for _ in range(2000):
        second = np.exp(rng.normal(0, 0.3, (10, 9)))
        ratio = np.exp(np.log(1.05) + rng.normal(0, 0.1, (10, 1)) + rng.normal(0, 0.05, (10, 9)))
        found = paired_ratio(second * ratio, second).interval
        inside += found.low <= 1.05 <= found.high
    assert 0.935 < inside / 2000 < 0.965
