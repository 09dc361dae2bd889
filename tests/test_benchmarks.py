"""The operators under pytest-benchmark: `pytest tests/test_benchmarks.py --benchmark-enable`.

Without that option each runs once, untimed, so that it cannot rot. The bars stand in bench/throughput.py.
"""

import pytest
import torch

from rcfast import ops

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
PIXELS = 784


@pytest.mark.parametrize("clip", ["intersect", "clamp"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sample_hypercube(benchmark, dtype, clip):
    out = torch.full((1, 128, PIXELS), -1, dtype=dtype)
    x, ids = torch.rand(1, PIXELS), torch.zeros(1, dtype=torch.int64)
    benchmark(ops.sample_hypercube_, out, x, 0.3, example_ids=ids, clip=clip)
    assert 0 <= out.min() < out.max() <= 1


@pytest.mark.parametrize("labels", [2, 10, 100, 1000])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_vote(benchmark, dtype, labels):
    counts, logits = torch.zeros(1, labels, dtype=torch.int32), torch.randn(1, 1000, labels).to(dtype)
    benchmark(ops.vote_, counts, logits)
    assert counts.sum() % 1000 == 0 < counts.sum()


@pytest.mark.parametrize("n", [PIXELS, 3 * 32 * 32, 3 * 224 * 224])
def test_saliency_pair(benchmark, n):
    a, b = torch.randn(9, n), torch.randn(9, n)
    pairs = benchmark(ops.saliency_pair, a, b, torch.ones(9, n, dtype=torch.bool))
    assert (pairs >= 0).all()
