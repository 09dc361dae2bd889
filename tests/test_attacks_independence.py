"""The result of one example does not feel who else is in the batch, for every attack of the registry."""

import pytest
import torch
from attack_models import inputs, network, other_targets, predicted
from marks import slow_where

from rcfast.attacks import ATTACKS, get

SMALL = {
    "CW-L2": {"iterations": 30, "searches": 3},
    "CW-L0": {"iterations": 30},
    "CW-Linf": {"iterations": 30},
    "FGSM": {"steps": 32},
    "IGSM": {"refine": 2, "iterations": 5},
}


def small(name):
    part = next((own for key, own in SMALL.items() if key in name), {})
    return get(name, budget="fast", **part)


def same(one, other, name):
    """Bit by bit; the CW attacks up to what tanh and atanh round differently at another place of a vector."""
    atol = 1e-6 if "CW" in name else 0.0
    assert torch.equal(one.success, other.success)
    assert torch.allclose(one.adversarial, other.adversarial, rtol=0, atol=atol)
    assert torch.allclose(one.noise.l2, other.noise.l2, rtol=0, atol=atol)


LONG = ("U-CW-Linf", "U-CW-L0", "T-CW-Linf-A", "T-CW-L0-A")


@pytest.mark.parametrize(
    "name", slow_where(lambda n: n in LONG, [n for n in ATTACKS if "-CA-" not in n])
)  # made of the others
def test_alone_permuted_duplicated_and_in_small_batches(name):
    attack = small(name)
    model, x = network(), inputs(6, 12)
    labels = predicted(model, x)
    if attack.targeted:
        labels = other_targets(labels, 4)
    whole = attack(model, x, labels, batch=64)
    assert whole.success.any()
    order = torch.tensor([3, 0, 5, 1, 4, 2, 2, 0])
    same(attack(model, x[order], labels[order], batch=64), whole.select(order), name)
    same(attack(model, x, labels, batch=2), whole, name)
    alone = attack(model, x[5:], labels[5:])
    same(alone, whole.select(slice(5, 6)), name)
    if not alone.candidates:
        assert alone.queries.tolist() == whole.queries[5:].tolist()


@pytest.mark.parametrize("name", slow_where(lambda n: n in LONG, [n for n in ATTACKS if "-CA-" not in n]))
def test_what_is_handed_out_is_what_was_measured(name):
    attack = small(name)
    model, x = network(seed=4), inputs(5, 3, 4)
    labels = predicted(model, x)
    if attack.targeted:
        labels = other_targets(labels, 4)
    result = attack(model, x, labels)
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1
    said = predicted(model, result.adversarial)
    right = said == labels if attack.targeted else said != labels
    assert torch.equal(right, result.success)
    delta = (result.adversarial - x).flatten(1)
    assert torch.equal(result.noise.l0, (delta != 0).sum(1).double())
    assert torch.allclose(result.noise.l2, delta.norm(dim=1), atol=1e-15)
    assert torch.equal(result.noise.linf, delta.abs().amax(1))
    assert (delta[~result.success] == 0).all()
