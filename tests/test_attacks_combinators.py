"""Untargeted, Smallest, Adapted, the choice by another judge, results as data, and the paper's names."""

import dataclasses
import math

import pytest
import torch
from attack_models import inputs, network, other_targets, predicted

from rcfast import attacks
from rcfast.attacks import (
    APGD,
    ATTACKS,
    FGSM,
    IGSM,
    JSMA,
    Adapted,
    AttackResult,
    DeepFool,
    Smallest,
    Untargeted,
    get,
)

MODEL, X = network(seed=3), inputs(6, 12)
LABELS = predicted(MODEL, X)


@pytest.mark.parametrize("attack", [FGSM(steps=32), JSMA()], ids=repr)
def test_untargeted_is_the_least_noise_of_all_targets(attack):
    result = Untargeted(attack)(MODEL, X, LABELS)
    assert result.names == ("0", "1", "2", "3")
    each = [attack(MODEL, X, torch.full_like(LABELS, t)) for t in range(4)]
    for i, label in enumerate(LABELS.tolist()):
        noise = [
            math.inf if t == label or not r.success[i] else float(r.noise.of(attack.norm)[i])
            for t, r in enumerate(each)
        ]
        best = min(range(4), key=noise.__getitem__)
        assert bool(result.success[i]) == (noise[best] < math.inf)
        want = each[best].adversarial[i] if noise[best] < math.inf else X[i]
        assert torch.equal(result.adversarial[i], want)
        for t, candidate in enumerate(result.candidates):
            assert bool(candidate.success[i]) == (t != label and bool(each[t].success[i]))
    assert torch.equal(result.queries, torch.stack([c.queries for c in result.candidates]).sum(0))


def test_smallest_takes_the_least_noise():
    targets = other_targets(LABELS, 4)
    parts = [FGSM(steps=32), IGSM.fast(), JSMA()]
    result = Smallest(parts, norm=2)(MODEL, X, targets)
    each = [attack(MODEL, X, targets) for attack in parts]
    noise = torch.stack([torch.where(r.success, r.noise.l2, math.inf) for r in each])
    assert torch.equal(result.success, noise.isfinite().any(0))
    assert torch.equal(result.noise.l2[result.success], noise.amin(0)[result.success])
    assert result.names == tuple(map(repr, parts))


def test_judged_chooses_anew_without_the_attack():
    result = Untargeted(FGSM(steps=32))(MODEL, X, LABELS)
    rank = torch.stack([torch.where(c.success, c.noise.linf, math.inf) for c in result.candidates])
    second = rank.sort(0)
    asked = []

    def judge(x):  # accepts every candidate but the least noisy one of its example
        asked.append(len(x))
        best = result.adversarial.flatten(1)
        of = torch.cdist(x.flatten(1), best).argmin(1)
        exact = (x.flatten(1)[:, None] == best[None]).all(2).any(1)
        closest = torch.cdist(x.flatten(1), X).argmin(1)
        return torch.where(exact, LABELS[of], (LABELS[closest] + 1) % 4)

    chosen = result.judged(judge, LABELS, targeted=False, norm=math.inf)
    possible = second.values[1].isfinite()
    assert possible.any()
    assert torch.equal(chosen.success, possible)
    assert torch.equal(chosen.noise.linf[possible], second.values[1][possible])
    assert torch.equal(chosen.adversarial[~possible], X[~possible])
    assert sum(asked) <= 2 * len(X)
    again = chosen.judged(lambda x: predicted(MODEL, x), LABELS, targeted=False, norm=math.inf)
    assert torch.equal(again.adversarial, result.adversarial)  # all candidates are still there


