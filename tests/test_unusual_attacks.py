"""Attacks on networks out of the ordinary, and with settings that are, each of which went wrong once."""

import math
from typing import Any

import pytest
import torch
from ordinary import inputs, linear, said
from torch import Tensor, nn

from rcfast import RegionClassifier
from rcfast.attacks import APGD, CWL0, CWL2, Adapted, CWLinf, DeepFool, OptMargin, RegionCW, Untargeted
from rcfast.attacks._moves import pixels, point
from rcfast.attacks.optmargin import orthogonal


class Sometimes(nn.Module):
    """NaN in one pass."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.inner, self.passes, self.at = linear(), 0, at

    def forward(self, x: Tensor) -> Tensor:
        self.passes += torch.is_grad_enabled()
        return self.inner(x) * (math.nan if self.passes == self.at else 1.0)


@pytest.mark.parametrize(
    "attack", [CWL0.fast(iterations=30), CWLinf.fast(iterations=30), CWL2.fast()], ids=repr
)
@pytest.mark.filterwarnings("ignore:the gradient of the model")
def test_logits_that_are_nan_in_one_pass_are_passed_over(attack: Any) -> None:
    x, model = inputs(), linear()
    with torch.no_grad():
        targets = model(x).topk(2).indices[:, 1]
    usual = attack(model, x, targets)
    found = attack(Sometimes(4).eval(), x, targets)
    assert usual.success.all()
    assert found.success.all()


def test_a_label_that_cannot_be_is_not_reached_and_hinders_nobody() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).index_fill(1, torch.tensor([3]), -math.inf)

    model, x = Masked().eval(), inputs()
    vote = RegionClassifier(model, 0.02, m=100)
    with torch.no_grad():
        targets = model(x).topk(2).indices[:, 1]
    attack = RegionCW.fast(steps=40, votes=100)
    alone = attack(vote, x, targets)
    both = attack(vote, x.repeat(2, 1), torch.cat([targets, torch.full_like(targets, 3)]))
    assert alone.success.any()
    assert torch.equal(both.success[:5], alone.success)
    assert not both.success[5:].any()
    torch.testing.assert_close(both.adversarial[:5], alone.adversarial, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_search_that_goes_on_for_long_after_such_a_label_ends() -> None:
    model, x = linear(), inputs(2)

    def never(z: Tensor) -> Tensor:
        return model(z) - 1e3 * (torch.arange(4) == 3)

    vote = RegionClassifier(never, 0.02, m=20)
    found = RegionCW(steps=2500, points=1, restarts=1, votes=20)(vote, x, torch.tensor([3, 3]))
    assert not found.success.any()


def test_a_tie_is_left_by_the_least_noise() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 3, bias=False)).eval()
    x = torch.zeros(2, 6)
    found = RegionCW(steps=100)(model, x, torch.tensor([1, 2]))
    assert found.success.all()
    assert (found.noise.l2 < 0.2).all()


class Breaking(nn.Module):
    """NaN beyond a brightness, at label 1."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.met = linear(classes=3), False

    def forward(self, x: Tensor) -> Tensor:
        broken = (x.mean(1) > 0.55)[:, None] & (torch.arange(3) == 1)
        self.met |= bool(broken.any())
        return torch.where(broken, math.nan, self.inner(x) * 0.01 + x.mean(1, keepdim=True) * torch.eye(3)[2])


@pytest.mark.parametrize(
    "attack", [APGD(eps=0.3, steps=20), DeepFool(), Adapted(DeepFool(), 3.0)], ids=lambda a: type(a).__name__
)
@pytest.mark.filterwarnings("ignore:the gradient of the model")
def test_nan_is_no_success(attack: Any) -> None:
    model, x = Breaking().eval(), inputs() * 0.8
    labels = said(model, x)
    found = attack(model, x, labels)
    assert model.met, "the attack must have come upon NaN"
    assert not model(found.adversarial[found.success]).isnan().any()
    for part in found.candidates:
        assert not model(part.adversarial[part.success]).isnan().any()


def test_on_a_plateau_c_is_not_infinite() -> None:
    attack = CWLinf(c_max=5.0)
    state = attack._start(torch.arange(2), torch.full((2, 3), 0.5), torch.zeros(2, dtype=torch.int64))
    state.solved[:] = True
    state.slope[:] = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert attack._least_c(state).tolist() == [5.0, attack._least_c(state)[1].item()]
    assert attack._least_c(state)[1] < 1


