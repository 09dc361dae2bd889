"""conv3x3_: against torch in float64, the same bits for an image in any batch, and the operator's manners."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sample_hypercube import instruction_set, threads  # noqa: F401

from rcfast import ops, reference, winograd

CLOSE = 2e-5  # of the largest value: float32 sums of up to 9·64 products reach 7e-7, Winograd's 6e-6


def random(images, channels, filters, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, channels, height, width, generator=generator).relu()
    weight = torch.randn(filters, channels, 3, 3, generator=generator) / math.sqrt(9 * channels)
    bias = torch.randn(filters, generator=generator)
    return x.contiguous(memory_format=torch.channels_last), weight, bias


def convolve(x, weight, bias, *, padding=0, pool=False, **options):
    sides = [(side + 2 * padding - 2) // (2 if pool else 1) for side in x.shape[2:]]
    out = torch.full((len(x), len(weight), *sides), math.nan).contiguous(memory_format=torch.channels_last)
    ops.conv3x3_(out, x, winograd.pack(weight), bias, padding=padding, pool=pool, **options)
    return out


def check(x, weight, bias, **options):
    doubled = {
        name: value.double() if name in ("added", "gate") else value for name, value in options.items()
    }
    expected = reference.conv3x3(x.double(), weight.double(), bias.double(), **doubled)
    got = convolve(x, weight, bias, **options)
    largest = float(expected.abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=CLOSE * max(largest, 1.0))


@pytest.mark.parametrize(
    ("channels", "filters"), [(1, 32), (3, 16), (4, 8), (8, 8), (16, 24), (40, 64), (64, 40)]
)
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_is_the_convolution(instruction_set, channels, filters, padding):  # noqa: F811
    for height, width in ((3, 3), (4, 7), (6, 6), (9, 5), (13, 14)):
        x, weight, bias = random(3, channels, filters, height, width)
        for relu in (False, True):
            check(x, weight, bias, padding=padding, relu=relu)
            if channels > ops.CONV_FEW and min(height, width) + 2 * padding >= 4:
                check(x, weight, bias, padding=padding, relu=relu, pool=True)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (4, 7), (9, 5), (13, 14)])
@pytest.mark.parametrize("pool", [False, True])
def test_a_residual_and_a_gate(instruction_set, height, width, pool):  # noqa: F811
    x, weight, bias = random(3, 16, 24, height, width)
    shape = (3, 24, height // 2, width // 2) if pool else (3, 24, height, width)
    generator = torch.Generator().manual_seed(1)
    added, gate = (
        torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    gate[:, :, 0].zero_()
    for relu in (False, True):
        for more in ({"added": added}, {"gate": gate}, {"added": added, "gate": gate}):
            check(x, weight, bias, padding=1, relu=relu, pool=pool, **more)
    gate.fill_(math.nan)  # as in torch: the gradient passes where the result of a ReLU is NaN
    passed = convolve(x, weight, bias, padding=1, pool=pool, gate=gate)
    assert torch.equal(passed, convolve(x, weight, bias, padding=1, pool=pool))


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(0, 30),
    channels=st.sampled_from([1, 2, 3, 4, 8, 16, 24]),
    filters=st.sampled_from([8, 16, 24, 40]),
    sides=st.tuples(st.integers(3, 12), st.integers(3, 12)),
    padding=st.integers(0, 2),
    relu=st.booleans(),
    pool=st.booleans(),
)
def test_odd_shapes(images, channels, filters, sides, padding, relu, pool):
    x, weight, bias = random(images, channels, filters, *sides)
    pool = pool and channels > ops.CONV_FEW and min(sides) + 2 * padding >= 4
    check(x, weight, bias, padding=padding, relu=relu, pool=pool)


def test_an_image_gives_the_same_bits_in_any_batch_and_on_any_threads(threads):  # noqa: F811
    for channels, pool in ((1, False), (32, True)):
        x, weight, bias = random(50, channels, 32, 11, 11)
        options = {"relu": True, "pool": pool, "padding": 1}
        torch.set_num_threads(1)
        alone = torch.cat([convolve(image, weight, bias, **options) for image in x.split(1)])
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(convolve(x, weight, bias, **options), alone)
            assert torch.equal(convolve(x[7:], weight, bias, **options), alone[7:])


@pytest.mark.parametrize("channels", [1, 8])
def test_nan_and_infinity_reach_the_output(instruction_set, channels):  # noqa: F811
    x, weight, bias = random(2, channels, 16, 8, 8)
    x[0, 0, 3, 3] = math.nan
    got, expected = convolve(x, weight, bias, relu=True), reference.conv3x3(x, weight, bias, relu=True)
    assert bool(got[0, :, 1:4, 1:4].isnan().all())  # Winograd's tile spreads it further
    assert bool(expected.isnan().logical_not().logical_or(got.isnan()).all())
    assert not got[1].isnan().any()
    if channels > ops.CONV_FEW:
        for bad in (math.nan, math.inf):
            pooled = convolve(x[1:], weight, torch.full((16,), bad), relu=True, pool=True)
            assert bool((pooled.isnan() if math.isnan(bad) else pooled == bad).all())


def test_what_does_not_fit_is_said():
    for shape, fits in (((32, 1, 3, 3), True), ((32, 3, 3, 3), True), ((8, 8, 3, 3), True), ((10, 8, 3, 3), False),
                        ((8, 6, 3, 3), False), ((8, 8, 5, 5), False), ((8, 8, 1, 1), False)):  # fmt: skip
        assert winograd.fits(torch.zeros(shape)) == fits
        if not fits:
            with pytest.raises(ValueError, match="weight must have shape"):
                winograd.pack(torch.zeros(shape))


X, WEIGHTS, BIAS = (
    torch.zeros(2, 8, 6, 6).contiguous(memory_format=torch.channels_last),
    torch.zeros(36, 1, 8, 16),
    torch.zeros(8),
)
OUT = torch.zeros(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": X[0]}, ValueError, r"x must have shape \[N, C, H, W\], got \[8, 6, 6\]"),
        ({"x": X.double()}, TypeError, "x must be torch.float32"),
        ({"x": X.contiguous()}, ValueError, "x must be channels_last"),
        ({"x": X[:, :, :2]}, ValueError, "x must have sides of at least 3 with padding 0"),
        ({"x": X.to("meta")}, ValueError, "x must be on cpu"),
        ({"out": OUT[:1]}, ValueError, r"out must have shape \[2, 8, 4, 4\]"),
        ({"out": OUT.contiguous()}, ValueError, "out must be channels_last"),
        ({"out": OUT.bfloat16()}, TypeError, "out must be torch.float32"),
        ({"weights": torch.zeros(9, 1, 8, 16)}, ValueError, "weights must have shape"),
        ({"weights": WEIGHTS.double()}, TypeError, "weights must be torch.float32"),
        ({"bias": torch.zeros(8, 1)}, ValueError, "bias must have shape"),
        (
            {"bias": torch.zeros(12)},
            ValueError,
            "bias must have a multiple of 8 values, one a filter, got 12",
        ),
        (
            {"x": torch.zeros(2, 6, 6, 6)},
            ValueError,
            "x must have up to 4 channels or a multiple of 8, got 6",
        ),
        ({"padding": 3}, ValueError, r"padding must lie in \[0, 2\], got 3"),
        ({"padding": -1}, ValueError, r"padding must lie in \[0, 2\], got -1"),
        ({"pool": True}, ValueError, r"out must have shape \[2, 8, 2, 2\]"),
        ({"added": OUT[:, :, :2]}, ValueError, r"added must have shape \[2, 8, 4, 4\], got \[2, 8, 2, 4\]"),
        ({"gate": OUT.double()}, TypeError, "gate must be torch.float32"),
        ({"added": OUT.contiguous()}, ValueError, "added must be channels_last"),
        ({"gate": OUT.to("meta")}, ValueError, "gate must be on cpu"),
        (
            {"x": torch.zeros(2, 1, 6, 6), "weights": torch.zeros(9, 1, 1, 16), "added": OUT},
            ValueError,
            "added must be None with up to 4 channels",
        ),
        (
            {"x": torch.zeros(2, 1, 6, 6), "weights": torch.zeros(9, 1, 1, 16), "pool": True},
            ValueError,
            "pool must be False with up to 4 channels",
        ),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {"out": OUT, "x": X, "weights": WEIGHTS, "bias": BIAS, **change}
    options = {key: arguments.pop(key) for key in ("padding", "pool") if key in arguments}
    with pytest.raises(error, match=message):
        ops.conv3x3_(**arguments, **options)


def test_opcheck_and_version_counter():
    out, x = OUT.clone(memory_format=torch.preserve_format), X
    before = out._version
    ops.conv3x3_(out, x, WEIGHTS, BIAS)
    assert out._version == before + 1
    op = torch.ops.rcfast.conv3x3_.default
    torch.library.opcheck(op, (out, x, WEIGHTS, BIAS, 0, True, False, OUT, None))
