"""Noise and success do not depend on the scale of the logits, which changes no label: times 0.01 and 100."""

import math
from collections.abc import Callable

import pytest
import torch
from marks import slow_where
from torch import Tensor, nn

from rcfast import RegionClassifier, attacks, data, training
from rcfast.attacks import APGD, CWL0, CWL2, IGSM, JSMA, Attack, CWLinf, DeepFool, OptMargin, RegionCW

Model = Callable[[Tensor], Tensor]
NEAR = {"steps": 30, "points": 4, "votes": 200}
ATTACKS = {
    "CW-L2": CWL2.fast(),
    "CW-Linf": CWLinf.fast(c_max=2.0, iterations=80),
    "CW-L0": CWL0.fast(c_max=20.0, iterations=100),
    "IGSM, margin": IGSM.fast(loss="margin", iterations=30),
    "JSMA": JSMA(),
    "JSMA, pruned": JSMA(prune=True),
    "DeepFool": DeepFool(),
    "OptMargin": OptMargin.fast(directions=7, rms=0.1),
    "OptMargin, targeted": OptMargin.fast(directions=7, rms=0.05, targeted=True),
    "RegionCW": RegionCW.fast(),
}
ON_VOTES = {f"RegionCW in L{norm:g}": RegionCW(norm=norm, **NEAR) for norm in (0, 2, math.inf)}
# Their loss is a cross-entropy, as published; IGSM has "margin" beside it, APGD "dlr".
PUBLISHED = {"FGSM"}
WRAPPERS = {"Adapted", "External", "Smallest", "Untargeted"}


@pytest.fixture(scope="module")
def network(digits: data.Dataset) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    training.fit(model, digits.train, epochs=8)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def examples(network: nn.Module, digits: data.Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """Images that the network gets right, their labels, and targets."""
    x, y = digits.test.x[:40], digits.test.y[:40]
    right = (network(x).argmax(1) == y).nonzero().flatten()[:8]
    x, y = x[right], y[right]
    return x, y, (y + torch.arange(1, 9)) % 10


def scaled(network: nn.Module, factor: float) -> Model:
    return lambda z: factor * network(z)


def check(attack: Attack, model: Callable[[float], Model], examples: tuple[Tensor, Tensor, Tensor]) -> None:
    x, y, targets = examples
    labels = targets if attack.targeted else y
    usual = attack(model(1.0), x, labels)
    assert usual.success.sum() >= 6
    for factor in (0.01, 100.0):
        other = attack(model(factor), x, labels)
        assert torch.equal(usual.success, other.success), factor
        noise, before = (r.noise.of(attack.norm)[usual.success].mean() for r in (other, usual))
        assert float(noise / before) == pytest.approx(1, abs=0.05), factor


@pytest.mark.parametrize("name", slow_where(lambda name: name in ("CW-L0", "CW-Linf", "OptMargin"), ATTACKS))
def test_on_a_network(name: str, network: nn.Module, examples: tuple[Tensor, Tensor, Tensor]) -> None:
    check(ATTACKS[name], lambda factor: scaled(network, factor), examples)


@pytest.mark.parametrize("name", ON_VOTES)
def test_on_a_vote(name: str, network: nn.Module, examples: tuple[Tensor, Tensor, Tensor]) -> None:
    check(ON_VOTES[name], lambda factor: RegionClassifier(scaled(network, factor), 0.1, m=200), examples)


@pytest.mark.parametrize("norm", [2, math.inf])
@pytest.mark.parametrize("eot", [0, 4])
def test_apgd_by_differences_of_logits(
    norm: float, eot: int, network: nn.Module, examples: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Its noise is given: whom it fools at a length that fools some."""
    x, y, _ = examples
    attack = APGD(eps=0.6 if norm == 2 else 0.12, norm=norm, loss="dlr", steps=20, eot=max(1, eot))
    found = []
    for factor in (1.0, 0.01, 100.0):
        model = scaled(network, factor)
        found.append(attack(RegionClassifier(model, 0.05, m=200) if eot else model, x, y).success)
    assert 0 < found[0].sum() < len(x)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_no_attack_is_left_out() -> None:
    made = {
        name
        for name in attacks.__all__
        if isinstance(kind := getattr(attacks, name), type) and issubclass(kind, Attack)
    }
    tried = {type(attack).__name__ for attack in [*ATTACKS.values(), *ON_VOTES.values()]} | {"APGD"}
    assert made - {"Attack"} == tried | PUBLISHED | WRAPPERS