def test_judged_of_a_plain_attack_and_of_nested_ones():
    targets = other_targets(LABELS, 4)
    plain = FGSM(steps=32)(MODEL, X, targets)
    never = plain.judged(lambda x: torch.full((len(x),), 9), targets, targeted=True, norm=2)
    assert not never.success.any()
    assert torch.equal(never.adversarial, X)
    always = plain.judged(lambda x: predicted(MODEL, x), targets, targeted=True, norm=2)
    assert torch.equal(always.adversarial, plain.adversarial)
    nested = Smallest([Untargeted(FGSM(steps=32)), DeepFool()], norm=2)(MODEL, X, LABELS)
    assert len(nested.leaves()) == 5
    chosen = nested.judged(lambda x: predicted(MODEL, x), LABELS, targeted=False, norm=2)
    assert (
        chosen.noise.l2 <= nested.noise.l2
    ).all()  # over the leaves, not over the attacks' choices in Linf
    with pytest.raises(ValueError, match=r"labels must have shape \(6,\), got \(2,\)"):
        plain.judged(lambda x: x, targets[:2], targeted=True, norm=2)
    with pytest.raises(ValueError, match="norm must be one of"):
        plain.judged(lambda x: x, targets, targeted=True, norm=1)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_adapted_goes_on_in_the_same_direction(alpha):
    targets, inner = other_targets(LABELS, 4), FGSM(steps=32)
    plain = inner(MODEL, X, targets)
    result = Adapted(inner, alpha)(MODEL, X, targets)
    longer = (X + (1 + alpha) * (plain.adversarial - X)).clamp(0, 1)
    right = (predicted(MODEL, longer) == targets) & plain.success
    assert torch.allclose(result.candidates[0].adversarial, longer, atol=1e-15)
    assert torch.equal(result.success, right)
    assert torch.equal(result.adversarial[~right], X[~right])
    of = Adapted(inner, alpha).of(plain, MODEL, targets)
    assert torch.equal(of.adversarial, result.adversarial)
    assert torch.equal(of.success, result.success)


def test_adapted_untargeted_keeps_the_targets():
    result = Adapted(Untargeted(FGSM(steps=32)), 0.5)(MODEL, X, LABELS)
    assert result.names == ("0", "1", "2", "3")
    assert result.success.any()


def test_results_are_cut_and_joined():
    result = Smallest([Untargeted(FGSM(steps=16)), DeepFool()], norm=2)(MODEL, X, LABELS)
    parts = [
        result.select(slice(0, 2)),
        result.select(torch.tensor([2, 3])),
        result.select(torch.arange(6) > 3),
    ]
    whole = AttackResult.concatenate(parts)
    for one, other in zip(whole.leaves(), result.leaves(), strict=True):
        assert torch.equal(one.adversarial, other.adversarial)
        assert torch.equal(one.queries, other.queries)
    assert whole.names == result.names
    assert result.to("cpu").success_rate == whole.success_rate
    assert result.mean_noise(2) == pytest.approx(float(result.noise.l2[result.success].mean()))
    with pytest.raises(ValueError, match="same attack"):
        AttackResult.concatenate([result, DeepFool()(MODEL, X, LABELS)])
    with pytest.raises(ValueError, match="results must not be empty"):
        AttackResult.concatenate([])


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("budget", ["paper", "fast"])
def test_every_name_is_one_expression(name, budget):
    attack = get(name, budget=budget)
    assert eval(repr(attack), {**vars(attacks), "inf": math.inf}) == attack
    assert hash(attack) == hash(get(name, budget=budget))
    wanted = {
        "L0": 0,
        "JSMA": 0,
        "L2": 2,
        "DeepFool": 2,
        "Linf": math.inf,
        "FGSM": math.inf,
        "IGSM": math.inf,
    }
    assert attack.norm == next(norm for part, norm in wanted.items() if part in name)
    assert attack.targeted == name.startswith("T-")
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.norm = 1


def test_attacks_at_a_budget_have_names_and_need_it():
    assert get("APGD-L2", eps=1.5) == APGD(eps=1.5, norm=2)
    assert get("T-APGD-Linf", budget="fast", eps=0.2, eot=4) == APGD(eps=0.2, eot=4, targeted=True)
    with pytest.raises(TypeError, match="APGD-L2 attacks within a ball: eps, its radius, must be given"):
        get("APGD-L2")
    with pytest.raises(TypeError, match="APGD-L2 is what it is by its own norm"):
        get("APGD-L2", eps=1.0, norm=math.inf)


def test_papers_defaults():
    assert repr(get("U-CW-L2")) == "Untargeted(CWL2())"
    assert repr(get("T-CW-L2", confidence=20.0)) == "CWL2(confidence=20.0)"
    assert repr(get("T-CW-L2-A", alpha=0.25)) == "Adapted(CWL2(), alpha=0.25)"
    assert [a.confidence for a in get("T-CA-L2").attacks] == list(range(0, 41, 5))
    assert get("U-CA-L2").attacks[-1] == DeepFool()
    assert get("T-CA-Linf").attacks[:2] == (FGSM(), IGSM())
    assert (IGSM().step, DeepFool().iterations, DeepFool().overshoot, JSMA().theta) == (
        1 / 256,
        50,
        0.02,
        1.0,
    )
