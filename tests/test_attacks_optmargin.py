"""OptMargin beside a literal loop, one example at a time, as published."""

import pytest
import torch
from attack_models import inputs, network, other_targets, predicted
from oracles.optmargin import optmargin

from rcfast import RegionClassifier
from rcfast.attacks import CWL2, OptMargin
from rcfast.attacks._sampled import example_ids, key
from rcfast.attacks.optmargin import orthogonal

ATTACK = OptMargin(directions=5, rms=0.05, iterations=200, scaled=False, c0=0.2)  # as published


def moves(x, labels, attack):
    ids = example_ids(x, labels)
    found = orthogonal(x, ids, attack.directions, seed=key(attack.seed, "directions"))
    found = found * attack.rms * x[0].numel() ** 0.5
    return torch.cat([found, torch.zeros_like(found[:, :1])], 1)


@pytest.mark.slow
def test_no_noisier_than_the_literal_loop():
    model, x = network(), inputs(8, 12, low=0.2, high=0.8)
    labels = predicted(model, x)
    result = ATTACK(model, x, labels)
    assert result.success.all()
    around = moves(x, labels, ATTACK)
    ratios = []
    for i in range(len(x)):
        peer = optmargin(model.requires_grad_(False), x[i : i + 1], int(labels[i]), around[i], iterations=200)
        if peer is not None:
            ratios.append(float(result.noise.l2[i] / (peer - x[i]).norm()))
            moved = result.adversarial[i] + around[i]
            assert (predicted(model, moved) != labels[i]).all()
    assert len(ratios) >= 6
    assert sorted(ratios)[len(ratios) // 2] < 1.01
    assert sum(ratios) / len(ratios) < 1.05  # one is in another local minimum


def test_in_its_own_units_it_finds_no_more_noise_than_as_published():
    model, x = network(), inputs(12, 12, low=0.2, high=0.8)
    labels = predicted(model, x)
    published = ATTACK(model, x, labels)
    usual = OptMargin(directions=5, rms=0.05, iterations=200)(model, x, labels)
    assert (usual.success >= published.success).all()
    both = published.success
    assert usual.noise.l2[both].mean() <= 1.05 * published.noise.l2[both].mean()


def test_directions():
    x = inputs(4, 3, 4)
    ids = torch.tensor([1, 2, 1, 7])
    found = orthogonal(x, ids, 6, seed=5)
    assert found.shape == (4, 6, 3, 4)
    gram = found.flatten(2) @ found.flatten(2).mT
    assert torch.allclose(gram, torch.eye(6, dtype=torch.float64).expand(4, 6, 6), atol=1e-12)
    assert torch.equal(found[0], found[2])
    assert not torch.allclose(found[0], found[1])
    with pytest.raises(
        ValueError, match="directions must be at most the 12 coordinates of an example, got 13"
    ):
        orthogonal(x, ids, 13, seed=5)


def test_targets_and_votes():
    model, x = network(), inputs(6, 12)
    targets = other_targets(predicted(model, x), 4)
    vote = RegionClassifier(model, 0.1, m=200)
    attack = ATTACK.replace(targeted=True, rms=0.1, clip=True)
    result = attack(vote, x, targets)
    assert result.success.float().mean() > 0.6
    plain = CWL2.fast()(model, x, targets)
    assert (vote.predict(plain.adversarial) == targets).sum() < result.success.sum()
    part = attack(vote, x[[4, 1]], targets[[4, 1]])
    assert torch.allclose(part.adversarial, result.adversarial[[4, 1]], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"directions": 0}, "directions must be a positive integer, got 0"),
        ({"rms": 0.0}, "rms must be positive, got 0.0"),
        ({"searches": 0}, "searches must be a positive integer, got 0"),
        ({"iterations": 0}, "iterations must be a positive integer, got 0"),
    ],
)
def test_bad_hyperparameters(settings, message):
    with pytest.raises(ValueError, match=message):
        OptMargin(**settings)
