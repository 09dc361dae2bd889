"""sample_noise_: bits against the plain torch twin, quantiles against scipy, distribution, independence of the call."""

import math

import numpy as np
import pytest
import quantile_tables
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from test_sample_hypercube import DEVICES, DTYPES, inputs, instruction_set, same_bits, threads  # noqa: F401

from rcfast import _C, ops, reference

NOISES = ["gaussian", "laplace", "l2_ball", "l1_ball", "sphere"]
CENTRAL, TAIL = 1 << 30, quantile_tables.TAIL


def points(x, size, samples, dtype=torch.float32, device="cpu", ids=None, **options):
    out = torch.full((x.shape[0], samples, *x.shape[1:]), math.nan, dtype=dtype, device=device)
    ids = torch.arange(x.shape[0]) if ids is None else ids
    size = size.to(device) if isinstance(size, torch.Tensor) else size
    ops.sample_noise_(out, x.to(device), size, example_ids=ids.to(device), **options)
    return out.cpu()


@pytest.mark.parametrize("shape", [(1,), (7,), (64,), (65,), (784,), (2100,), (3, 7, 5)])
@pytest.mark.parametrize("noise", NOISES)
def test_bits_equal_reference_on_every_instruction_set(instruction_set, shape, noise):  # noqa: F811
    x, ids = inputs(shape)
    for size in (0.3, torch.tensor([0.0, 70_000.0, 1e-40])):
        for clamp, dtype in ((False, torch.float32), (False, torch.float16), (True, torch.bfloat16)):
            options = {"noise": noise, "seed": 2**63 + 12345, "first_sample": 2**32 - 5, "clamp": clamp}
            expected = reference.sample_noise(x, size, 5, example_ids=ids, dtype=dtype, **options)
            assert same_bits(points(x, size, 5, dtype, ids=ids, **options), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1,), (7,), (64,), (784,), (4100,), (3, 32, 32), (100_003,)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("noise", NOISES)
def test_cuda_bits_equal_cpu(shape, dtype, noise):
    x, ids = inputs(shape)
    for size, clamp in ((0.3, False), (torch.tensor([0.0, 0.02, 70_000.0]), True)):
        options = {"noise": noise, "seed": 77, "first_sample": 3, "ids": ids, "clamp": clamp}
        assert same_bits(points(x, size, 19, dtype, "cuda", **options), points(x, size, 19, dtype, **options))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (5, 3, 2, 7)])
def test_channels_last_holds_the_same_points(device, noise, shape):
    x, ids = inputs(shape)
    layout = torch.channels_last if len(shape) == 3 else torch.channels_last_3d
    for dtype in DTYPES:
        out = (
            torch.empty(12, *shape, dtype=dtype, device=device).to(memory_format=layout).unflatten(0, (3, 4))
        )
        ops.sample_noise_(out, x.to(device), 0.2, noise=noise, seed=1, example_ids=ids.to(device))
        assert same_bits(out.cpu(), points(x, 0.2, 4, dtype, ids=ids, noise=noise, seed=1))


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 300),
    samples=st.integers(1, 40),
    cut=st.integers(0, 40),
    order=st.permutations(range(4)),
    noise=st.sampled_from(NOISES),
)
def test_chunks_and_batches_leave_no_trace(device, n, samples, cut, order, noise):
    x, ids = inputs((n,), batch=4)
    options = {"device": device, "seed": 5, "noise": noise}
    whole = points(x, 0.3, samples, ids=ids, **options)
    cut = min(cut, samples)
    parts = [
        points(x, 0.3, stop - start, ids=ids, first_sample=start, **options)
        for start, stop in ((0, cut), (cut, samples))
    ]
    assert torch.equal(torch.cat(parts, 1), whole)
    order = torch.tensor(order)
    assert torch.equal(points(x[order], 0.3, samples, ids=ids[order], **options), whole[order])


@pytest.mark.parametrize("noise", NOISES)
def test_threads_and_flushed_subnormals_leave_no_trace(threads, noise):  # noqa: F811
    x, ids = torch.zeros(5, 3, 32, 32), torch.arange(5)
    whole = points(x, 1e-39, 33, ids=ids, noise=noise)
    assert ((whole > 0) & (whole < 2**-126)).any()  # there is something to flush
    for count in (1, 3, 8):
        threads(count)
        torch.set_flush_denormal(True)
        try:
            mine = points(x, 1e-39, 33, ids=ids, noise=noise)
        finally:
            torch.set_flush_denormal(False)
        assert same_bits(mine, whole)


