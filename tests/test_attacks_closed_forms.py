"""Attacks against solutions that are known: linear classifiers, with and without the box in the way."""

import math

import numpy as np
import pytest
import torch
from attack_models import Linear, inputs, linear, network, other_targets, predicted

from rcfast.attacks import FGSM, IGSM, JSMA, DeepFool, igsm

DENOMINATOR = 4096  # of the finest eps of FGSM and IGSM with their defaults


def literal_fgsm(model, x, target, steps=256, refine=16):
    """One example: the first success on the coarse grid, then the first on the finer one below it; None if none."""
    w, c = model.weight.detach().numpy(), model.bias.detach().numpy()
    z = w @ x + c
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    p[target] -= 1
    direction = -np.sign(p @ w)

    def succeeds(k):
        return (w @ np.clip(x + k / (steps * refine) * direction, 0, 1) + c).argmax() == target

    coarse = next((k for k in range(1, steps + 1) if succeeds(k * refine)), None)
    if coarse is None:
        return None
    return next(k for k in range((coarse - 1) * refine + 1, coarse * refine + 1) if succeeds(k)) / (
        steps * refine
    )


@pytest.mark.parametrize(("n", "classes"), [(3, 2), (10, 4), (30, 7)])
def test_fgsm_is_exact_to_its_grid(n, classes):
    model, x = linear(n, classes, seed=n), inputs(25, n)
    targets = other_targets(predicted(model, x), classes)
    result = FGSM()(model, x, targets)
    want = [literal_fgsm(model, row.numpy(), int(t)) for row, t in zip(x, targets, strict=True)]
    assert result.success.tolist() == [eps is not None for eps in want]
    assert any(eps is not None for eps in want)
    for linf, eps in zip(result.noise.linf.tolist(), want, strict=True):
        assert linf == pytest.approx(eps or 0.0, abs=1e-12)


@pytest.mark.parametrize("attack", [FGSM(), IGSM()])
def test_sign_attacks_between_two_classes_far_from_the_box(attack):
    """The smallest eps is the margin over the L1 norm of the weights, rounded up to the grid."""
    model, x = linear(20, 2), inputs(30, 20, low=0.4, high=0.6)
    labels = predicted(model, x)
    w = (model.weight[1] - model.weight[0]).detach()
    eps = (model(x) @ torch.tensor([-1.0, 1.0], dtype=torch.float64)).detach().abs() / w.abs().sum()
    near = eps < 0.35
    assert near.sum() > 10
    result = attack(model, x, 1 - labels)
    assert torch.allclose(result.noise.linf[near], (eps[near] * DENOMINATOR).ceil() / DENOMINATOR, atol=1e-12)


@pytest.mark.parametrize("attack", [FGSM(), IGSM()])
def test_sign_attacks_with_the_box_in_the_way(attack):
    """Between two classes every coordinate helps until the box stops it, so that success is monotone in eps."""
    weight = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    weight -= weight.mean()
    model = Linear(torch.stack([-weight, weight]))
    model.bias.data = torch.tensor([0.9, -0.9], dtype=torch.float64)
    model.eval()
    x = inputs(20, 20, low=-0.5, high=1.5).clamp(0, 1)  # half of the coordinates at 0 or 1
    x = x[predicted(model, x) == 0]
    result = attack(model, x, torch.ones(len(x), dtype=torch.int64))
    eps = torch.arange(1, DENOMINATOR + 1, dtype=torch.float64)[:, None, None] / DENOMINATOR
    trial = (x + eps * weight.sign()).clamp(0, 1)
    wins = predicted(model, trial.flatten(0, 1)).view(DENOMINATOR, len(x)) == 1
    assert result.success.tolist() == wins.any(0).tolist()
    assert result.success.any()
    first = wins.to(torch.uint8).argmax(0)[result.success]
    assert torch.allclose(result.noise.linf[result.success], (first + 1).double() / DENOMINATOR, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"step": 1 / 100, "max_eps": 0.6}, {"refine": 1, "step": 1 / 16}])
@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
def test_igsm_walks_on_from_where_the_ball_comes_into_the_way(monkeypatch, loss, settings):
    """With no iterate but the clean one kept, every eps is walked from x, as published."""
    model, x = network(), inputs(40, 12)
    targets = other_targets(predicted(model, x), int(model(x).shape[1]))
    attack = IGSM(iterations=10, loss=loss, **settings)
    short = attack(model, x, targets)
    monkeypatch.setattr(igsm, "SLOTS", 1)
    published = attack(model, x, targets)
    assert short.success.sum() > 20
    assert torch.equal(short.adversarial, published.adversarial)
    assert torch.equal(short.success, published.success)
    assert short.queries.sum() < published.queries.sum()


def literal_igsm(model, x, target, eps, step, iterations):
    """One example at one eps: the first iterate that says the target, or None."""
    point = x.clone()
    for _ in range(math.ceil(eps / step) + iterations + 1):
        leaf = point.clone().requires_grad_(True)
        z = model(leaf[None])
        if z.argmax() == target:
            return point
        loss = torch.nn.functional.cross_entropy(z, target[None])
        moved = point - step * torch.autograd.grad(loss, leaf)[0].sign()
        point = torch.minimum(torch.maximum(moved, x - eps), x + eps).clamp(0, 1)
    return None


