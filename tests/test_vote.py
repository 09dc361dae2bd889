"""vote_: against the plain torch twin and torch.argmax, ties, NaN, and the operator's manners."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sample_hypercube import DEVICES, DTYPES, compiler, instruction_set, threads  # noqa: F401

from rcfast import ops, reference


def votes(logits, device="cpu"):
    counts = torch.zeros(logits.shape[0], logits.shape[2], dtype=torch.int32, device=device)
    ops.vote_(counts, logits.to(device))
    return counts.cpu()


@pytest.mark.parametrize("labels", [2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 31, 32, 33, 64, 65, 100, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_reference_with_ties_and_nan(instruction_set, labels, dtype):  # noqa: F811
    generator = torch.Generator().manual_seed(labels)
    logits = torch.randint(-3, 4, (4, 37, labels), generator=generator).to(dtype)  # many ties
    logits[0, 3, labels - 1], logits[1, 2], logits[2, 5, 1] = math.nan, -math.inf, math.inf
    logits[3, :, 0], logits[3, :, 1] = -0.0, 0.0
    counts = torch.full((4, labels), 5, dtype=torch.int32)
    expected = reference.vote(counts, logits)
    ops.vote_(counts, logits)
    assert torch.equal(counts, expected)
    assert (counts - 5).sum(1).tolist() == [36, 37, 37, 37]


@pytest.mark.gpu
@pytest.mark.parametrize("labels", [2, 10, 16, 17, 64, 65, 1000, 100_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_equals_cpu(labels, dtype):
    generator = torch.Generator().manual_seed(labels)
    logits = torch.randint(-3, 4, (3, 300, labels), generator=generator).to(dtype)
    logits[0, 3, labels - 1], logits[1, 2] = math.nan, -math.inf
    assert torch.equal(votes(logits, "cuda"), votes(logits))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_may_start_anywhere(device, dtype):
    """Wide reads need rows of a multiple of 16 bytes from an address of one."""
    flat = torch.randn(5 + 2 * 30 * 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    for start in (0, 1, 4, 5):
        logits = flat.to(device)[start : start + 2 * 30 * 128].view(2, 30, 128)
        assert logits.data_ptr() % 16 == start * logits.element_size() % 16
        assert torch.equal(
            votes(logits, device), reference.vote(torch.zeros(2, 128, dtype=torch.int32), logits.cpu())
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("labels", [2, 10, 17, 100])
@pytest.mark.parametrize("ends", [[37], [1, 37], [0, 5, 5, 36, 37, 37]])
def test_segments_are_votes_on_parts_of_the_samples(device, labels, ends):
    logits = torch.randn(4, 37, labels, generator=torch.Generator().manual_seed(labels)).to(device)
    logits[1, 5, 0] = math.nan
    counts = torch.full((4, len(ends), labels), 2, dtype=torch.int32, device=device)
    ops.vote_(counts, logits, ends)
    for k, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        assert torch.equal(counts[:, k].cpu() - 2, votes(logits[:, start:end], device))


@pytest.mark.parametrize("device", DEVICES)
def test_equals_torch_argmax_without_ties(device):
    logits = torch.randn(5, 400, 10, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([torch.bincount(row, minlength=10) for row in logits.argmax(-1)])
    assert torch.equal(votes(logits, device), expected.int())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("labels", [2, 10, 40, 200])
def test_ties_go_to_the_lowest_label(device, labels):
    for low in range(0, labels - 1, max(1, labels // 7)):
        logits = torch.zeros(1, 1, labels)
        logits[0, 0, low], logits[0, 0, labels - 1] = 1.0, 1.0
        assert votes(logits, device)[0, low] == 1


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 5), samples=st.integers(1, 60), labels=st.integers(2, 130), seed=st.integers(0, 99)
)
def test_odd_shapes(device, batch, samples, labels, seed):
    logits = torch.randn(batch, samples, labels, generator=torch.Generator().manual_seed(seed)).round(
        decimals=1
    )
    assert torch.equal(
        votes(logits, device), reference.vote(torch.zeros(batch, labels, dtype=torch.int32), logits)
    )


def test_many_labels_and_threads(threads):  # noqa: F811
    logits = torch.randn(2, 9, 100_000, generator=torch.Generator().manual_seed(0))
    expected = reference.vote(torch.zeros(2, 100_000, dtype=torch.int32), logits)
    for count in (1, 2, 5):
        threads(count)
        assert torch.equal(votes(logits), expected)


def test_non_contiguous_logits_and_empty():
    logits = torch.randn(10, 20, 3).permute(2, 1, 0)
    assert torch.equal(votes(logits), votes(logits.contiguous()))
    assert votes(torch.empty(0, 4, 3)).shape == (0, 3)
    assert votes(torch.empty(2, 0, 3)).sum() == 0


BAD = [
    ({"ends": [2, 1, 4]}, ValueError, "ends must rise to 4 in at most 64 segments, got"),
    ({"ends": [1, 3]}, ValueError, "ends must rise to 4 in at most 64 segments, got"),
    ({"ends": [1, 4]}, ValueError, r"counts must have shape \[2, 2, 3\], got \[2, 3\]"),
    ({"logits": torch.zeros(3, 4)}, ValueError, r"logits must have shape \[B, s, L\], got \[3, 4\]"),
    ({"logits": torch.zeros(2, 4, 3).double()}, TypeError, "logits must be float32.*got torch.float64"),
    ({"counts": torch.zeros(2, 3)}, TypeError, "counts must be torch.int32, got torch.float32"),
    (
        {"counts": torch.zeros(2, 4, dtype=torch.int32)},
        ValueError,
        r"counts must have shape \[2, 3\], got \[2, 4\]",
    ),
    (
        {"counts": torch.zeros(3, 2, dtype=torch.int32).T},
        ValueError,
        "counts must be contiguous, got strides",
    ),
    (
        {"logits": torch.zeros(2, 4, 3, device="meta")},
        ValueError,
        "logits must be on cpu like the output, got meta",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=[m[:40] for _, _, m in BAD])
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        ops.vote_(
            **{"counts": torch.zeros(2, 3, dtype=torch.int32), "logits": torch.zeros(2, 4, 3), **change}
        )


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck_and_version_counter(device):
    counts, logits = torch.zeros(2, 3, dtype=torch.int32, device=device), torch.randn(2, 4, 3, device=device)
    torch.library.opcheck(torch.ops.rcfast.vote_.default, (counts, logits, []))
    version = counts._version
    ops.vote_(counts, logits)
    assert counts._version > version


def test_torch_compile_full_graph():
    def tally(logits):
        counts = torch.zeros(2, 7, dtype=torch.int32)
        ops.vote_(counts, logits * 2)
        return counts + 1

    logits = torch.randn(2, 50, 7)
    assert torch.equal(torch.compile(tally, fullgraph=True, backend="aot_eager")(logits), tally(logits))


def test_torch_compile_inductor(compiler):  # noqa: F811
    def tally(logits):
        counts = torch.zeros(2, 7, dtype=torch.int32)
        ops.vote_(counts, logits * 2)
        return counts + 1

    logits = torch.randn(2, 50, 7)
    assert torch.equal(torch.compile(tally, fullgraph=True)(logits), tally(logits))
