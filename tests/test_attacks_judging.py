"""Judging: fresh seeds and ids, the bytes that are stored, and what a search for a friendly judge is worth."""

import pytest
import torch
from torch import nn

from rcfast import RegionClassifier
from rcfast.attacks import judge
from rcfast.attacks.result import AttackResult, Noise


class Threshold(nn.Module):
    """Label 1 where the first coordinate is above a half."""

    def forward(self, x):
        first = x.flatten(1)[:, :1] - 0.5
        return torch.cat([-first, first], 1)


def result(clean, adversarial):
    """What an attack may hand out."""
    return AttackResult(
        adversarial=adversarial,
        success=torch.ones(len(clean), dtype=torch.bool),
        noise=Noise.between(adversarial, clean),
        queries=torch.ones(len(clean), dtype=torch.int64),
        clean=clean,
    )


def moved(shares, n=4, r=0.2):
    """Clean examples of label 0, and others whose region has these shares of label 1."""
    x = torch.rand(len(shares), n, generator=torch.Generator().manual_seed(0))
    x[:, 0] = 0.4
    adversarial = x.clone()
    adversarial[:, 0] = 0.5 + 2 * r * (torch.tensor(shares) - 0.5)
    return result(x, adversarial)


def test_shares_and_successes():
    shares = [0.1, 0.4, 0.6, 0.9, 1.0]
    vote = RegionClassifier(Threshold(), 0.2)
    for targeted, labels in ((True, torch.ones(5)), (False, torch.zeros(5))):
        found = judge(vote, moved(shares), labels.long(), targeted=targeted, seeds=4)
        assert found.success.tolist() == [[False, False, True, True, True]] * 4
        assert found.everywhere.tolist() == found.own.tolist() == [False, False, True, True, True]
        assert found.rates == [0.6] * 4
        assert torch.allclose(found.share, torch.tensor(shares), atol=0.03)
        assert torch.allclose(found.share + found.rival, torch.ones(5))
    assert "fresh seeds 60.0%, 60.0%, 60.0%, 60.0%, on the attacker's own 60.0%" in repr(found)


def test_a_break_that_hangs_on_the_seed_is_seen():
    """Of 200 examples on the edge those chosen by one vote are a coin's throw for another."""
    vote = RegionClassifier(Threshold(), 0.2, m=100)
    edge = moved([0.5] * 200)
    chosen = (vote.predict(edge.adversarial) == 1).nonzero().flatten()
    found = judge(vote, edge.select(chosen), torch.ones(len(chosen), dtype=torch.int64), targeted=True, m=100)
    assert found.own.all()
    assert all(0.3 < rate < 0.7 for rate in found.rates)


def test_no_input_can_be_chosen_for_its_judges():
    """The judges' points are the clean example's: another content of the same place gets the same verdict."""
    vote = RegionClassifier(Threshold(), 0.2, m=100)
    one = moved([0.5] * 40)
    other = one.adversarial.clone()
    other[:, 1:] = 1 - other[:, 1:]
    ones = torch.ones(40, dtype=torch.int64)
    first = judge(vote, one, ones, targeted=True, m=100)
    second = judge(vote, result(one.clean, other), ones, targeted=True, m=100)
    assert torch.equal(first.success, second.success)
    assert not torch.equal(first.own, second.own)
    secret = judge(RegionClassifier(Threshold(), 0.2, m=100, seed=None), one, ones, targeted=True, m=100)
    assert torch.equal(first.success, secret.success)


def test_stored_bytes_are_judged_clipped_and_rounded_to_8_bits():
    class Fine(nn.Module):
        """Label 1 where the first coordinate is above 100.4/255: rounding to 8 bits takes it back."""

        def forward(self, x):
            first = x.flatten(1)[:, :1] - 100.4 / 255
            return torch.cat([-first, first], 1)

    clean = torch.zeros(1, 2)
    adversarial = torch.tensor([[100.45 / 255, 1 + 1e-9]], dtype=torch.float64)
    labels = torch.ones(1, dtype=torch.int64)
    found = judge(RegionClassifier(Fine(), 0.0), result(clean.double(), adversarial), labels, targeted=True)
    assert found.everywhere.all()
    assert not found.rounded.any()
    assert (
        judge(
            RegionClassifier(Fine(), 0.0), result(clean, adversarial), labels, targeted=True, rounded=False
        ).rounded
        is None
    )


def test_the_verdict_does_not_depend_on_who_else_is_judged():
    vote = RegionClassifier(Threshold(), 0.2, m=100)
    edge = moved([0.5] * 30)
    ones = torch.ones(30, dtype=torch.int64)
    whole = judge(vote, edge, ones, targeted=True, seeds=(7, 9))
    rows = torch.tensor([4, 17, 4])
    part = judge(vote, edge.select(rows), ones[rows], targeted=True, seeds=(7, 9))
    assert torch.equal(part.success, whole.success[:, rows])
    assert torch.equal(part.rounded, whole.rounded[:, rows])
    assert torch.equal(part.share, whole.share[rows])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"labels": torch.ones(2, dtype=torch.int64)}, ValueError, r"labels must be int64 of shape \(1,\)"),
        ({"labels": torch.ones(1)}, ValueError, "labels must be int64"),
        ({"labels": torch.full((1,), 2)}, ValueError, r"labels must lie in \[0, 1\], got 2"),
        ({"seeds": 0}, ValueError, "seeds must lie in"),
        ({"seeds": ()}, ValueError, "seeds must name at least one seed"),
        ({"m": 0}, ValueError, "m must lie in"),
    ],
)
def test_bad_input(settings, error, message):
    labels = settings.pop("labels", torch.ones(1, dtype=torch.int64))
    with pytest.raises(error, match=message):
        judge(RegionClassifier(Threshold(), 0.2), moved([0.6]), labels, targeted=True, **settings)


def test_no_examples():
    none = moved([0.6]).select(slice(0, 0))
    found = judge(RegionClassifier(Threshold(), 0.2), none, torch.zeros(0, dtype=torch.int64), targeted=True)
    assert found.success.shape == (3, 0)
    assert len(found) == 0