@pytest.mark.parametrize("device", DEVICES)
def test_seed_and_first_sample_from_tensors(device):
    x, ids = inputs((50,))
    seed, first = torch.tensor(-123456789012345, device=device), torch.tensor(6, device=device)
    found = points(x, 0.1, 3, device=device, ids=ids, noise="l2_ball", seed=seed, first_sample=first)
    assert torch.equal(found, points(x, 0.1, 3, ids=ids, noise="l2_ball", seed=int(seed), first_sample=6))


# --- quantiles ------------------------------------------------------------------------------------------------------


def places(bits):
    """Numbers of so many bits: the first and last of every octave, random ones, and the extremes."""
    generator = np.random.default_rng(0)
    edges = [2**k + d for k in range(1, bits) for d in (-1, 0, 1)]
    spread = (2.0 ** generator.uniform(0, bits, 300_000)).astype(np.int64)
    ends = [0, 1, 2**bits - 1, 2**bits - 2]
    return np.unique(np.concatenate([ends, edges, spread, generator.integers(0, 2**bits, 300_000)]))


def exponential(k, central):
    """The magnitude at the place k + 1/2 of its half, by scipy."""
    f = (k + 0.5) / 2**31
    return -np.log1p(-f) if central else -np.log(f)


def normal(k):
    """The normal number of a word with k words farther out on its side, by scipy."""
    return np.where(
        k < 2**27, -special.ndtri((k + 0.5) / 2**32), math.sqrt(2) * special.erfinv(1 - (k + 0.5) / 2**31)
    )


@pytest.mark.parametrize("central", [False, True], ids=["tail", "central"])
def test_exponential_quantiles_are_those_of_scipy(central):
    k = places(30)
    words = torch.from_numpy(k) | (CENTRAL if central else 0)
    found = reference.quantile(words, exponential=True)
    # 3 units in the last place
    assert np.abs(found.double().numpy() / exponential(k, central) - 1).max() < 4e-7
    assert torch.equal(reference.quantile(words | 1 << 31, exponential=True), -found)


def test_normal_quantiles_are_those_of_scipy():
    farther = places(31)
    words = torch.from_numpy(2**31 - 1 - farther)
    found = reference.quantile(words, exponential=False)
    assert torch.equal(reference.quantile(words ^ 0xFFFFFFFF, exponential=False), -found)
    error = np.abs(found.double().numpy() / normal(farther) - 1)
    tail = farther < TAIL * 2**31
    assert error[tail].max() < 4e-7
    odd = 2**31 - 1 - farther | 1  # the middle does not look at the last bit
    assert np.abs(found.double().numpy() / _magnitude(odd) - 1)[~tail].max() < 1e-6
    rounded = _magnitude(odd.astype(np.float32).astype(np.float64))  # to 24 bits, as it does first
    assert np.abs(found.double().numpy() / rounded - 1)[~tail].max() < 6e-7  # 5 units in the last place


def _magnitude(word):
    return math.sqrt(2) * special.erfinv(word / 2**31)


def test_the_density_of_exponentials_is_within_a_millionth():
    """The variate's density at g(t) is 1 / g'(t): the table's polynomials against the quantile's own derivative."""
    table = np.array(_C.quantile_table(True), dtype=np.float64)
    for exponent in range(126, 158):
        central = exponent == 157
        coefficients = table[:, exponent % 32]
        t = np.linspace(0, 1, 4001)[1:] if central else np.linspace(-0.5, 0.5, 4001)
        slope = np.polyval(np.polyder(coefficients), t)
        per_t = 2.0**30 if central else 2.0 ** (exponent - 127)
        f = t * 2.0**30 if central else (t + 1.5) * per_t
        density = 1 - f / 2**31 if central else f / 2**31  # of a value: its probability of exceedance
        assert np.abs(np.abs(slope) / (per_t / 2**31 / density) - 1).max() < 1e-6, exponent


def test_the_density_of_the_normal_is_within_a_millionth():
    table = np.array(_C.quantile_table(False), dtype=np.float64)
    for exponent in range(126, 154):
        t, per_t = np.linspace(-0.5, 0.5, 4001), 2.0 ** (exponent - 127)
        slope = np.polyval(np.polyder(table[:, exponent % 32]), t)
        density = stats.norm.pdf(special.ndtri((t + 1.5) * per_t / 2**32))
        assert np.abs(-slope * 2**32 * density / per_t - 1).max() < 1e-6, exponent
    density, _ = quantile_tables.middle_errors(
        np.array(_C.normal_middle(), dtype=np.float64), np.linspace(1e-4, 1 - TAIL, 4001)
    )
    assert np.abs(density).max() < 1e-6


