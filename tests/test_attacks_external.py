"""Attacks of other libraries: stopped at their budget, judged as ours, the same in any company."""

import importlib.util
import math

import pytest
import torch
from attack_models import inputs, linear, network, predicted

from rcfast import RegionClassifier
from rcfast.attacks import Smallest, external
from rcfast.running import TRIED

HAVE = {name for name in ("foolbox", "art", "torchattacks") if importlib.util.find_spec(name)}
ATTACKS = {
    "foolbox": external("foolbox:HopSkipJumpAttack", steps=2, max_gradient_eval_steps=40, queries=300),
    "art": external("art:HopSkipJump", max_iter=2, max_eval=40, init_eval=10, queries=300),
    "torchattacks": external("torchattacks:Square", norm=math.inf, eps=0.8, n_queries=100, queries=300),
}


def images(count):
    return inputs(count, 1, 3, 4).float()


def model():
    """In float64, whose rows do not feel who else is asked about; the libraries' images are float32."""
    return network(12)


@pytest.mark.parametrize("library", sorted(ATTACKS))
@pytest.mark.parametrize("votes", [False, True])
def test_runs_on_networks_and_votes_and_gives_the_same_in_any_company(library, votes):
    if library not in HAVE:
        pytest.skip(f"{library} is not installed")
    net, x = model(), images(2)
    labels = predicted(net, x.double())
    attacked = RegionClassifier(net, 0.1, m=40) if votes else net
    attack = ATTACKS[library]
    before = torch.get_rng_state()
    result = attack(attacked, x, labels)
    assert torch.equal(torch.get_rng_state(), before)
    assert result.success.all()
    said = attacked.predict(result.adversarial) if votes else predicted(net, result.adversarial.double())
    assert (said != labels).all()
    part = attack(attacked, x[[1]], labels[[1]])
    assert torch.equal(part.adversarial, result.adversarial[[1]])
    assert torch.equal(part.queries, result.queries[[1]])


@pytest.mark.skipif("foolbox" not in HAVE, reason="foolbox is not installed")
def test_is_stopped_at_its_budget_and_keeps_the_best_it_saw():
    net, x = linear(12, 2), images(2)
    labels = predicted(net, x.double())
    asked = []

    def watched(z):
        asked.append(len(z))
        return net(z.double())

    noise = []
    for queries in (60, 400, 3000):
        asked.clear()
        attack = external("foolbox:HopSkipJumpAttack", steps=20, queries=queries)
        result = attack(watched, x, labels, batch=64)  # else a look at the memory asks, too
        assert sum(asked) <= int(result.queries.sum()) + 3 * TRIED
        assert (
            result.queries <= queries + 3
        ).all()  # and the looks at the clean input and at what is handed out
        noise.append(result.mean_noise(2))
        assert result.success.all()
    assert noise[0] > noise[1] > noise[2]


@pytest.mark.skipif("torchattacks" not in HAVE, reason="torchattacks is not installed")
def test_gradients_through_points_of_the_region():
    net, x = model(), images(4)
    labels = predicted(net, x.double())
    vote = RegionClassifier(net, 0.1, m=100)
    attack = external("torchattacks:PGD", norm=math.inf, points=6, eps=0.2, alpha=0.05, steps=10)
    assert attack(vote, x, labels).success.all()


def test_combines_with_ours():
    attack = external("foolbox:HopSkipJumpAttack", steps=3)
    assert repr(attack) == "external('foolbox:HopSkipJumpAttack', steps=3)"
    assert attack == external("foolbox:HopSkipJumpAttack", steps=3)
    assert hash(attack) == hash(external("foolbox:HopSkipJumpAttack", steps=3))
    assert Smallest([attack]).norm == 2


def test_errors():
    with pytest.raises(
        ValueError, match="name must be LIBRARY:ATTACK, of foolbox, art, torchattacks, got 'cleverhans:FGM'"
    ):
        external("cleverhans:FGM")
    with pytest.raises(ValueError, match="queries must be a positive integer, got 0"):
        external("foolbox:HopSkipJumpAttack", queries=0)
    with pytest.raises(ValueError, match="points must be a count"):
        external("foolbox:HopSkipJumpAttack", points=-1)
    net, x = model(), images(1)
    if "foolbox" in HAVE:
        with pytest.raises(AttributeError, match="has no attack 'Nothing'"):
            external("foolbox:Nothing")(net, x, predicted(net, x.double()))
    if "torchattacks" not in HAVE:
        with pytest.raises(ImportError, match=r"needs torchattacks.*pip install 'rcfast\[peers\]'"):
            external("torchattacks:PGD")(net, x, predicted(net, x.double()))


@pytest.mark.skipif("foolbox" not in HAVE, reason="foolbox is not installed")
def test_the_boundary_attack_walks_nearer_with_more_queries():
    net, x = linear(12, 2), images(2)
    labels = predicted(net, x.double())
    vote = RegionClassifier(net, 0.05, m=20)
    noise = []
    for queries in (40, 4_000):
        attack = external("foolbox:BoundaryAttack", steps=200, queries=queries)
        result = attack(vote, x, labels)
        assert result.success.all()
        assert (vote.predict(result.adversarial) != labels).all()
        noise.append(result.mean_noise(2))
    assert noise[1] < 0.95 * noise[0]


@pytest.mark.skipif("torchattacks" not in HAVE, reason="torchattacks is not installed")
def test_with_gradients_the_last_that_it_asked_about_counts_where_the_budget_ends_it():
    net, x = model(), images(4)
    labels = predicted(net, x.double())
    vote = RegionClassifier(net, 0.1, m=100)
    settings = {"norm": math.inf, "points": 6, "eps": 0.2, "alpha": 0.05, "steps": 10}
    assert external("torchattacks:PGD", queries=9, **settings)(vote, x, labels).success.all()


@pytest.mark.skipif("foolbox" not in HAVE, reason="foolbox is not installed")
def test_an_example_on_which_a_library_gives_up_fails_alone():
    def bright(z):  # uniform noise never leaves label 0
        lead = (z.flatten(1).mean(1) - 0.9)[:, None]
        return torch.cat([-lead, lead], 1)

    x = torch.cat([torch.full((1, 1, 12, 12), 0.95), torch.full((1, 1, 12, 12), 0.2)])
    attack = external("foolbox:HopSkipJumpAttack", steps=2, max_gradient_eval_steps=20, queries=3000)
    with pytest.warns(
        RuntimeWarning, match="HopSkipJumpAttack gave up on an example: ValueError: init_attack"
    ):
        found = attack(bright, x, torch.tensor([1, 0]))
    assert found.success.tolist() == [True, False]


@pytest.mark.parametrize(
    "attack",
    [
        external("foolbox:LinfPGD", norm=math.inf, epsilons=0.1, steps=3),
        external("torchattacks:CW", steps=3),
    ],
    ids=lambda attack: attack.name,
)
def test_leaves_the_gradients_of_the_parameters_alone(attack):
    if attack.name.partition(":")[0] not in HAVE:
        pytest.skip(f"{attack.name} is not installed")
    net, x = model(), images(2)
    first, *others = net.parameters()
    first.grad = torch.ones_like(first)
    attack(net, x, predicted(net, x.double()))
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(p.grad is None for p in others)
