"""The exact pair search against its torch twin, and its manners as an operator."""

import pytest
import torch

from rcfast import ops, reference


def draw(batch: int, n: int, levels: float, seed: int, device: str = "cpu"):
    """Gradients that take few (ties) or many values, and a mask."""
    rng = torch.Generator().manual_seed(seed)
    a = ((torch.rand(batch, n, generator=rng) - 0.5) * levels).round()
    b = ((torch.rand(batch, n, generator=rng) - 0.5) * levels).round()
    free = torch.rand(batch, n, generator=rng) < 0.8
    return a.to(device), b.to(device), free.to(device)


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("levels", [2, 5, 1000, 1e7])
@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 63, 64, 65, 130, 300])
def test_equals_the_twin(n, levels, down):
    a, b, free = draw(4, n, levels, seed=n)
    assert torch.equal(
        ops.saliency_pair(a, b, free, down=down), reference.saliency_pair(a, b, free, down=down)
    )


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e30])
def test_scores_that_underflow_or_overflow(scale):
    a, b, free = draw(4, 50, 100, seed=2)
    a, b = a * scale, b * scale
    assert torch.equal(ops.saliency_pair(a, b, free), reference.saliency_pair(a, b, free))


def test_nan_and_infinity():
    a, b, free = draw(4, 40, 1000, seed=3)
    a[0, ::3], b[1, ::5], a[2, 7], b[3, 8] = torch.nan, torch.nan, torch.inf, -torch.inf
    assert torch.equal(ops.saliency_pair(a, b, free), reference.saliency_pair(a, b, free))


def test_by_hand():
    a = torch.tensor([[1.0, 2.0, -5.0, 3.0]])
    b = torch.tensor([[-1.0, -1.0, -9.0, 0.5]])
    free = torch.ones(1, 4, dtype=torch.bool)
    # Scores: 01 -> 3*2, 03 -> 4*0.5, 13 -> 5*0.5; all with 2 have alpha < 0.
    assert ops.saliency_pair(a, b, free).tolist() == [[0, 1]]
    free[0, 0] = False
    assert ops.saliency_pair(a, b, free).tolist() == [[1, 3]]
    assert ops.saliency_pair(-a, -b, free, down=True).tolist() == [[1, 3]]


def test_ties_go_to_the_lowest_pair():
    free = torch.ones(1, 500, dtype=torch.bool)
    ones = torch.ones(1, 500)
    assert ops.saliency_pair(ones, -ones, free).tolist() == [[0, 1]]
    free[0, :7] = False
    assert ops.saliency_pair(ones, -ones, free).tolist() == [[7, 8]]


def test_no_valid_pair():
    ones, free = torch.ones(2, 9), torch.ones(2, 9, dtype=torch.bool)
    assert ops.saliency_pair(ones, ones, free).tolist() == [[-1, -1]] * 2  # beta is never negative
    assert ops.saliency_pair(ones, -ones, ~free).tolist() == [[-1, -1]] * 2
    free[:, 1:] = False
    assert ops.saliency_pair(ones, -ones, free).tolist() == [[-1, -1]] * 2  # one coordinate is no pair
    assert (
        ops.saliency_pair(torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, 0).bool()).tolist()
        == [[-1, -1]] * 2
    )
    assert ops.saliency_pair(torch.zeros(0, 5), torch.zeros(0, 5), torch.zeros(0, 5).bool()).shape == (0, 2)


@pytest.mark.parametrize("kind", ["independent", "opposed", "circle"])
def test_many_coordinates_against_rows_of_the_score(kind):
    """224x224x3 coordinates: no pair with one of many coordinates scores higher than the pair found."""
    n, rng = 150_528, torch.Generator().manual_seed(4)
    a, b = torch.randn(1, n, generator=rng), torch.randn(1, n, generator=rng)
    if kind == "opposed":
        b = a + 0.1 * b
    elif kind == "circle":
        a, b = a / (a * a + b * b).sqrt(), b / (a * a + b * b).sqrt()
    free = torch.ones(1, n, dtype=torch.bool)
    p, q = ops.saliency_pair(a, b, free)[0].tolist()
    best = (a[0, p] + a[0, q]) * -(b[0, p] + b[0, q])
    assert 0 <= p < q
    assert best > 0
    top = torch.cat([a[0].topk(100).indices, (-b[0]).topk(100).indices, torch.arange(0, n, n // 100)])
    for i in [p, q, *top.tolist()]:
        alpha, beta = a[0, i] + a[0], b[0, i] + b[0]
        score = torch.where((alpha > 0) & (beta < 0), alpha * -beta, -1.0)
        score[i] = -1
        assert score.max() <= best


def test_threads_and_instruction_sets_agree():
    from rcfast import _C

    a, b, free = draw(40, 700, 1e7, seed=5)
    threads, before = torch.get_num_threads(), ops.build_info()["instruction_set"]
    want = ops.saliency_pair(a, b, free)
    try:
        for name in ops.build_info()["instruction_sets"]:
            _C.use_instruction_set(name)
            for count in (1, 3):
                torch.set_num_threads(count)
                assert torch.equal(ops.saliency_pair(a, b, free), want)
    finally:
        torch.set_num_threads(threads)
        _C.use_instruction_set(before)


def test_rows_that_are_not_contiguous():
    a, b, free = draw(6, 40, 1000, seed=6)
    want = ops.saliency_pair(a.T.contiguous().T[::2], b[::2], free[::2])
    assert torch.equal(want, ops.saliency_pair(a, b, free)[::2])


def test_opcheck_and_version_counter():
    a, b, free = draw(3, 20, 100, seed=7)
    out, workspace = torch.empty(3, 2, dtype=torch.int64), torch.empty(3, 1)
    torch.library.opcheck(torch.ops.rcfast.saliency_pair_.default, (out, workspace, a, b, free, False))
    before = [t._version for t in (out, workspace, a, b, free)]
    torch.ops.rcfast.saliency_pair_(out, workspace, a, b, free, False)
    after = [t._version for t in (out, workspace, a, b, free)]
    assert [new > old for old, new in zip(before, after, strict=True)] == [True, True, False, False, False]


def test_torch_compile_full_graph():
    def chosen(a, b, free):
        return ops.saliency_pair(a * 2, b, free) + 1

    tensors = draw(3, 20, 100, seed=7)
    compiled = torch.compile(chosen, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*tensors), chosen(*tensors))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": torch.zeros(2, 3, 4)}, ValueError, r"a must have shape \[B, n\]"),
        (
            {"a": torch.zeros(2, 5, dtype=torch.float64)},
            TypeError,
            "a must be torch.float32, got torch.float64",
        ),
        ({"b": torch.zeros(2, 6)}, ValueError, r"b must have shape \[2, 5\], got \[2, 6\]"),
        ({"free": torch.zeros(2, 5)}, TypeError, "free must be torch.bool, got torch.float32"),
    ],
)
def test_bad_input(change, error, message):
    good = {"a": torch.zeros(2, 5), "b": torch.zeros(2, 5), "free": torch.ones(2, 5, dtype=torch.bool)}
    with pytest.raises(error, match=message):
        ops.saliency_pair(**{**good, **change})


@pytest.mark.gpu
@pytest.mark.parametrize("levels", [2, 1e7])
@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 784, 3000])
def test_cuda_equals_the_cpu(n, levels):
    a, b, free = draw(5, n, levels, seed=n)
    for down in (False, True):
        want = ops.saliency_pair(a, b, free, down=down)
        assert torch.equal(ops.saliency_pair(a.cuda(), b.cuda(), free.cuda(), down=down).cpu(), want)
