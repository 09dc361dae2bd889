"""vote_soft_ and distance_: against the plain torch twins and float64, ties, NaN, infinities, and manners."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sample_hypercube import DEVICES, DTYPES, instruction_set, same_bits, threads  # noqa: F401

from rcfast import ops, reference
from rcfast.ops import UNITS

MODES = ["softmax", "margin", "weighted"]


def tally(logits, mode, device="cpu", weights=None):
    totals = torch.full((logits.shape[0], logits.shape[2]), 3, dtype=torch.int64, device=device)
    cast = torch.full((logits.shape[0],), 5, dtype=torch.int32, device=device)
    weights = weights_of(logits, weights) if mode == "weighted" else None
    ops.vote_soft_(
        totals, cast, logits.to(device), mode=mode, weights=None if weights is None else weights.to(device)
    )
    return totals.cpu() - 3, cast.cpu() - 5


def weights_of(logits, weights=None):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randint(0, UNITS + 1, logits.shape[:2], generator=generator, dtype=torch.int32)
        if weights is None
        else weights
    )


def expected(logits, mode):
    totals = torch.zeros(logits.shape[0], logits.shape[2], dtype=torch.int64)
    cast = torch.zeros(logits.shape[0], dtype=torch.int32)
    weights = weights_of(logits) if mode == "weighted" else None
    return reference.vote_soft(totals, cast, logits, mode=mode, weights=weights)


def equal(found, wanted):
    return torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


def hard_logits(labels, dtype):
    """Ties, NaN, infinities of both signs, all of a row minus infinity, subnormals, and a wide spread."""
    generator = torch.Generator().manual_seed(labels)
    logits = torch.randn(4, 37, labels, generator=generator) * torch.logspace(-3, 2, 37)[:, None]
    logits[3] = torch.randint(-3, 4, (37, labels), generator=generator).float()
    logits[0, 3, labels - 1], logits[1, 2], logits[2, 5, 1] = math.nan, -math.inf, math.inf
    logits[2, 6], logits[2, 7, 0] = math.inf, -math.inf
    logits[2, 8, 0], logits[2, 9, 0] = 1e-40, -1e-40
    return logits.to(dtype)


@pytest.mark.parametrize("labels", [2, 3, 10, 16, 17, 64, 100, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_equals_reference(instruction_set, labels, dtype, mode):  # noqa: F811
    logits = hard_logits(labels, dtype)
    found = tally(logits, mode)
    assert equal(found, expected(logits, mode))
    assert found[1].tolist() == [36, 37, 37, 37]


@pytest.mark.gpu
@pytest.mark.parametrize("labels", [2, 10, 33, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_cuda_equals_cpu(labels, dtype, mode):
    logits = hard_logits(labels, dtype)
    assert equal(tally(logits, mode, "cuda"), tally(logits, mode))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("labels", [2, 10, 1000])
def test_is_softmax_within_twelve_units(device, labels):
    """Each row alone, in float64; a point gives no more than 1 in all."""
    generator = torch.Generator().manual_seed(labels)
    logits = torch.randn(500, 1, labels, generator=generator) * torch.logspace(-2, 1.5, 500)[:, None, None]
    exact = logits.double().softmax(-1)[:, 0]
    shares, _ = tally(logits, "softmax", device)
    assert ((shares / UNITS) - exact).abs().max() * UNITS < 12
    assert (shares.sum(1) <= UNITS).all()
    top = exact.topk(2).values
    margin, _ = tally(logits, "margin", device)
    assert (margin.amax(1) / UNITS - (top[:, 0] - top[:, 1])).abs().max() * UNITS < 12
    assert (margin.sum(1) == margin.amax(1)).all()


def test_every_exponential():
    """Against float64: an error of rounding, and less than a unit of 2^-30 below."""
    d = -torch.cat([torch.linspace(0, 25, 200_001), torch.logspace(-40, 1, 10_001)]).to(torch.float32)
    exact = d.double().exp() * 2**30
    units = reference.exp_units(d)
    assert (units - exact <= exact * 2e-7).all()
    assert (exact - units <= exact * 2e-7 + 1).all()


def test_equal_votes_are_counts():
    """Weights of 1 are votes; a margin of certain points is nearly 1."""
    logits = torch.randn(3, 50, 10, generator=torch.Generator().manual_seed(0))
    counts = torch.zeros(3, 10, dtype=torch.int32)
    ops.vote_(counts, logits)
    ones = torch.full((3, 50), UNITS, dtype=torch.int32)
    assert torch.equal(tally(logits, "weighted", weights=ones)[0], counts.long() * UNITS)
    sure = logits * 1e6
    assert (tally(sure, "margin")[0] / UNITS - counts).abs().max() < 1e-4


@settings(max_examples=30, deadline=None)
@given(
    samples=st.integers(1, 60),
    labels=st.integers(2, 130),
    cut=st.integers(0, 60),
    mode=st.sampled_from(MODES),
)
def test_chunks_leave_no_trace(samples, labels, cut, mode):
    logits = torch.randn(3, samples, labels, generator=torch.Generator().manual_seed(samples))
    weights = weights_of(logits)
    parts = [
        tally(logits[:, part], mode, weights=weights[:, part])
        for part in (slice(0, cut), slice(cut, samples))
    ]
    whole = tally(logits, mode)
    assert torch.equal(parts[0][0] + parts[1][0], whole[0])
    assert torch.equal(parts[0][1] + parts[1][1], whole[1])


def test_threads_leave_no_trace(threads):  # noqa: F811
    logits = torch.randn(3, 999, 40, generator=torch.Generator().manual_seed(0))
    wholes = {mode: tally(logits, mode) for mode in MODES}
    for count in (1, 2, 5):
        threads(count)
        torch.set_flush_denormal(True)
        try:
            assert all(equal(tally(logits, mode), wholes[mode]) for mode in MODES)
        finally:
            torch.set_flush_denormal(False)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1,), (33,), (784,), (4100,), (3, 7, 5), (5, 3, 2, 7)])
def test_distance_equals_reference_in_every_layout(instruction_set, device, shape):  # noqa: F811
    generator = torch.Generator().manual_seed(0)
    x, points = torch.rand(2, *shape, generator=generator), torch.rand(2, 5, *shape, generator=generator)
    for dtype in DTYPES:
        layouts = [points.to(dtype)]
        if len(shape) > 1:
            form = torch.channels_last if len(shape) == 3 else torch.channels_last_3d
            layouts.append(layouts[0].flatten(0, 1).to(memory_format=form).unflatten(0, (2, 5)))
        wanted = reference.distance(layouts[0], x)
        for laid in layouts:
            out = torch.empty(2, 5, device=device)
            ops.distance_(out, laid.to(device), x.to(device))
            assert same_bits(out.cpu(), wanted)
        norms = (layouts[0].double() - x[:, None]).flatten(2).norm(dim=2)
        torch.testing.assert_close(wanted.double(), norms, rtol=1e-6, atol=0)


def test_empty():
    assert tally(torch.empty(0, 4, 3), "softmax")[0].shape == (0, 3)
    assert tally(torch.empty(2, 0, 3), "margin")[0].sum() == 0
    ops.distance_(torch.empty(2, 0), torch.empty(2, 0, 3), torch.empty(2, 3))
    nowhere = torch.full((2, 3), 7.0)
    ops.distance_(nowhere, torch.empty(2, 3, 0), torch.empty(2, 0))
    assert not nowhere.any()


GOOD = {
    "totals": torch.zeros(2, 3, dtype=torch.int64),
    "cast": torch.zeros(2, dtype=torch.int32),
    "logits": torch.zeros(2, 4, 3),
    "mode": "softmax",
}
BAD = [
    ({"mode": "hard"}, ValueError, "mode must be one of 'softmax', 'margin', 'weighted', got 'hard'"),
    ({"mode": "weighted"}, ValueError, "weights belong to mode 'weighted' alone, got mode 'weighted'"),
    (
        {"weights": torch.zeros(2, 4, dtype=torch.int32)},
        ValueError,
        "weights belong to mode 'weighted' alone",
    ),
    (
        {"mode": "weighted", "weights": torch.zeros(2, 4)},
        TypeError,
        "weights must be torch.int32, got torch.float32",
    ),
    ({"totals": torch.zeros(2, 3)}, TypeError, "totals must be torch.int64, got torch.float32"),
    ({"cast": torch.zeros(3, dtype=torch.int32)}, ValueError, r"cast must have shape \[2\], got \[3\]"),
    ({"logits": torch.zeros(3, 4)}, ValueError, r"logits must have shape \[B, s, L\], got \[3, 4\]"),
    (
        {"totals": torch.zeros(3, 2, dtype=torch.int64).T},
        ValueError,
        "totals must be contiguous, got strides",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=[m[:40] for _, _, m in BAD])
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        ops.vote_soft_(**{**GOOD, **change})


DISTANCE_BAD = [
    ({"points": torch.zeros(2, 4)}, ValueError, r"points must have shape \[B, s, ...\], got \[2, 4\]"),
    ({"points": torch.zeros(2, 4, 3).double()}, TypeError, "points must be float32.*got torch.float64"),
    ({"x": torch.zeros(2, 4)}, ValueError, r"x must have shape \[2, 3\], got \[2, 4\]"),
    ({"points": torch.zeros(2, 3, 4).mT}, ValueError, "points must be contiguous or channels_last"),
    ({"out": torch.zeros(4, 2).T}, ValueError, "out must be contiguous, got strides"),
]


@pytest.mark.parametrize(
    ("change", "error", "message"), DISTANCE_BAD, ids=[m[:40] for _, _, m in DISTANCE_BAD]
)
def test_bad_input_of_distance(change, error, message):
    good = {"out": torch.zeros(2, 4), "points": torch.zeros(2, 4, 3), "x": torch.zeros(2, 3)}
    with pytest.raises(error, match=message):
        ops.distance_(**{**good, **change})


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    totals = torch.zeros(2, 3, dtype=torch.int64, device=device)
    cast, logits = torch.zeros(2, dtype=torch.int32, device=device), torch.randn(2, 4, 3, device=device)
    torch.library.opcheck(torch.ops.rcfast.vote_soft_.default, (totals, cast, logits, None, "softmax"))
    weights = torch.ones(2, 4, dtype=torch.int32, device=device)
    torch.library.opcheck(torch.ops.rcfast.vote_soft_.default, (totals, cast, logits, weights, "weighted"))
    points, x = torch.rand(2, 4, 3, device=device), torch.rand(2, 3, device=device)
    torch.library.opcheck(torch.ops.rcfast.distance_.default, (torch.zeros(2, 4, device=device), points, x))
