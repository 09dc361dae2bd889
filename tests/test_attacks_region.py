"""RegionCW: closed forms on linear models, gradients through the ends of a region, examples that stand apart."""

import math

import numpy as np
import pytest
import torch
from attack_models import inputs, linear, network, other_targets, predicted
from marks import slow_where

from rcfast import RegionClassifier
from rcfast.attacks import CWL0, CWL2, CWLinf, OptMargin, RegionCW, Smallest, Untargeted, judge
from rcfast.attacks._level import needed, raised
from rcfast.attacks._sampled import another, draw, key
from rcfast.eval.checks.trace import trace

NORMS = (0, 2, math.inf)
SMALL = {"steps": 50, "points": 8, "votes": 400}


def lead_margin(model, r, m, votes):
    """The margin of a linear model on two labels at the centre at which the vote leads as RegionCW wants it to."""
    w = (model.weight[1] - model.weight[0]).detach()
    spread = r * w.norm() / math.sqrt(3)  # of a sum of uniform numbers, nearly normal
    share = (1 + needed(m, votes, 2.75)) / 2
    return float(spread * math.sqrt(2) * torch.erfinv(torch.tensor(2 * share - 1)))


@pytest.mark.parametrize("norm", [2, math.inf])
def test_least_noise_of_a_linear_model_far_from_the_box(norm):
    model, x = linear(30, 2), inputs(10, 30, low=0.4, high=0.6)
    labels = predicted(model, x)
    w = (model.weight[1] - model.weight[0]).detach()
    near = ((model(x) @ torch.tensor([-1.0, 1.0], dtype=torch.float64)).detach().abs()) < 0.2 * w.abs().sum()
    x, labels = x[near], labels[near]
    assert len(x) > 4
    vote = RegionClassifier(model, 0.1, m=500)
    gap = (model(x) @ torch.tensor([-1.0, 1.0], dtype=torch.float64)).detach().abs()
    least = (gap + lead_margin(model, 0.1, 500, 400)) / (w.norm() if norm == 2 else w.abs().sum())
    result = RegionCW(norm=norm, **SMALL)(vote, x, 1 - labels)
    ratio = result.noise.of(norm) / least
    assert result.success.all()
    assert (ratio < 1.05).all()
    assert (ratio > 0.9).all()


def test_fewest_pixels_of_a_linear_model():
    model, x = linear(40, 2), inputs(8, 40)
    labels = predicted(model, x)
    w = (model.weight[1] - model.weight[0]).detach() * (1 - 2 * labels[:, None])
    gap = (model(x) @ torch.tensor([-1.0, 1.0], dtype=torch.float64)).detach().abs()
    gains = (((w > 0).double() - x) * w).sort(dim=1, descending=True).values.cumsum(1)
    least = (gains < gap[:, None]).sum(1) + 1
    result = RegionCW(norm=0, **SMALL)(RegionClassifier(model, 0.02, m=500), x, 1 - labels)
    assert result.success.all()
    assert (result.noise.l0 <= least + 1).all()
    assert (result.noise.l0 >= least - 1).all()  # the region at the ends of [0,1] is another


@pytest.mark.parametrize("norm", slow_where(lambda norm: norm != 2, NORMS))
def test_a_plain_network_is_attacked_without_a_region(norm):
    model, x = network(n=20), inputs(12, 20)
    targets = other_targets(predicted(model, x), 4)
    ours = RegionCW(norm=norm)(model, x, targets)
    peer = {0: CWL0.fast(), 2: CWL2(), math.inf: CWLinf.fast()}[norm](model, x, targets)
    assert ours.success.all()
    both = peer.success
    assert both.sum() > 8
    ratio = (ours.noise.of(norm) / peer.noise.of(norm))[both]
    assert float(ratio.median()) < 1.01  # some are in another local minimum
    assert float(ratio.mean()) < 1.3


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_network_the_least_noisy_point_of_the_way_is_handed_out(norm):
    model, x = network(n=20), inputs(12, 20)
    targets = other_targets(predicted(model, x), 4)
    found = trace(RegionCW(norm=norm, steps=80), model, x, targets)
    assert np.isfinite(found.returned).all()
    clear = found.success & (found.margin > 1e-4)
    for row, returned in enumerate(found.returned):
        assert returned <= found.noise[clear & (found.row == row)].min() * (1 + 1e-4)