@pytest.mark.slow
def test_looks_of_others_end_no_search() -> None:
    """170 iterations are no multiple of the four between looks: rows that begin anew have others at other steps."""
    x, model = inputs(12), linear()
    targets = (said(model, x) + 1 + torch.arange(12) % 3) % 4
    attack = CWL2(iterations=170, searches=4, c0=0.01, rate=0.05, precision="float32", forecast=False)
    whole = attack(model, x, targets)
    for i in range(12):
        alone = attack(model, x[i : i + 1], targets[i : i + 1])
        assert alone.queries.item() == whole.queries[i].item()
        torch.testing.assert_close(alone.noise.l2[0], whole.noise.l2[i], rtol=1e-4, atol=1e-6)


def test_labels_without_votes_are_ranked_by_the_network() -> None:
    model, x = linear(classes=40), inputs()
    labels = said(model, x)
    vote = RegionClassifier(model, 0.001, m=50)
    (targets,), _, passes = Untargeted(RegionCW.fast(), targets=1)._wanted(vote, x, labels, None)
    second = model(x).detach().scatter(1, labels[:, None], -math.inf).argmax(1)
    assert torch.equal(targets, second)
    assert (passes > 1).all()


def test_pixels_are_those_of_images_alone() -> None:
    assert pixels(torch.ones(2, 3, 4, 4)).shape == (2, 16)
    assert pixels(torch.ones(2, 4, 4)).shape == (2, 16)
    assert pixels(torch.ones(2, 7)).shape == (2, 7)
    x = torch.full((1, 4, 4), 0.5)
    direction = torch.zeros(1, 4, 4)
    direction[0, 1, 2] = 1.0
    assert int((point(0, x, direction, torch.ones(1)) != x).sum()) == 1


def test_directions_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, ids = inputs(7), torch.arange(7)
    whole = orthogonal(x, ids, 3, seed=5)
    monkeypatch.setattr("rcfast.attacks.optmargin.AT_ONCE", 2)
    assert torch.equal(orthogonal(x, ids, 3, seed=5), whole)
    assert OptMargin().directions == 19


def test_a_longer_noise_costs_what_its_vote_costs() -> None:
    model, x = linear(), inputs()
    vote = RegionClassifier(model, 0.05, m=60, stop=None)
    labels = said(model, x)
    of = CWL2.fast(searches=2, iterations=20)(model, x, (labels + 1) % 4)
    longer = Adapted(CWL2.fast(), 1.0).of(of, vote, (labels + 1) % 4)
    assert torch.equal(longer.queries, of.queries + 60)


def test_a_longer_noise_is_judged_by_the_vote_as_it_is() -> None:
    """Not by one of inputs that are rounded as the network wants them."""
    model, x = linear(), inputs(40)
    labels = said(model, x)
    vote = RegionClassifier(model.bfloat16(), 0.3, m=20, stop=None)
    of = DeepFool()(vote.model, x, labels)
    longer = Adapted(DeepFool(), 0.1).of(of, vote, labels)
    (candidate,) = longer.candidates
    assert torch.equal(candidate.success, (vote.predict(candidate.adversarial) != labels) & of.success)


def test_the_network_of_a_vote_behind_a_callable_is_attacked_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4), nn.Dropout()).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    x, behind = inputs(), lambda z: network(z)
    vote = RegionClassifier(behind, 0.05, m=20)
    targets = (vote.predict(x) + 1) % 4
    found = RegionCW.fast(steps=10, votes=20)(vote, x, targets)
    again = RegionCW.fast(steps=10, votes=20)(vote, x, targets)
    assert torch.equal(found.adversarial, again.adversarial)
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("kind", ["vote", "network"])
def test_a_look_at_memory_changes_no_example(kind: str) -> None:
    class Moves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x.mul_(0.5)
            return self.inner(x)

    model, x = Moves().eval(), inputs()
    attacked = RegionClassifier(model, 0.05, m=20) if kind == "vote" else model
    found = RegionCW.fast(steps=5, votes=20)(attacked, x, said(model, x.clone()))
    assert torch.equal(found.clean, inputs())
    assert torch.equal(x, inputs())


def test_apgd_compares_its_last_iterate_and_not_the_best_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    usual = APGD._look

    def look(self: APGD, state: Any, interval: int) -> None:
        looked.append(interval)
        usual(self, state, interval)

    monkeypatch.setattr(APGD, "_look", look)
    model, x = linear(), inputs()
    APGD(eps=1e-4, steps=20)(model, x, said(model, x))
    assert looked
    assert sum(looked) < 20