def test_the_slope_of_the_rational_function():
    """The derivative that the test above trusts, by differences."""
    c, q, h = np.array(_C.normal_middle(), dtype=np.float64), np.linspace(0.01, 1 - TAIL - 1e-4, 301), 2e-6
    density, _ = quantile_tables.middle_errors(c, q)
    values = [
        math.sqrt(2) * special.erfinv(x) * (1 + quantile_tables.middle_errors(c, x)[1])
        for x in (q - h, q + h)
    ]
    exact = math.sqrt(math.pi / 2) * np.exp(special.erfinv(q) ** 2)
    assert np.abs((values[1] - values[0]) / (2 * h) / exact - 1 - density).max() < 3e-7


def test_the_pieces_meet():
    """Neighbouring octaves, and the normal's middle and tail, meet to the last place: no gap or step between them."""
    for k in [2**e for e in range(1, 30)]:
        below, above = reference.quantile(torch.tensor([k - 1, k]), exponential=True).tolist()
        gap = exponential(k - 1.0, False) - exponential(float(k), False)
        assert abs(below - above - gap) < 6e-7 * above
    for k in [*(2**e for e in range(1, 27)), round(TAIL * 2**31)]:
        words = 2**31 - 1 - torch.arange(k - 40, k + 40).clamp(min=0)
        found = reference.quantile(words, exponential=False).double().numpy()
        assert np.abs(found / normal((2**31 - 1 - words).numpy()) - 1).max() < 1e-6


def test_logarithm_and_exponential_of_the_radius():
    u = torch.from_numpy(np.concatenate([2.0 ** -np.linspace(0, 53, 10_001), np.linspace(2**-53, 1, 10_001)]))
    found = reference.logarithm(u).numpy()
    assert np.abs(found - np.log(u.numpy())).max() < 1e-14
    assert np.all(np.abs(found[u.numpy() < 0.9] / np.log(u.numpy()[u.numpy() < 0.9]) - 1) < 1e-15)
    y = -torch.linspace(0, 40, 20_001, dtype=torch.float64)
    assert np.abs(reference.exponential(y).numpy() / np.exp(y.numpy()) - 1).max() < 1e-15


# --- distribution: one draw for each statement, thresholds of 1e-6; every run sees the same numbers ------------------


@pytest.fixture(scope="module")
def draws():
    """4·10^6 variates of a noise around 0. Axes: example, sample, element."""
    made = {}

    def get(noise):
        if noise not in made:
            made[noise] = points(torch.zeros(8, 500), 1.0, 1000, seed=2024, noise=noise)
        return made[noise]

    return get


@pytest.mark.parametrize(("noise", "law"), [("gaussian", stats.norm()), ("laplace", stats.laplace())])
def test_marginals(draws, noise, law):
    values = draws(noise).flatten().double().numpy()
    assert stats.kstest(values, law.cdf).pvalue > 1e-6
    edges = law.ppf(np.linspace(0, 1, 1025))  # and the tails, which that test hardly sees
    assert stats.chisquare(np.histogram(values, edges)[0]).pvalue > 1e-6
    for p in (1e-3, 1e-4, 1e-5):
        beyond = int((np.abs(values) > -law.ppf(p)).sum())
        assert stats.binomtest(beyond, values.size, 2 * p).pvalue > 1e-6
    even = {
        k: math.factorial(k) / (2 ** (k // 2) * math.factorial(k // 2) if noise == "gaussian" else 1)
        for k in range(0, 9, 2)
    }
    for moment in (1, 2, 3, 4):
        expected = even.get(moment, 0)
        error = even[2 * moment] - expected**2
        assert abs((values**moment).mean() - expected) < 5 * math.sqrt(error / values.size)


@pytest.mark.parametrize("n", [1, 2, 3, 50, 784])
def test_norms_and_directions_of_balls(n):
    samples = 1_000_000 // max(n, 20)
    for noise, order in (("l2_ball", 2), ("l1_ball", 1), ("sphere", 2)):
        made = points(torch.zeros(1, n), 0.7, samples, seed=5, noise=noise)[0].double()
        norms = made.norm(p=order, dim=1).numpy() / 0.7
        assert norms.max() < 1 + 1e-6
        if noise == "sphere":
            assert norms.min() > 1 - 1e-6
        else:  # P(norm <= t) = t^n
            assert stats.kstest(norms**n, "uniform").pvalue > 1e-6
        direction = made / made.norm(p=order, dim=1, keepdim=True)
        assert abs(float((direction > 0).double().mean()) - 0.5) < 5 * math.sqrt(0.25 / made.numel())
        if n == 1:
            continue
        first = (direction[:, 0] if order == 2 else direction[:, 0].abs()).numpy()
        if order == 2:  # (1 + d) / 2 of a coordinate d of a uniform direction
            law = stats.beta((n - 1) / 2, (n - 1) / 2)
            assert stats.kstest((1 + first) / 2, law.cdf).pvalue > 1e-6
        else:  # a share of exponentials
            assert stats.kstest(first, stats.beta(1, n - 1).cdf).pvalue > 1e-6


@pytest.mark.parametrize("noise", ["l2_ball", "sphere"])
def test_no_direction_is_preferred(noise):
    """The second moments along and across the axes of a uniform direction are 1/n and 0."""
    n = 12
    made = points(torch.zeros(1, n), 1.0, 200_000, seed=6, noise=noise)[0].double()
    direction = made / made.norm(dim=1, keepdim=True)
    moments = direction.T @ direction / len(made)
    error = 5 * math.sqrt(3 / (n * (n + 2)) / len(made))
    assert (moments - torch.eye(n, dtype=torch.float64) / n).abs().max() < error


@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((slice(None), slice(None), slice(1, None)), (slice(None), slice(None), slice(-1))),
        ((slice(None), slice(None), slice(4, None)), (slice(None), slice(None), slice(-4))),
        ((slice(None), slice(1, None)), (slice(None), slice(-1))),
        ((slice(1, None),), (slice(-1),)),
    ],
    ids=["elements", "calls", "samples", "examples"],
)
def test_neighbours_are_independent(draws, noise, one, other):
    law = stats.norm if noise == "gaussian" else stats.laplace
    uniform = torch.from_numpy(law.cdf(draws(noise).numpy()))
    a, b = uniform[one].flatten(), uniform[other].flatten()
    assert abs(float(((a - 0.5) * (b - 0.5)).mean() * 12)) < 5 / math.sqrt(a.numel())
    pairs = (a * 16).long().clamp(max=15) * 16 + (b * 16).long().clamp(max=15)
    assert stats.chisquare(torch.bincount(pairs, minlength=256).numpy()).pvalue > 1e-6