def test_on_a_network_a_second_search_goes_on_from_the_first():
    model, x = network(n=20), inputs(12, 20)
    targets = other_targets(predicted(model, x), 4)
    once, twice = (RegionCW(steps=30, restarts=n)(model, x, targets) for n in (1, 2))
    assert (twice.success >= once.success).all()
    both = once.success
    assert both.sum() > 8
    assert (twice.noise.l2 <= once.noise.l2)[both].all()
    assert (twice.noise.l2 < 0.999 * once.noise.l2)[both].any()


@pytest.mark.parametrize("clip", ["intersect", "clamp"])
def test_gradients_go_through_the_ends_of_the_region(clip):
    x = torch.tensor([[0.0, 0.05, 0.5, 0.93, 1.0]])
    vote = RegionClassifier(torch.nn.Flatten(), 0.1, clip=clip)
    ids = torch.tensor([5])
    leaf = x.clone().requires_grad_(True)
    points = draw(leaf, vote.region, 64, seed=3, ids=ids)
    weight = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    (grad,) = torch.autograd.grad((points[0] * weight).sum(), leaf)
    step = 1e-4
    for j in range(5):
        low, high = x.clone(), x.clone()
        low[0, j], high[0, j] = max(0.0, x[0, j] - step), min(1.0, x[0, j] + step)
        ends = [draw(end, vote.region, 64, seed=3, ids=ids) for end in (low, high)]
        slope = float(((ends[1] - ends[0])[0] * weight).double().sum() / (high - low)[0, j].double())
        assert slope == pytest.approx(float(grad[0, j]), abs=0.05)


@pytest.mark.parametrize("norm", NORMS)
def test_examples_stand_apart(norm):
    model, x = network(), inputs(6, 12)
    targets = other_targets(predicted(model, x), 4)
    vote = RegionClassifier(model, 0.2, m=60)
    attack = RegionCW(norm=norm, steps=15, points=3, votes=60)
    whole = attack(vote, x, targets, batch=64)
    assert whole.success.any()
    order = torch.tensor([3, 0, 5, 1, 4, 2, 2])
    for rows, batch in ((order, 64), (torch.arange(6), 2), (torch.tensor([4]), None)):
        part = attack(vote, x[rows], targets[rows], batch=batch)
        assert torch.equal(part.adversarial, whole.adversarial[rows])
        assert torch.equal(part.success, whole.success[rows])
        assert torch.equal(part.queries, whole.queries[rows])
    assert not torch.equal(attack.replace(seed=1)(vote, x, targets).adversarial, whole.adversarial)


@pytest.mark.parametrize("weights", ["count", "softmax", "margin"])
def test_queries_are_points_and_not_sums_of_weights(weights):
    """60 points of the vote on the clean input and 60 of the one that judges, whatever a point's weights sum to.

    Ranking takes a vote, and a pass of the network for labels that tie.
    """
    x = inputs(5, 12)
    vote = RegionClassifier(network(), 0.2, m=60, weights=weights, stop=None)
    said = vote.predict(x)
    attack = RegionCW(steps=3, points=2, votes=20)
    assert (attack(vote, x, said).queries == 120).all()  # they say the targets already
    ranked = Untargeted(attack, targets=1)(vote, x, said)
    assert (ranked.queries - ranked.candidates[0].queries == 61).all()


@pytest.mark.parametrize("loss", ["margin", "tanh", "probability", "count"])
def test_every_loss_finds_about_the_same_noise_at_any_scale_of_the_logits(loss):
    model, x = network(n=20), inputs(4, 20)
    targets = other_targets(predicted(model, x), 4)
    attack = RegionCW(loss=loss, **SMALL)
    found = {
        scale: attack(RegionClassifier(lambda z, s=scale: s * model(z), 0.2, m=300), x, targets)
        for scale in (0.01, 1.0, 100.0)
    }
    assert all(result.success.all() for result in found.values())
    for scale in (0.01, 100.0):
        assert torch.allclose(found[scale].noise.l2, found[1.0].noise.l2, rtol=0.02)
    usual = RegionCW(**SMALL)(RegionClassifier(model, 0.2, m=300), x, targets)
    assert found[1.0].mean_noise(2) < 1.05 * usual.mean_noise(2)