def test_igsm_equals_a_literal_one_at_every_eps():
    model, x = network(), inputs(12, 12)
    targets = other_targets(predicted(model, x), 4)
    result = IGSM(step=1 / 16, refine=2, iterations=10, max_eps=0.5)(model, x, targets)
    grid = [k / 32 for k in range(1, 17)]
    compared = 0
    for i, (row, target) in enumerate(zip(x, targets, strict=True)):
        found = [literal_igsm(model, row, target, eps, 1 / 16, 10) for eps in grid]
        wins = [one is not None for one in found]
        assert result.success[i] == any(wins)
        if any(wins) and all(wins[wins.index(True) :]):  # else a bisection may end above the smallest
            least = min(float((one - row).abs().max()) for one in found if one is not None)
            assert float(result.noise.linf[i]) == pytest.approx(least, abs=1e-12)
            compared += 1
    assert compared >= 8


def literal_deepfool(model, x, label, overshoot=0.02):
    """Algorithm 2 of the paper (several classes) for one example; the clipped point, or None after 25 steps."""
    total, point = torch.zeros_like(x), x
    for _ in range(25):
        leaf = point.clone().requires_grad_(True)
        z = model(leaf[None])[0]
        steps = []
        for k in range(len(z)):
            if k != label:
                w = torch.autograd.grad(z[k] - z[label], leaf, retain_graph=True)[0]
                gap = (z[k] - z[label]).detach().abs()
                steps.append((float(gap / w.norm()), gap / w.norm() ** 2 * w))
        total = total + min(steps, key=lambda step: step[0])[1]
        point = (x + (1 + overshoot) * total).clamp(0, 1)
        if predicted(model, point[None]) != label:
            return point
    return None


def test_deepfool_equals_a_literal_one_on_a_network():
    model, x = network(classes=5, seed=3), inputs(16, 12)
    labels = predicted(model, x)
    result = DeepFool()(model, x, labels)
    compared = 0
    for i, (row, label) in enumerate(zip(x, labels, strict=True)):
        found = literal_deepfool(model, row, label)
        if found is not None:
            torch.testing.assert_close(result.adversarial[i], found, rtol=0, atol=1e-6)
            compared += 1
    assert compared >= 12


def test_fgsm_success_is_not_monotone():
    """Success only between two values of eps: a bisection from above would miss it."""

    class Window(torch.nn.Module):
        def forward(self, x):
            lead = 0.02 - (x[:, :1] - 0.3).abs()
            return torch.cat([torch.zeros_like(lead), lead], 1)

    x = torch.zeros(1, 2, dtype=torch.float64)
    result = FGSM()(Window().eval(), x, torch.tensor([1]))
    assert result.success.all()
    assert 0.28 < float(result.noise.linf) <= 0.28 + 1 / DENOMINATOR


@pytest.mark.parametrize(("n", "classes"), [(5, 2), (20, 2), (20, 5), (50, 10)])
def test_deepfool_far_from_the_box(n, classes):
    model, x = linear(n, classes, seed=n), inputs(60, n, low=0.45, high=0.55)
    # The boundaries of all classes pass near the middle of the box.
    model.bias.data = 0.2 * model.bias.data - model.weight.data.sum(1) / 2
    labels = predicted(model, x)
    z, w = model(x).detach(), model.weight.detach()
    gap = z.gather(1, labels[:, None]) - z  # [B,L]
    length = (w[labels][:, None] - w[None]).norm(dim=2)
    distance = torch.where(length > 0, gap / length, math.inf).amin(1)
    near = distance < 0.3
    assert near.sum() > 5
    result = DeepFool()(model, x, labels)
    assert result.success[near].all()
    assert (result.noise.l2[near] >= distance[near]).all()
    assert (result.noise.l2[near] <= distance[near] * 1.02 * (1 + 1e-3)).all()


def closest_in_box(model, x, labels, k):
    """Per example the L2 distance to class k inside the box, inf where k is the label.

    The closest point is clip(x + s·w), w the difference of the weights, s the smallest that crosses the boundary.
    """
    w = (model.weight[k] - model.weight[labels]).detach()
    low = torch.zeros(len(x), 1, dtype=torch.float64)
    high = torch.full_like(low, 1000.0)
    for _ in range(100):
        middle = (low + high) / 2
        z = model((x + middle * w).clamp(0, 1)).detach()
        over = z[:, k : k + 1] > z.gather(1, labels[:, None])
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    distance = ((x + high * w).clamp(0, 1) - x).norm(dim=1)
    return distance.masked_fill(labels == k, math.inf)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n", "classes"), [(20, 2), (20, 5), (8, 3)])
