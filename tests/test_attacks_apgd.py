"""APGD on networks and on votes: closed forms, the loss it drives up, and examples that stand apart."""

import math

import pytest
import torch
from attack_models import inputs, linear, network, other_targets, predicted
from oracles import apgd as oracle

from rcfast import RegionClassifier
from rcfast.attacks import APGD, judge
from rcfast.attacks.margins import margin

NORMS = (2, math.inf)


def distances(model, x, labels, norm):
    """How far the nearest boundary of a linear model is, in L2 or Linf, where [0,1] is not in the way."""
    dual = 2 if norm == 2 else 1
    logits = model(x).detach()
    found = []
    for k, label in enumerate(labels.tolist()):
        others = [i for i in range(logits.shape[1]) if i != label]
        found.append(
            min(
                (logits[k, label] - logits[k, i])
                / torch.linalg.vector_norm((model.weight[label] - model.weight[i]).detach(), dual)
                for i in others
            )
        )
    return torch.stack(found)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_succeeds_where_the_boundary_of_a_linear_model_is_within_eps(norm, loss):
    model, x = linear(6, 4), inputs(40, 6, low=0.3, high=0.7)
    labels = predicted(model, x)
    far = distances(model, x, labels, norm)
    eps = far.median().item()
    result = APGD(eps=eps, norm=norm, loss=loss, steps=100, restarts=2)(model, x, labels)
    near, out = far < 0.97 * eps, far > 1.001 * eps
    assert result.success[near].all()
    assert not result.success[out].any()
    assert (result.noise.of(norm) <= eps * (1 + 1e-12)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_vote_the_boundary_of_a_linear_model_is_its_own(norm):
    """Far from the ends of [0,1] the region is symmetric, and the vote on two labels is the centre's label."""
    model, x = linear(6, 2), inputs(30, 6, low=0.45, high=0.55)
    vote = RegionClassifier(model, 0.05, m=400, stop=None)
    labels = predicted(model, x)
    far = distances(model, x, labels, norm)
    eps = far.median().item()
    result = APGD(eps=eps, norm=norm, steps=40, eot=4)(vote, x, labels)
    judged = judge(vote, result, labels, targeted=False, m=400)
    assert judged.everywhere[far < 0.7 * eps].all()
    assert not judged.success[:, far > 1.3 * eps].any()
    assert (result.queries > 200).all()
    assert (result.noise.of(norm) <= eps * (1 + 1e-6)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_targets(norm):
    model, x = network(), inputs(20, 12)
    targets = other_targets(predicted(model, x), 4)
    wide = APGD(eps=0.5 if norm > 2 else 1.5, norm=norm, targeted=True, steps=50)
    result = wide(model, x, targets)
    assert result.success_rate > 0.8
    assert (predicted(model, result.adversarial)[result.success] == targets[result.success]).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_failed_search_against_a_vote_has_gone_up(norm, monkeypatch):
    """A failure is handed out as the clean input; before that it is the better of the best and the last iterate."""
    model, x = network(seed=2), inputs(10, 12)
    labels = predicted(model, x)
    vote = RegionClassifier(model, 0.2, m=200, stop=None)
    attack = APGD(eps=0.02 if norm > 2 else 0.05, norm=norm, steps=30, eot=8)
    found = []
    monkeypatch.setattr(APGD, "_search", lambda *args, run=APGD._search: found.append(run(*args)) or found[0])
    result = attack(vote, x, labels)
    assert torch.equal(result.adversarial[~result.success], x[~result.success])
    with torch.no_grad():
        attacked = vote.predict(x) == labels
        shift = margin(model(found[0]), labels[attacked], targeted=False)
        shift -= margin(model(x[attacked]), labels[attacked], targeted=False)
    assert not result.success.all()
    assert (shift > 0).all()


@pytest.mark.parametrize("steps", [20, 60])
@pytest.mark.parametrize("norm", NORMS)
def test_follows_the_published_algorithm(norm, steps, monkeypatch):
    """From the same start, on examples that no success lets leave: the momentum survives a halved step."""
    inner, x = network(classes=3, seed=3), inputs(6, 12)
    lead = torch.tensor([20.0, 0.0, 0.0], dtype=torch.float64)  # the first class always wins
    model = lambda z: lead + inner(3 * z - 1)  # noqa: E731
    labels = torch.ones(6, dtype=torch.int64)
    attack = APGD(eps=0.2 if norm > 2 else 0.6, norm=norm, steps=steps, targeted=True)
    starts, found = [], []
    start, search = APGD._start, APGD._search

    def starting(*args):
        state = start(*args)
        starts.append(state.at.clone())
        return state

    monkeypatch.setattr(APGD, "_start", starting)
    monkeypatch.setattr(APGD, "_search", lambda *args: found.append(search(*args)) or found[0])
    assert not attack(model, x, labels).success.any()
    for k in range(6):
        one, label = x[k], labels[k : k + 1]
        literal = oracle.climb(
            lambda at, label=label: -torch.nn.functional.cross_entropy(model(at[None]), label),
            one,
            starts[0][k],
            attack.eps,
            norm,
            steps,
        )
        torch.testing.assert_close(found[0][k], literal, rtol=0, atol=1e-4 * attack.eps)


def test_a_later_restart_only_replaces_what_has_fewer_votes(monkeypatch):
    model, x = network(), inputs(6, 12)
    labels = predicted(model, x)
    attack = APGD(eps=0.15, norm=2, steps=4, restarts=3)
    leads, keep = [], APGD._better

    def watched(self, vote, state):
        found = keep(self, vote, state)
        leads.append(dict(zip(state.row.tolist(), found[1].tolist(), strict=True)))
        return found

    monkeypatch.setattr(APGD, "_better", watched)
    vote = RegionClassifier(model, 0.2, m=100)
    result = attack(vote, x, labels)
    assert len(leads) == 3
    worse = [i for i in leads[2] if leads[2][i] < max(leads[0][i], leads[1][i])]
    assert worse  # the last one is not the best everywhere
    first = attack.replace(restarts=1)(vote, x, labels).success
    assert (result.success >= first).all()
    for i in worse:
        fooled = max(lead[i] for lead in leads) > 0.2  # safely, by other votes than those of the result
        assert bool(result.success[i]) or not fooled


@pytest.mark.parametrize("votes", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_examples_stand_apart(norm, votes):
    model, x = network(), inputs(6, 12)
    labels = predicted(model, x)
    attacked = RegionClassifier(model, 0.2, m=100) if votes else model
    attack = APGD(eps=0.04 if norm > 2 else 0.12, norm=norm, steps=20, eot=3, restarts=2)
    whole = attack(attacked, x, labels, batch=64)
    assert 0 < whole.success_rate < 1
    order = torch.tensor([3, 0, 5, 1, 4, 2, 2])
    for rows, batch in ((order, 64), (torch.arange(6), 2), (torch.tensor([4]), None)):
        part = attack(attacked, x[rows], labels[rows], batch=batch)
        assert torch.equal(part.adversarial, whole.adversarial[rows])
        assert torch.equal(part.success, whole.success[rows])
        assert torch.equal(part.queries, whole.queries[rows])
    other = attack.replace(seed=1)(attacked, x, labels)
    assert not torch.equal(other.adversarial, whole.adversarial)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0.0}, "eps must be positive, got 0.0"),
        ({"norm": 1}, "norm must be 2 or inf, got 1"),
        ({"norm": 0}, "norm must be 2 or inf, got 0"),
        ({"loss": "mse"}, "loss must be 'ce' or 'dlr', got 'mse'"),
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"eot": 0}, "eot must be a positive integer, got 0"),
        ({"restarts": 0}, "restarts must be a positive integer, got 0"),
        ({"seed": -1}, "seed must lie in"),
    ],
)
def test_bad_hyperparameters(settings, message):
    with pytest.raises(ValueError, match=message):
        APGD(**{"eps": 0.1, **settings})


def test_dlr_needs_three_labels():
    model, x = linear(4, 2), inputs(2, 4)
    with pytest.raises(ValueError, match="loss='dlr' needs at least 3 labels, got 2"):
        APGD(eps=0.1, loss="dlr")(model, x, predicted(model, x))