def test_of_two_searches_the_least_noise_stays_that_leads():
    """The second search alone ends one of these rows at a tenth of the noise, where the vote says another label."""
    model, x = network(n=20, classes=5), inputs(10, 20)
    targets = other_targets(predicted(model, x), 5)
    vote = RegionClassifier(model, 0.25, m=500)
    attack = RegionCW(start=CWL2.fast(confidence=1.0), **SMALL)
    once, twice = (attack.replace(restarts=n)(vote, x, targets) for n in (1, 2))
    assert once.success.all()
    assert twice.success.all()
    assert (twice.noise.l2 <= once.noise.l2).all()
    assert (twice.noise.l2 < once.noise.l2).sum() > 3


def test_succeeds_on_fresh_seeds_and_is_never_worse_than_where_it_started():
    model, x = network(n=20, classes=5), inputs(10, 20)
    targets = other_targets(predicted(model, x), 5)
    vote = RegionClassifier(model, 0.25, m=500)
    start = CWL2.fast(confidence=1.0)
    carried = start(model, x, targets)
    result = RegionCW(start=start, **SMALL)(vote, x, targets)
    judged = judge(vote, result, targets, targeted=True, m=500)
    assert judged.everywhere.all()
    safe = judge(vote, carried, targets, targeted=True, m=500)
    held = safe.everywhere & (safe.share - safe.rival > needed(500, 400, 4.0))
    assert held.sum() >= 3
    assert (result.noise.l2 <= carried.noise.l2 * (1 + 1e-6))[held].all()
    assert (result.queries > carried.queries).all()


@pytest.mark.parametrize("whole", [False, True])
def test_sizes_that_do_not_lead_are_raised_to_where_votes_change(whole):
    edge = torch.tensor([20.0, 20.3, 26.0, 200.0])
    size, short = torch.full((4,), 20.0), torch.tensor([False, True, True, True])
    found = raised(lambda size, rows, name: size[rows] >= edge[rows], size, short, whole=whole)
    assert found[0] == 20
    assert found[3] == 20, "it leads nowhere near"
    assert (found[1:3] >= edge[1:3]).all()
    assert (found[1:3] <= (edge[1:3].ceil() if whole else edge[1:3] * 1.01)).all()


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_region_so_small_that_votes_change_all_at_once(restarts):
    model, x = network(n=20, classes=5), inputs(12, 20)
    targets = other_targets(predicted(model, x), 5)
    vote = RegionClassifier(model, 1e-3, m=200)
    result = RegionCW(restarts=restarts, **SMALL)(vote, x, targets)
    network_alone = RegionCW(**SMALL)(model, x, targets)
    assert result.success.sum() >= network_alone.success.sum()
    both = result.success & network_alone.success
    assert (result.noise.l2 / network_alone.noise.l2)[both].mean() < 1.1


@pytest.mark.parametrize("start", [None, CWL2.fast(confidence=1.0)], ids=["clean", "start"])
@pytest.mark.parametrize("votes", [True, False])
def test_images_that_are_stored_on_a_grid_are_chosen_on_it(votes, start):
    """Noise of about one level: rounded afterwards, half of it is lost."""
    model, levels = network(n=20, classes=5), 12
    x = (inputs(10, 20) * levels).round() / levels
    targets = other_targets(predicted(model, x), 5)
    attacked = RegionClassifier(model, 0.1, m=500) if votes else model
    usual = RegionCW(start=start, **SMALL)(attacked, x, targets)
    stored = RegionCW(start=start, levels=levels, **SMALL)(attacked, x, targets)

    def said(points):
        return attacked.predict(points) if votes else predicted(model, points)

    assert torch.equal((stored.adversarial * levels).round() / levels, stored.adversarial)
    assert stored.success.sum() >= usual.success.sum() - 1
    assert torch.equal(said(stored.adversarial) == targets, stored.success)
    rounded = said((usual.adversarial * levels).round() / levels) == targets
    assert rounded.sum() <= stored.success.sum() - 2


