"""The worst case over all attacks, against literal loops, and AttackBench's optimality, against its closed forms."""

import numpy as np
import pytest
import torch

from rcfast.attacks import CWL2, FGSM, DeepFool
from rcfast.eval.checks import Passes, observing
from rcfast.eval.outputs.envelope import Tried, broken, curve, handed_in, least, optimality
from rcfast.eval.run.passes import BUDGETS, Spent, least_within

NORMS = ("L0", "L2", "Linf")


@pytest.fixture
def tried() -> Tried:
    """Twelve examples with 20 candidates each and three vote seeds, many of equal noise and lead."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 8, (12, 20)).astype(float)
    noise[:, 0] = 0
    wrong, lead = generator.random((3, 12, 20)) < 0.3, generator.integers(1, 5, (3, 12, 20)) / 4
    wrong[0, 3] = False  # nothing beats the votes that the attacker sees
    return Tried(dict.fromkeys(NORMS, noise), wrong, lead)


def test_what_is_handed_in_agrees_with_a_literal_loop(tried: Tried) -> None:
    noise, at = tried.noise["L2"], np.array([0.0, 2.0, 3.5, 9.0])
    picked = handed_in(noise, tried.wrong[0], tried.lead[0], at)
    for i in range(len(noise)):
        for g, allowed in enumerate(at):
            there = [k for k in range(20) if noise[i, k] <= allowed and tried.wrong[0, i, k]]
            best = min(there, key=lambda k: (-tried.lead[0, i, k], noise[i, k], k), default=-1)
            assert picked[i, g] == best
            judged = [best >= 0 and tried.wrong[s, i, best] for s in (1, 2)]
            assert broken(tried, "L2", at)[i, :, g].tolist() == judged


def test_the_curve_is_the_share_of_broken_examples(tried: Tried) -> None:
    at = np.array([0.0, 3.0, 8.0])
    found = curve(tried, "L2", at)
    assert found.rate == pytest.approx(broken(tried, "L2", at).mean((0, 1)).tolist())
    assert found.known == [float((least(tried.noise["L2"], tried.wrong[0]) <= a).mean()) for a in at]
    for rate, low, high in zip(found.rate, found.low, found.high, strict=True):
        assert low <= rate <= high
    assert found.first([0.1, 0.5, 0.9]) == 3.0
    assert found.first([0.1, 0.2, 0.4]) is None


def test_without_random_votes_the_worst_case_is_the_least_noise() -> None:
    generator = np.random.default_rng(1)
    noise, wrong = generator.random((30, 9)), generator.random((1, 30, 9)) < 0.2
    own = Tried(dict.fromkeys(NORMS, noise), wrong, np.ones((1, 30, 9)))
    at = np.linspace(0, 1, 7)
    expected = least(noise, wrong[0])[:, None] <= at
    assert broken(own, "L0", at)[:, 0].tolist() == expected.tolist()
    assert curve(own, "L0", at).rate == curve(own, "L0", at).known


def test_the_larger_lead_lasts() -> None:
    """The least noise beats the votes by luck, a larger one by its share: who may spend more hands in the latter."""
    generator = np.random.default_rng(2)
    lucky = generator.random((3, 4000)) < 0.3
    wrong = np.stack([np.zeros_like(lucky), lucky, np.ones_like(lucky)], axis=2)
    lead = np.broadcast_to(np.array([0.5, 0.02, 0.9]), wrong.shape)
    noise = np.broadcast_to(np.array([0.0, 1.0, 2.0]), (4000, 3))
    own = Tried(dict.fromkeys(NORMS, noise), wrong, lead)
    small, large = broken(own, "L2", np.array([1.0, 2.0])).mean((0, 1))
    assert small == pytest.approx(0.3 * 0.3, abs=0.02)
    assert large == 1.0


INF = np.inf


@pytest.mark.parametrize(
    ("noise", "best", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], 1.0),
        ([INF, INF, INF], [1, 2, 3], 0.0),
        ([3, 3, 3], [1, 2, 3], 0.0),  # all of the accuracy is left up to where the best has taken it all
        ([2, 2, 3], [1, 2, 3], 1 - 1 / 3),
        ([1, 2, INF], [1, 2, INF], 1.0),  # never broken by any
        ([1, INF, INF], [1, 2, INF], 1.0),  # at the end of the best's curve
        ([0, 2, 4], [0, 1, 4], 1 - 1 / 3),  # the first is wrong without an attack
        ([0, 0], [0, 0], None),
        ([INF, INF], [INF, INF], None),
    ],
)
def test_optimality_is_the_area_between_the_curves(
    noise: list[float], best: list[float], expected: float | None
) -> None:
    found = optimality(np.array(noise, float), np.array(best, float))
    assert found == (None if expected is None else pytest.approx(expected))


def test_optimality_equals_areas_under_the_curves() -> None:
    generator = np.random.default_rng(3)
    attacks = np.where(generator.random((4, 50)) < 0.1, INF, generator.gamma(2, size=(4, 50)))
    attacks[:, :5] = 0
    best = attacks.min(0)
    end = best[np.isfinite(best)].max()
    at = np.linspace(0, end, 200_001)

    def area(noise: np.ndarray) -> float:
        counts = np.searchsorted(np.sort(noise), at, side="right")
        left = 1 - counts / len(noise)
        return float(np.trapezoid(left, at))

    for noise in attacks:
        whole = (best > 0).mean() * end
        expected = 1 - (area(noise) - area(best)) / (whole - area(best))
        assert optimality(noise, best) == pytest.approx(expected, abs=1e-4)


# ---- what an attack spends


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(4, 12, generator=generator))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += len(x)
        return x.flatten(1) @ self.weight.T


@pytest.mark.parametrize(
    "attack", [FGSM(steps=8, refine=1), CWL2(searches=2, iterations=20, rate=0.1), DeepFool()]
)
@pytest.mark.parametrize("batch", [256, 3])
def test_passes_are_counted_for_each_example(attack: CWL2 | FGSM | DeepFool, batch: int) -> None:
    model = Linear().eval()
    x = torch.rand(10, 1, 3, 4, generator=torch.Generator().manual_seed(1))
    said = model(x).argmax(1)
    labels = (said + 1) % 4 if attack.targeted else said
    labels[0] = said[0] if attack.targeted else (said[0] + 1) % 4  # needs no attack
    spent, passes = Spent(attack, x, labels), Passes()
    with observing(spent), observing(passes):
        result = attack(model, x, labels, batch=batch)
    assert int(spent.forward.sum()) == passes.forward > 0
    assert int(spent.backward.sum()) == passes.backward > 0
    assert (spent.forward[0], spent.backward[0]) == (0, 0)
    assert (spent.forward <= result.queries).all()
    arrays = spent.arrays((10, 1))
    assert arrays["within"].shape == (len(BUDGETS), 10, 1)
    assert (arrays["within"][1:] <= arrays["within"][:-1]).all(), "more passes never find less"
    whole = least_within(arrays, BUDGETS[-1])
    assert whole is not None
    noise = result.noise.of(attack.norm).numpy()
    found = result.success.numpy()
    found[0] = False
    np.testing.assert_allclose(whole[found, 0], noise[found], rtol=0.05)
    assert least_within({}, 1000) is None
    alone = attack(model, x, labels, batch=batch)
    assert torch.equal(alone.adversarial, result.adversarial), "observing changes nothing"