def test_deepfool_with_the_box_in_the_way(n, classes, seed):
    """Half of the coordinates start at 0 or 1. Every example succeeds, between two classes at the optimum."""
    model, x = linear(n, classes, seed=seed), inputs(60, n, seed=seed, low=-0.5, high=1.5).clamp(0, 1)
    labels = predicted(model, x)
    best = torch.stack([closest_in_box(model, x, labels, k) for k in range(classes)]).amin(0)
    result = DeepFool()(model, x, labels)
    assert result.success.all()
    ratio = result.noise.l2 / best
    assert (ratio >= 1 - 1e-6).all()
    # With several classes the nearest one is chosen without the box, as published.
    assert (ratio.amax() if classes == 2 else ratio.median()) <= 1.02 * (1 + 1e-3)


def test_deepfool_where_the_box_lies_in_one_class():
    model, x = linear(20, 3), inputs(10, 20)
    model.bias.data[1] = 100.0
    assert not DeepFool()(model, x, torch.ones(10, dtype=torch.int64)).success.any()


def test_deepfool_where_no_gradient_leads_on():
    class Flat(torch.nn.Module):
        def forward(self, x):
            return torch.cat([x[:, :1] * 0 + 2, x[:, :1] * 0], 1)

    x = inputs(3, 4)
    result = DeepFool()(Flat().eval(), x, torch.zeros(3, dtype=torch.int64))
    assert not result.success.any()
    assert torch.equal(result.adversarial, x)


def test_jsma_finds_the_fewest_coordinates_where_they_are_separable():
    """Every coordinate adds its weight: the largest weights first, two at a time."""
    rng = torch.Generator().manual_seed(7)
    weight = torch.rand(21, generator=rng, dtype=torch.float64)
    bound = torch.linspace(0.5, 0.95 * float(weight.sum()), 12, dtype=torch.float64)
    for c in bound.tolist():
        model = Linear(torch.stack([-weight, weight])).eval()
        model.bias.data = torch.tensor([c, -c], dtype=torch.float64)
        result = JSMA()(model, torch.zeros(1, 21, dtype=torch.float64), torch.tensor([1]))
        fewest = int((weight.sort(descending=True).values.cumsum(0) <= c).sum()) + 1
        even = fewest + fewest % 2
        assert result.success.item() == (even <= 20)
        assert result.noise.l0.item() == (even if even <= 20 else 0)


def literal_jsma(model, x, target, theta=1.0):
    """One example, one n×n map at a time, as in the original; the adversarial example, or None."""
    point, free = x.clone(), (x < 1 if theta > 0 else x > 0)
    n = len(x)
    while True:
        leaf = point.clone().requires_grad_(True)
        z = model(leaf[None])[0]
        if z.argmax() == target:
            return point
        a = torch.autograd.grad(z[target], leaf, retain_graph=True)[0].float().numpy()
        b = torch.autograd.grad(z.sum() - z[target], leaf)[0].float().numpy()
        best, pair = -1.0, None
        for p in range(n):
            for q in range(p + 1, n):
                alpha, beta = a[p] + a[q], b[p] + b[q]
                right = (alpha > 0 > beta) if theta > 0 else (alpha < 0 < beta)
                if free[p] and free[q] and right and -alpha * beta > best:
                    best, pair = -alpha * beta, (p, q)
        if pair is None:
            return None
        for i in pair:
            point[i] = min(1.0, max(0.0, point[i] + theta))
            free[i] = False


@pytest.mark.parametrize("theta", [1.0, 0.4, -1.0])
def test_jsma_equals_a_literal_one(theta):
    model, x = network(n=14, classes=4, seed=2), inputs(16, 14, low=-0.3, high=1.3).clamp(0, 1)
    targets = other_targets(predicted(model, x), 4)
    result = JSMA(theta=theta)(model, x, targets)
    for i, (row, target) in enumerate(zip(x, targets, strict=True)):
        want = literal_jsma(model, row, int(target), theta)
        assert bool(result.success[i]) == (want is not None)
        if want is not None:
            assert torch.equal(result.adversarial[i], want)
    assert result.success.sum() > 0


def test_jsma_gives_back_what_it_does_not_need():
    model, x = network(n=30, classes=6, seed=1), inputs(20, 30, high=0.6)
    targets = other_targets(predicted(model, x), 6)
    whole, pruned = JSMA()(model, x, targets), JSMA(prune=True)(model, x, targets)
    assert torch.equal(pruned.success, whole.success)
    assert (pruned.noise.l0 <= whole.noise.l0).all()
    assert (pruned.noise.l0 < whole.noise.l0).any()
    kept = pruned.adversarial != x
    assert torch.equal(pruned.adversarial[kept], whole.adversarial[kept])  # nothing new was changed


def test_jsma_keeps_to_max_changed():
    model, x = network(n=30, classes=6, seed=1), inputs(20, 30, high=0.6)
    targets = other_targets(predicted(model, x), 6)
    free, capped = JSMA()(model, x, targets), JSMA(max_changed=5)(model, x, targets)
    assert free.noise.l0.max() > 4
    assert capped.noise.l0.max() == 4  # pairs
    assert torch.equal(capped.success, free.success & (free.noise.l0 <= 4))