def test_radius_and_direction_are_independent():
    made = points(torch.zeros(1, 3), 1.0, 300_000, seed=8, noise="l2_ball")[0].double()
    norm = made.norm(dim=1)
    pairs = (norm**3 * 8).long().clamp(max=7) * 8 + ((1 + made[:, 0] / norm) * 4).long().clamp(max=7)
    assert stats.chisquare(torch.bincount(pairs, minlength=64).numpy()).pvalue > 1e-6


def test_clamped_is_the_other_clamped():
    x = torch.rand(4, 300, generator=torch.Generator().manual_seed(3))
    for noise in NOISES:
        assert torch.equal(
            points(x, 0.9, 20, noise=noise, clamp=True), points(x, 0.9, 20, noise=noise).clamp(0, 1)
        )


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 0, 8), (2, 3, 0)])
@pytest.mark.parametrize("noise", ["gaussian", "sphere"])
def test_empty(shape, noise):
    x, ids = torch.empty(shape[0], shape[2]), torch.zeros(shape[0], dtype=torch.int64)
    ops.sample_noise_(torch.empty(shape), x, 0.1, noise=noise, example_ids=ids)


GOOD = {"out": torch.empty(2, 3, 4), "x": torch.rand(2, 4), "size": 0.1, "noise": "gaussian"}
BAD = [
    ({"out": torch.empty(2, 4)}, ValueError, r"out must have shape \[B, s, ...\], got \[2, 4\]"),
    ({"out": torch.empty(2, 4, 3).mT}, ValueError, "out must be contiguous or channels_last, got strides"),
    ({"x": torch.rand(2, 5)}, ValueError, r"x must have shape \[2, 4\], got \[2, 5\]"),
    ({"size": -0.1}, ValueError, "size must be a finite number >= 0, got -0.1"),
    ({"size": torch.rand(3)}, ValueError, r"size must have shape \[2\], got \[3\]"),
    ({"noise": "pink"}, ValueError, "noise must be one of 'gaussian', .*, got 'pink'"),
    ({"first_sample": 2**32 - 2}, ValueError, "first_sample must lie in .*got 4294967294"),
    ({"seed": 2**64}, ValueError, "seed must fit 64 bits, got 18446744073709551616"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=[m[:40] for _, _, m in BAD])
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        ops.sample_noise_(**{**GOOD, "example_ids": torch.arange(2), **change})


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    op = torch.ops.rcfast.sample_noise_.default
    x, ids = torch.rand(2, 3, 4, 4, device=device), torch.arange(2, device=device)
    out = torch.empty(2, 5, 3, 4, 4, device=device)
    torch.library.opcheck(op, (out, x, 0.1, None, ids, 7, None, 0, None, "gaussian", False))
    sizes, seed = torch.rand(2, device=device), torch.tensor(3, device=device)
    torch.library.opcheck(op, (out.bfloat16(), x, 0.0, sizes, ids, 0, seed, 2, None, "l1_ball", True))
