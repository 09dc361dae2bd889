"""judge_: the decisions of the plain torch twin for every standing of a vote, and its manners."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rcfast import ops, reference
from rcfast.stopping import Stop, StoppingRule


def judged(votes: Tensor, rule: StoppingRule, checkpoints: list[int], opening: Tensor | None = None) -> Any:
    """counts, opening, samples, decided and state of examples that stand at nought, or at their opening."""
    active, _, labels = votes.shape
    counts = torch.zeros(active, labels, dtype=torch.int32) if opening is None else opening.clone()
    opened = counts.clone()
    samples, decided = torch.zeros(active, dtype=torch.int64), torch.zeros(active, dtype=torch.bool)
    state = ops.judge_(
        counts, opened, samples, decided, torch.arange(active), votes, checkpoints=checkpoints,
        opens=opening is None, m=rule.m, stop=rule.stop, alpha=rule.alpha,
    )  # fmt: skip
    return counts, opened, samples, decided, state


def same_as_reference(
    votes: Tensor, rule: StoppingRule, checkpoints: list[int], opening: Tensor | None
) -> None:
    found = judged(votes, rule, checkpoints, opening)
    start = torch.zeros(len(votes), votes.shape[2], dtype=torch.int32) if opening is None else opening
    expected = reference.judge(
        start, start, votes, checkpoints=checkpoints, opens=opening is None, m=rule.m, stop=rule.stop,
        alpha=rule.alpha,
    )  # fmt: skip
    for name, a, b in zip(("counts", "opening", "samples", "decided"), found, expected, strict=False):
        assert torch.equal(a, b), name
    assert torch.equal(found[4] == ops.STOPPED, expected[4])
    assert not (found[4] == ops.INCOMPLETE).any()


@pytest.mark.parametrize("alpha", [1e-3, 0.05, 1e-9])
def test_the_sequential_test_decides_as_its_twin_on_every_standing(alpha: float) -> None:
    """Leader, runner-up and a third label at the fourth checkpoint, on every opening that can have led there."""
    rule = StoppingRule("sequential", 10_000, 3, alpha)
    first, _, _, reached = rule.checkpoints()[:4]
    rows, openings = [], []
    for a in range(reached + 1):
        for b in range(reached + 1 - a):
            end = torch.tensor([a, b, reached - a - b])
            for o in range(max(0, a - (reached - first)), min(a, first) + 1):
                rest = first - o
                p = min(rest, b)
                if rest - p > reached - a - b:
                    continue
                opening = torch.tensor([o, p, rest - p])
                rows.append(end - opening)
                openings.append(opening)
    votes, opening = torch.stack(rows).int()[:, None], torch.stack(openings).int()
    same_as_reference(votes, rule, [reached], opening)
    assert len(votes) > 300


@settings(max_examples=60, deadline=None)
@given(data=st.data(), stop=st.sampled_from(["sequential", "exact", None]), labels=st.integers(2, 12))
def test_random_votes_over_several_checkpoints(data: st.DataObject, stop: Stop | None, labels: int) -> None:
    m = data.draw(st.sampled_from([1, 2, 13, 100, 1000]))
    rule = StoppingRule(stop, m, labels)
    checkpoints = rule.checkpoints()[: data.draw(st.integers(1, 40))]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    shares = torch.rand(50, labels, generator=generator) ** data.draw(st.sampled_from([0, 1, 8, 40])) + 1e-9
    drawn = torch.multinomial(shares, checkpoints[-1], replacement=True, generator=generator)
    one_hot = torch.nn.functional.one_hot(drawn, labels).int()
    edges = [0, *checkpoints]
    votes = torch.stack([one_hot[:, a:b].sum(1) for a, b in zip(edges, checkpoints, strict=False)], 1).int()
    same_as_reference(votes, rule, checkpoints, None)


@pytest.mark.parametrize("lead", [1, 2, 3, 900, 1000])
def test_many_labels_and_ties(lead: int) -> None:
    """Votes around the exact rule's threshold, runner-up below and above the leader."""
    for stop in ("exact", "sequential"):
        rule = StoppingRule(stop, 2000, 1000)
        reached = rule.checkpoints()[0]
        votes = torch.zeros(4, 1, 1000, dtype=torch.int32)
        for row, (a, b) in enumerate([(5, 4), (4, 5), (0, 999), (999, 0)]):
            second = max(0, (reached - lead) // 2)
            votes[row, 0, a], votes[row, 0, b] = reached - second, second
        same_as_reference(votes, rule, [reached], None)


def test_examples_are_named_and_the_others_left_alone() -> None:
    rule = StoppingRule("exact", 10, 2)
    counts = torch.tensor([[1, 2], [3, 0], [0, 3]], dtype=torch.int32)
    samples, decided = torch.full((3,), 3), torch.zeros(3, dtype=torch.bool)
    votes = torch.tensor([[[3, 0], [1, 0]], [[3, 0], [1, 0]]], dtype=torch.int32)
    state = ops.judge_(
        counts, torch.zeros_like(counts), samples, decided, torch.tensor([1, 2]), votes, checkpoints=[6, 7],
        opens=False, m=10, stop=rule.stop, alpha=rule.alpha,
    )  # fmt: skip
    assert state.tolist() == [ops.STOPPED, ops.GOES_ON]
    assert counts.tolist() == [[1, 2], [6, 0], [4, 3]]  # votes after the stop are not counted
    assert samples.tolist() == [3, 6, 7]
    assert decided.tolist() == [False, True, False]


def test_a_missing_vote_is_seen_unless_it_comes_after_the_stop() -> None:
    rule = StoppingRule("exact", 10, 2)
    votes = torch.tensor([[[6, 0], [0, 0]], [[5, 0], [1, 0]], [[3, 3], [0, 0]]], dtype=torch.int32)
    counts, _, samples, _, state = judged(votes, rule, [6, 7])
    assert state.tolist() == [ops.STOPPED, ops.INCOMPLETE, ops.INCOMPLETE]
    assert samples.tolist() == [6, 6, 7]
    assert counts.sum(1).tolist() == [6, 5, 6]


BAD = [
    ({"counts": torch.zeros(2, 3)}, TypeError, "counts must be torch.int32, got torch.float32"),
    ({"who": torch.arange(3)}, ValueError, r"votes must have shape \[3, 1, 3\], got \[2, 1, 3\]"),
    ({"samples": torch.zeros(2)}, TypeError, "samples must be torch.int64, got torch.float32"),
    ({"decided": torch.zeros(1, dtype=torch.bool)}, ValueError, r"decided must have shape \[2\], got \[1\]"),
    ({"stop": "never"}, ValueError, "stop must be 'sequential', 'exact' or None, got 'never'"),
    ({"who": torch.tensor([0, 2])}, ValueError, r"who must lie in \[0, 1\], got 0 to 2"),
    (
        {
            "counts": torch.zeros(2, 1, dtype=torch.int32),
            "opening": torch.zeros(2, 1, dtype=torch.int32),
            "votes": torch.zeros(2, 1, 1, dtype=torch.int32),
        },
        ValueError,
        "counts must have at least 2 labels, got 1",
    ),
    (
        {"votes": torch.zeros(1, 3, 2, dtype=torch.int32).permute(2, 0, 1)},
        ValueError,
        "votes must be contiguous and on the CPU",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=[m[:30] for _, _, m in BAD])
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    good = {
        "counts": torch.zeros(2, 3, dtype=torch.int32),
        "opening": torch.zeros(2, 3, dtype=torch.int32),
        "samples": torch.zeros(2, dtype=torch.int64),
        "decided": torch.zeros(2, dtype=torch.bool),
        "who": torch.arange(2),
        "votes": torch.zeros(2, 1, 3, dtype=torch.int32),
        "checkpoints": [3],
        "opens": True,
        "m": 10,
        "stop": "exact",
        "alpha": 1e-3,
    }
    with pytest.raises(error, match=message):
        ops.judge_(**{**good, **change})


def test_opcheck() -> None:
    counts, votes = torch.zeros(2, 3, dtype=torch.int32), torch.ones(2, 1, 3, dtype=torch.int32)
    tensors = (counts, counts.clone(), torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.bool))
    state = torch.zeros(2, dtype=torch.uint8)
    arguments = (*tensors, state, torch.arange(2), votes, [3], True, 10, "sequential", 1e-3)
    torch.library.opcheck(torch.ops.rcfast.judge_.default, arguments)
