"""sample_hypercube_: bits against the plain torch twin, distribution, independence of how it is called."""

import math
import os
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rcfast import _C, ops, reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CLIPS = ["intersect", "clamp"]
KNOWN_ANSWERS = [  # published with Random123
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.fixture(params=["avx512", "avx2", "portable"])
def instruction_set(request):
    if request.param not in ops.build_info()["instruction_sets"]:
        pytest.skip(f"this processor has no {request.param}")
    before = ops.build_info()["instruction_set"]
    _C.use_instruction_set(request.param)
    yield request.param
    _C.use_instruction_set(before)


@pytest.fixture
def compiler():
    """Skips where inductor, torch.compile's own backend, finds no C++ compiler."""
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None:
        pytest.skip(f"inductor needs a C++ compiler, and there is no {name}")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def inputs(shape, batch=3, seed=0):
    """x with exact zeros, ones and minus zero among its values, and ids over the whole range."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, *shape, generator=generator)
    x.view(-1)[::5], x.view(-1)[1::7], x.view(-1)[2::11] = 0.0, 1.0, -0.0
    return x, torch.randint(-(2**63), 2**63 - 1, (batch,), generator=generator)


def points(x, r, samples, dtype=torch.float32, device="cpu", ids=None, **options):
    out = torch.full((x.shape[0], samples, *x.shape[1:]), math.nan, dtype=dtype, device=device)
    ids = torch.arange(x.shape[0]) if ids is None else ids
    r = r.to(device) if isinstance(r, torch.Tensor) else r
    ops.sample_hypercube_(out, x.to(device), r, example_ids=ids.to(device), **options)
    return out.cpu()


def same_bits(a, b):
    bits = torch.int32 if a.dtype == torch.float32 else torch.int16
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(bits), b.contiguous().view(bits))


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, answer):
    assert _C.philox4x32_10(counter, key) == answer
    assert tuple(int(w) for w in reference.philox4x32_10(tuple(map(torch.tensor, counter)), key)) == answer


@pytest.mark.parametrize(
    "shape", [(1,), (7,), (64,), (65,), (784,), (2049,), (1, 28, 28), (3, 32, 32), (3, 7, 5)]
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip", CLIPS)
def test_bits_equal_reference_on_every_instruction_set(instruction_set, shape, dtype, clip):
    x, ids = inputs(shape)
    for r in (0.0, 0.3, 1e-40, 2.0, torch.tensor([0.0, 0.02, 0.7])):
        options = {"seed": 2**63 + 12345, "first_sample": 2**32 - 5, "clip": clip}
        expected = reference.sample_hypercube(x, r, 5, example_ids=ids, dtype=dtype, **options)
        assert same_bits(points(x, r, 5, dtype, ids=ids, **options), expected)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "shape", [(1,), (7,), (64,), (65,), (784,), (2049,), (1, 28, 28), (3, 32, 32), (100_003,)]
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip", CLIPS)
def test_cuda_bits_equal_cpu(shape, dtype, clip):
    x, ids = inputs(shape)
    for r in (0.0, 0.3, 1e-40, 2.0, torch.tensor([0.0, 0.02, 0.7])):
        options = {"seed": 77, "first_sample": 3, "clip": clip, "ids": ids}
        assert same_bits(points(x, r, 19, dtype, "cuda", **options), points(x, r, 19, dtype, **options))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 8, 5), (3, 7, 5), (1, 28, 28), (5, 3, 2, 7)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_last_holds_the_same_points(device, shape, dtype):
    x, ids = inputs(shape)
    layout = torch.channels_last if len(shape) == 3 else torch.channels_last_3d
    for samples in (4, 19):
        out = torch.empty(3 * samples, *shape, dtype=dtype, device=device).to(memory_format=layout)
        out = out.unflatten(0, (3, samples))
        ops.sample_hypercube_(out, x.to(device), 0.2, seed=1, example_ids=ids.to(device))
        assert same_bits(out.cpu(), points(x, 0.2, samples, dtype, ids=ids, seed=1))


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 300), samples=st.integers(1, 40), cut=st.integers(0, 40), order=st.permutations(range(4))
)
def test_chunks_and_batches_leave_no_trace(device, n, samples, cut, order):
    x, ids = inputs((n,), batch=4)
    whole = points(x, 0.3, samples, device=device, ids=ids, seed=5)
    cut = min(cut, samples)
    parts = [
        points(x, 0.3, stop - start, device=device, ids=ids, seed=5, first_sample=start)
        for start, stop in ((0, cut), (cut, samples))
    ]
    assert torch.equal(torch.cat(parts, 1), whole)
    order = torch.tensor(order)
    assert torch.equal(points(x[order], 0.3, samples, device=device, ids=ids[order], seed=5), whole[order])


def test_threads_and_flushed_subnormals_leave_no_trace(threads):
    x, ids = inputs((3, 32, 32), batch=7)
    whole = points(x, 1e-39, 33, ids=ids)
    assert ((whole > 0) & (whole < 2**-126)).any()  # there is something to flush
    for count in (1, 3, 8):
        threads(count)
        torch.set_flush_denormal(True)
        try:
            mine = points(x, 1e-39, 33, ids=ids)
        finally:
            torch.set_flush_denormal(False)
        assert same_bits(mine, whole)


@pytest.mark.parametrize("device", DEVICES)
def test_seed_and_first_sample_from_tensors(device):
    x, ids = inputs((50,))
    seed, first = torch.tensor(-123456789012345), torch.tensor([2**32 - 3])
    expected = points(x, 0.1, 3, ids=ids, seed=int(seed), first_sample=int(first))
    for options in (
        {"seed": seed.to(device), "first_sample": int(first)},
        {"seed": int(seed), "first_sample": first.to(device)},
        {"seed": seed.to(device), "first_sample": first.to(device)},
    ):
        assert torch.equal(points(x, 0.1, 3, device=device, ids=ids, **options), expected)


# Distribution. One draw of 10^7 variates for each statement; thresholds of 1e-6 make a false alarm rare, and
# the addressed randomness makes every run see the same numbers.
DRAWS = 10_000_000


@pytest.fixture(scope="module")
def uniforms():
    """x = r = 0.5: the whole unit interval. Axes: example, sample, element."""
    return points(torch.full((10, 1000), 0.5), 0.5, DRAWS // 10_000, seed=2024)


def test_uniform_on_the_unit_interval(uniforms):
    u = uniforms.flatten().numpy()
    assert stats.kstest(u, "uniform").pvalue > 1e-6
    for bins in (256, 65536):  # all 16 bits are in use, each value equally often
        counts = torch.histc(uniforms.flatten(), bins, 0, 1).numpy()
        assert stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize(
    ("what", "one", "other"),
    [
        (
            "neighbouring elements",
            (slice(None), slice(None), slice(1, None)),
            (slice(None), slice(None), slice(-1)),
        ),
        (
            "lanes of one call apart",
            (slice(None), slice(None), slice(8, None)),
            (slice(None), slice(None), slice(-8)),
        ),
        ("neighbouring samples", (slice(None), slice(1, None)), (slice(None), slice(-1))),
        ("neighbouring examples", (slice(1, None),), (slice(-1),)),
    ],
)
def test_independent_across(uniforms, what, one, other):
    a, b = uniforms[one].flatten().double() - 0.5, uniforms[other].flatten().double() - 0.5
    correlation = float((a * b).mean() * 12)
    assert abs(correlation) < 5 / math.sqrt(a.numel()), what
    pairs = ((a + 0.5) * 16).long() * 16 + (
        (b + 0.5) * 16
    ).long()  # joint distribution, not only the correlation
    assert stats.chisquare(torch.bincount(pairs, minlength=256).numpy()).pvalue > 1e-6


def test_independent_across_seeds(uniforms):
    other = points(torch.full((10, 1000), 0.5), 0.5, DRAWS // 10_000, seed=2025)
    correlation = float(((uniforms.double() - 0.5) * (other.double() - 0.5)).mean() * 12)
    assert abs(correlation) < 5 / math.sqrt(DRAWS)
    assert not (uniforms == other).all(-1).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_modes_are_the_two_distributions(dtype):
    x, r, samples = torch.tensor([[0.0], [0.1], [0.5], [1.0]]), 0.3, 250_000
    inside = points(x, r, samples, seed=3, clip="intersect")[..., 0]
    clamped = points(x, r, samples, seed=3, clip="clamp")[..., 0]
    for centre, row in zip(x[:, 0].tolist(), inside, strict=True):
        low, high = max(0.0, centre - r), min(1.0, centre + r)
        assert stats.kstest(row.numpy(), "uniform", args=(low, high - low)).pvalue > 1e-6
    for centre, row in zip(x[:, 0].tolist(), clamped, strict=True):
        for edge, expected in ((0.0, max(0, r - centre) / (2 * r)), (1.0, max(0, centre + r - 1) / (2 * r))):
            share = float((row == edge).double().mean())
            assert abs(share - expected) < 5 * math.sqrt(0.25 / samples)
    assert ((inside == 0) | (inside == 1)).double().mean() < 1e-3  # no mass on the edges
    reduced = points(x, r, samples, dtype, seed=3)[..., 0]
    assert same_bits(reduced, inside.to(dtype))


def test_points_stay_inside_the_region():
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(64, 512, generator=generator)
    r = torch.rand(64, generator=generator)
    p = points(x, r, 200, seed=9)
    low, high = (x - r[:, None]).clamp(0, 1)[:, None], (x + r[:, None]).clamp(0, 1)[:, None]
    assert bool(((p >= low) & (p <= high)).all())


def test_large_example_and_late_sample():
    x, ids = inputs((1_000_000,), batch=1)
    late = points(x, 0.3, 1, ids=ids, first_sample=2**31 - 1)
    assert same_bits(late, reference.sample_hypercube(x, 0.3, 1, example_ids=ids, first_sample=2**31 - 1))


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 0, 8), (2, 3, 0)])
def test_empty(shape):
    out = torch.empty(shape)
    ops.sample_hypercube_(
        out, torch.empty(shape[0], shape[2]), 0.1, example_ids=torch.zeros(shape[0], dtype=torch.int64)
    )


GOOD = {"out": torch.empty(2, 3, 4), "x": torch.rand(2, 4), "r": 0.1, "example_ids": torch.arange(2)}
BAD = [
    ({"out": torch.empty(2, 4)}, ValueError, r"out must have shape \[B, s, ...\], got \[2, 4\]"),
    ({"out": torch.empty(2, 3, 4, dtype=torch.float64)}, TypeError, "out must be float32.*got torch.float64"),
    ({"out": torch.empty(2, 4, 3).mT}, ValueError, "out must be contiguous or channels_last, got strides"),
    ({"x": torch.rand(2, 5)}, ValueError, r"x must have shape \[2, 4\], got \[2, 5\]"),
    ({"x": torch.rand(2, 4).double()}, TypeError, "x must be torch.float32, got torch.float64"),
    ({"x": torch.rand(2, 4, device="meta")}, ValueError, "x must be on cpu like the output, got meta"),
    ({"r": -0.1}, ValueError, "r must be a finite number >= 0, got -0.1"),
    ({"r": math.nan}, ValueError, "r must be a finite number >= 0, got nan"),
    ({"r": math.inf}, ValueError, "r must be a finite number >= 0, got inf"),
    ({"r": torch.rand(3)}, ValueError, r"r must have shape \[2\], got \[3\]"),
    ({"example_ids": torch.zeros(2)}, TypeError, "example_ids must be torch.int64, got torch.float32"),
    ({"example_ids": torch.arange(3)}, ValueError, r"example_ids must have shape \[2\], got \[3\]"),
    ({"clip": "wrap"}, ValueError, "clip must be 'intersect' or 'clamp', got 'wrap'"),
    ({"first_sample": -1}, ValueError, "first_sample must lie in .*got -1"),
    ({"first_sample": 2**32 - 2}, ValueError, "first_sample must lie in .*got 4294967294"),
    ({"seed": 2**64}, ValueError, "seed must fit 64 bits, got 18446744073709551616"),
    ({"seed": torch.rand(1)}, TypeError, "seed must be one int64 value, got torch.float32"),
    ({"first_sample": torch.arange(2)}, TypeError, r"first_sample must be one int64 value.*shape \[2\]"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=[m[:40] for _, _, m in BAD])
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        ops.sample_hypercube_(**{**GOOD, **change})


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    op = torch.ops.rcfast.sample_hypercube_.default
    x, ids = torch.rand(2, 3, 4, 4, device=device), torch.arange(2, device=device)
    out = torch.empty(2, 5, 3, 4, 4, device=device)
    torch.library.opcheck(op, (out, x, 0.1, None, ids, 7, None, 0, None, "intersect"))
    r, seed = torch.rand(2, device=device), torch.tensor(3, device=device)
    torch.library.opcheck(op, (out.bfloat16(), x, 0.0, r, ids, 0, seed, 2, None, "clamp"))
    torch.library.opcheck(op, (out, x, 0.0, r, ids, 0, seed, 0, seed, "clamp"))


def test_version_counter_and_fake_tensors():
    out, version = torch.empty(2, 3, 4), None
    version = out._version
    ops.sample_hypercube_(out, torch.rand(2, 4), 0.1, example_ids=torch.arange(2))
    assert out._version > version
    with torch._subclasses.FakeTensorMode():
        ops.sample_hypercube_(torch.empty(2, 3, 4), torch.rand(2, 4), 0.1, example_ids=torch.arange(2))


def test_torch_compile_full_graph():
    def draw(x, ids):
        out = torch.empty(2, 5, 12)
        ops.sample_hypercube_(out, x, 0.2, seed=4, example_ids=ids)
        return out * 2

    x, ids = inputs((12,), batch=2)
    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, ids), draw(x, ids))


def test_torch_compile_inductor(compiler):
    def draw(x, ids):
        out = torch.empty(2, 5, 12)
        ops.sample_hypercube_(out, x / 2, 0.2, seed=4, example_ids=ids)
        return out * 2

    x, ids = inputs((12,), batch=2)
    assert same_bits(torch.compile(draw, fullgraph=True)(x, ids), draw(x, ids))


@pytest.mark.gpu
def test_cuda_graph_replays_with_a_new_seed_and_other_samples():
    x, ids = inputs((784,))
    x, ids = x.cuda(), ids.cuda()
    out = torch.empty(3, 8, 784, device="cuda")
    seed, first = torch.zeros(2, 1, dtype=torch.int64, device="cuda")
    ops.sample_hypercube_(out, x, 0.3, seed=seed, first_sample=first, example_ids=ids)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.sample_hypercube_(out, x, 0.3, seed=seed, first_sample=first, example_ids=ids)
    for value in (5, 6):
        seed.fill_(value)
        first.fill_(8 * value)
        graph.replay()
        expected = points(x.cpu(), 0.3, 8, ids=ids.cpu(), seed=value, first_sample=8 * value)
        assert torch.equal(out.cpu(), expected)


@pytest.mark.gpu
def test_runs_on_the_current_stream_and_the_tensors_device():
    x, ids = inputs((784,))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        out = points(x, 0.3, 64, device="cuda", ids=ids)
    assert same_bits(out, points(x, 0.3, 64, ids=ids))