def test_the_smallest_of_attacks_on_a_vote():
    """The worst case over attacks that know the vote: of each example the least noisy one that its own votes take."""
    model, x = network(n=20, classes=5), inputs(6, 20)
    vote, targets = RegionClassifier(model, 0.05, m=300), other_targets(predicted(model, x), 5)
    several = [RegionCW(**SMALL), RegionCW(loss="margin", **SMALL), OptMargin(targeted=True, iterations=40)]
    alone = [attack(vote, x, targets) for attack in several]
    result = Smallest(several, norm=2)(vote, x, targets)
    cost = torch.stack([torch.where(one.success, one.noise.l2, math.inf) for one in alone])
    assert result.success.equal(torch.stack([one.success for one in alone]).any(0))
    assert torch.where(result.success, result.noise.l2, math.inf).equal(cost.min(0).values)
    assert len(cost.argmin(0).unique()) > 1


def test_points_may_grow_towards_the_end():
    model, x = network(n=20, classes=5), inputs(3, 20)
    vote, targets = RegionClassifier(model, 0.05, m=300), other_targets(predicted(model, x), 5)
    few, growing, many = (
        RegionCW(**{**SMALL, "restarts": 1, "points": first}, last_points=last)(vote, x, targets).queries
        for first, last in ((2, None), (2, 16), (16, None))
    )
    assert (few < growing).all()
    assert (growing < many).all()
    assert (
        (growing - few) > 0.3 * (many - few)
    ).all()  # half of what lies between, in the mean over all steps


def test_untargeted_takes_the_least_of_the_targets():
    model, x = network(n=20), inputs(3, 20)
    labels = predicted(model, x)
    vote = RegionClassifier(model, 0.2, m=300)
    attack = RegionCW(**SMALL)
    result = Untargeted(attack)(vote, x, labels)
    assert result.success.all()
    for k in range(3):
        rest = torch.tensor([t for t in range(4) if t != labels[k]])
        each = attack(vote, x[k].expand(3, -1), rest)
        assert result.noise.l2[k] == each.noise.l2[each.success].min()


def test_an_attack_never_uses_the_points_of_the_vote():
    assert (
        len({key(s, p) for s in range(50) for p in ("points", "judge", "settle 0")} | set(range(50))) == 200
    )
    vote = RegionClassifier(network(), 0.2, m=50, stop=None)
    x = inputs(3, 12)
    ids = torch.arange(3)
    twin = another(vote, seed=key(0, "points"))
    assert not torch.equal(twin.vote(x, example_ids=ids).counts, vote.vote(x, example_ids=ids).counts)
    assert vote.seed == 0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"norm": 1}, ValueError, "norm must be one of 0, 2, inf, got 1"),
        ({"steps": 0}, ValueError, "steps must be a positive integer, got 0"),
        ({"points": 0}, ValueError, "points must be a positive integer, got 0"),
        ({"restarts": 0}, ValueError, "restarts must be a positive integer, got 0"),
        ({"last_points": 0}, ValueError, "last_points must be a positive integer, got 0"),
        ({"votes": 0}, ValueError, "votes must be a positive integer, got 0"),
        ({"levels": 0}, ValueError, "levels must be a positive integer, got 0"),
        ({"certainty": 0.0}, ValueError, "certainty must be positive, got 0.0"),
        ({"loss": "hinge"}, ValueError, "loss must be one of margin, tanh, probability, count, got 'hinge'"),
        ({"start": "clean"}, TypeError, "start must be a targeted attack"),
        ({"start": Untargeted(CWL2())}, TypeError, "start must be a targeted attack"),
        ({"seed": 2**64}, ValueError, "seed must lie in"),
    ],
)
def test_bad_hyperparameters(settings, error, message):
    with pytest.raises(error, match=message):
        RegionCW(**settings)
