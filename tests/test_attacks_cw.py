"""Carlini and Wagner's attacks against closed forms, the literal loops, and the pitfalls of known implementations."""

import numpy as np
import pytest
import torch
from marks import slow_where
from oracles import carlini_wagner as literal
from torch import nn

import rcfast.data
from rcfast.attacks import CWL0, CWL2, CWLinf, _passes
from rcfast.attacks import attacked as attacked_module
from rcfast.attacks._climb import Climb
from rcfast.attacks._cw import HALVINGS, REACH, Adam, from_tanh, movable, shrink, to_tanh
from rcfast.attacks._passes import channels_last, searched
from rcfast.attacks.attacked import AttackedModel
from rcfast.attacks.margins import margin
from rcfast.eval.checks.trace import trace
from rcfast.hardware import has_bfloat16_units

ATTACKS = (
    CWL2(iterations=100, searches=5, c0=0.1, rate=0.1),
    CWLinf(iterations=100, c0=0.1, c_max=2.0, rate=0.05),
    CWL0(iterations=100, c0=0.1, c_max=20.0, rate=0.05),
)


class Linear(nn.Module):
    """Two classes on vectors: Z_1 - Z_0 = weight·x - offset."""

    def __init__(self, weight: torch.Tensor, offset: float):
        super().__init__()
        self.weight, self.offset = nn.Parameter(weight), offset

    def forward(self, x):
        z = x.flatten(1) @ self.weight - self.offset
        return torch.stack([torch.zeros_like(z), z], 1)


@pytest.fixture(scope="module")
def linear():
    """A classifier on 12 coordinates and points that it calls 0, some of them at the faces of the box."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(12, generator=generator) * 4
    x = torch.rand(8, 12, generator=generator)
    x[4:] = torch.where(torch.rand(4, 12, generator=generator) < 0.5, x[4:].round(), x[4:])
    return Linear(weight, float((x @ weight).max()) + 3.0).eval(), x, torch.ones(8, dtype=torch.int64)


@pytest.fixture(scope="module")
def digits():
    """A small network trained for a moment on the real digits, with test images and targets."""
    data = rcfast.data.load("digits")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(72, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(8):
        for rows in torch.randperm(len(data.train)).split(128):
            loss = nn.functional.cross_entropy(model(data.train.x[rows]), data.train.y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    right = (model(data.test.x).argmax(1) == data.test.y).nonzero().flatten()[:6]
    x, y = data.test.x[right], data.test.y[right]
    return model, x, (y + torch.arange(1, 7)) % 10


def smallest(weight, offset, x, norm):
    """The smallest change of a row that reaches weight·x = offset within the box, by bisection on the multiplier."""
    low, high = 0.0, 100.0
    for _ in range(80):
        size = (low + high) / 2
        step = size * (weight if norm == 2 else weight.sign())
        moved = (x + step).clamp(0, 1)
        low, high = (low, size) if (moved * weight).sum() >= offset else (size, high)
    delta = (x + high * (weight if norm == 2 else weight.sign())).clamp(0, 1) - x
    return delta.norm() if norm == 2 else delta.abs().max()


def fewest(weight, offset, x):
    """Coordinates that must change: the ones that gain most first."""
    gains = torch.where(weight > 0, weight * (1 - x), -weight * x).sort(descending=True).values.cumsum(0)
    return int((gains < offset - float(weight @ x) + 0.01).sum()) + 1


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        (CWL2(iterations=400, searches=7, c0=1e-1, rate=0.05), 2),
        pytest.param(
            CWLinf(iterations=400, rate=0.05, c0=1e-2, c_max=2.0), float("inf"), marks=pytest.mark.slow
        ),
    ],
    ids=["L2", "Linf"],
)
def test_smallest_change_on_a_linear_classifier(linear, attack, norm):
    model, x, target = linear
    result = attack(model, x, target)
    best = torch.stack([smallest(model.weight.detach(), model.offset, row, norm) for row in x])
    assert result.success.all()
    assert ((x + best[:, None] > 1) | (x - best[:, None] < 0)).any(), "the box must be active in some rows"
    assert (result.noise.of(norm) >= best * 0.999).all()
    assert (result.noise.of(norm) <= best * (1.03 if norm == 2 else 1.04)).all()
    assert result.noise.of(norm).mean() <= best.mean() * (1.01 if norm == 2 else 1.03)


def test_fewest_coordinates_on_a_linear_classifier(linear):
    model, x, target = linear
    result = CWL0(iterations=200, rate=0.1, c0=0.1, c_max=200.0)(model, x, target)
    assert result.success.all()
    best = torch.tensor([fewest(model.weight.detach(), model.offset, row) for row in x])
    assert (result.noise.l0 >= best).all()
    assert (result.noise.l0 <= best + 1).all()


def test_l0_exactly_where_one_coordinate_decides():
    weight = torch.tensor([20.0, 0.1, -0.1, 0.05, 0.2, -0.05])
    model, x = Linear(weight, 10.0).eval(), torch.full((3, 6), 0.3)
    result = CWL0(iterations=200, rate=0.05, c0=0.1, c_max=200.0)(model, x, torch.ones(3, dtype=torch.int64))
    assert result.noise.l0.tolist() == [1, 1, 1]
    assert (result.adversarial[:, 1:] == x[:, 1:]).all()


def compare(attack, loop, digits, count):
    """Success and changes of the attack, and the changes of the loop, row by row.

    Both see one row a pass and the network's own convolutions: a search whose bound falls by tenths makes a bit of
    rounding a noise that is 3% larger or smaller.
    """
    model, x, target = digits
    model.requires_grad_(False)
    rows = [(x[i : i + 1], target[i : i + 1]) for i in range(count)]
    ours = [attack(lambda z: model(z), *row) for row in rows]
    theirs = [loop(model, image, int(label)) for image, label in rows]
    assert all(a.success.all() for a in ours)
    assert all(a is not None for a in theirs)
    clean = x[:count].flatten(1)
    return torch.cat([a.adversarial for a in ours]).flatten(1) - clean, torch.cat(theirs).flatten(1) - clean


@pytest.mark.slow
def test_l2_follows_the_literal_loop(digits):
    budget = {"iterations": 200, "searches": 5, "c0": 1e-1, "rate": 0.05}
    for attack, tolerance in ((CWL2(**budget, forecast=False, scaled=False), 0.0), (CWL2(**budget), 0.01)):
        ours, delta = compare(attack, lambda *a: literal.cw_l2(*a, **budget), digits, 2)
        assert ours.norm(dim=1).mean() <= delta.norm(dim=1).mean() * (1 + tolerance)


class LastSuccess(CWLinf):
    """Hands out what the original does: the last success, and not the least noisy point of the way."""

    def _outcome(self, model, state):
        return state.solution


@pytest.mark.slow
def test_linf_follows_the_literal_loop(digits):
    budget = {"iterations": 200, "rate": 5e-2, "c0": 1e-2, "c_max": 1.0}
    original = {**budget, "abort_early": False, "refine": False, "scaled": False}
    last, delta = compare(LastSuccess(**original), lambda *a: literal.cw_linf(*a, **budget), digits, 2)
    torch.testing.assert_close(last.abs().amax(1), delta.abs().amax(1), rtol=0.01, atol=0)
    model, x, target = digits
    for i, row in enumerate(last):
        ours = CWLinf(**original)(lambda z: model(z), x[i : i + 1], target[i : i + 1])
        assert ours.noise.linf[0] <= row.abs().max()
    early = CWLinf(**budget)(*(digits[0], digits[1][:2], digits[2][:2]))
    assert early.success.all()
    assert early.noise.linf.mean() <= delta.abs().amax(1).mean() * 1.01


@pytest.mark.slow
def test_l0_follows_the_literal_loop(digits):
    budget = {"iterations": 200, "rate": 5e-2, "c0": 1e-1, "c_max": 7.0}
    ours, delta = compare(
        CWL0(**budget, abort_early=False, twice=False, scaled=False, retries=0),
        lambda *a: literal.cw_l0(*a, **budget),
        digits,
        2,
    )
    torch.testing.assert_close((ours != 0).sum(1), (delta != 0).sum(1), rtol=0, atol=2)
    early = CWL0(**budget, twice=False)(*(digits[0], digits[1][:2], digits[2][:2]))
    assert early.success.all()
    assert early.noise.l0.mean() <= (delta != 0).sum(1).float().mean() + 2


@pytest.mark.slow
def test_l0_keeps_the_better_of_two_searches(digits):
    model, x, target = digits
    budget = {"c0": 0.1, "c_max": 20.0}
    both = CWL0(iterations=100, rate=0.04, **budget)(model, x, target)
    one = CWL0(iterations=100, rate=0.04, twice=False, **budget)(model, x, target)
    other = CWL0(iterations=20, rate=0.2, twice=False, **budget)(model, x, target)
    least = torch.minimum(
        one.noise.l0.where(one.success, torch.inf), other.noise.l0.where(other.success, torch.inf)
    )
    assert torch.equal(both.noise.l0.where(both.success, torch.inf), least)
    assert (least < one.noise.l0).any() or (least < other.noise.l0).any()


def check_apart(attack, model, x, target, **tolerance):
    """Noise in a batch, permuted and doubled, and alone."""
    whole = attack(model, x, target)
    assert whole.success.all()
    order = torch.tensor([3, 0, 5, 0])
    for result, rows in (
        (attack(model, x[order], target[order], batch=2), order),
        (attack(model, x[2:3], target[2:3]), torch.tensor([2])),
    ):
        assert result.success.all()
        torch.testing.assert_close(
            result.noise.of(attack.norm), whole.noise.of(attack.norm)[rows], **tolerance
        )


@pytest.mark.parametrize(
    "attack", slow_where(lambda a: not isinstance(a, CWL2), ATTACKS), ids=lambda a: type(a).__name__
)
def test_an_example_does_not_depend_on_the_others(digits, attack):
    check_apart(attack, *digits, rtol=0 if attack.norm == 0 else 0.02, atol=1.0 if attack.norm == 0 else 0)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)
def test_pixels_at_0_and_1_can_move(attack):
    model = Linear(torch.tensor([3.0, -3.0, 3.0, -3.0]), 2.0).eval()
    x = torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    attack = attack.replace(iterations=600)
    result = attack(model, x, torch.ones(1, dtype=torch.int64))
    assert result.success.all()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)
def test_a_failure_returns_the_clean_input(attack):
    model = Linear(torch.tensor([1.0, 1.0, 1.0]), 9.0).eval()  # no point of the box reaches 9
    x = torch.rand(2, 3)
    result = attack.replace(iterations=20)(model, x, torch.ones(2, dtype=torch.int64))
    assert not result.success.any()
    assert torch.equal(result.adversarial, x)
    assert result.noise.of(attack.norm).tolist() == [0, 0]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)
def test_a_model_without_slope_fails_quietly(attack):
    def flat(z):
        return torch.stack([z.flatten(1).sum(1) * 0 + 5, z.flatten(1).sum(1) * 0 + 2], 1)

    result = attack.replace(iterations=20)(flat, torch.rand(2, 3), torch.ones(2, dtype=torch.int64))
    assert not result.success.any()
    assert result.adversarial.isfinite().all()


def test_confidence_is_part_of_success(digits):
    model, x, target = digits
    attack = ATTACKS[0].replace(iterations=200)
    plain = attack(model, x, target)
    sure = attack.replace(confidence=3.0)(model, x, target)
    assert sure.success.all()
    with torch.no_grad():
        lead = margin(model(sure.adversarial), target, targeted=True)
    assert (lead >= 3.0 - 1e-3).all()
    assert (lead <= 4.5).all()
    assert (sure.noise.l2 > plain.noise.l2).all()


@pytest.mark.parametrize(
    ("attack", "length", "within"), [(CWL2.fast(), 0.02, 1.1), (CWLinf.fast(c_max=2.0), 0.3, 1.06)]
)
def test_small_noise_is_found_with_small_steps(attack, length, within):
    """A boundary nearer than the length of a step of Adam, which gave 1.8 times the noise in Linf."""
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(784, generator=generator), 0.2 + 0.6 * torch.rand(1, 784, generator=generator)
    gap = length * weight.norm()
    model = Linear(weight, float(x[0] @ weight + gap)).eval()
    found = attack(model, x, torch.ones(1, dtype=torch.int64))
    best = length if attack.norm == 2 else gap / weight.abs().sum()
    assert found.success.all()
    assert float(found.noise.of(attack.norm)) <= within * float(best)


def test_attempts_with_a_tiny_c_are_not_called_futile(linear):
    """Twice a c that the distance outweighs misses hardly less: that says nothing of larger ones."""
    model, x, target = linear
    found = CWL0(iterations=100, rate=0.1, twice=False, c0=1e-4, c_max=200.0)(model, x, target)
    best = torch.tensor([fewest(model.weight.detach(), model.offset, row) for row in x])
    assert found.success.all()
    assert (found.noise.l0 <= best + 1).all()


def test_the_last_of_ten_searches_runs_at_the_upper_bound():
    attack = CWL2(searches=10)
    state = attack._start(torch.arange(2), torch.rand(2, 3), torch.zeros(2, dtype=torch.int64))
    state.search[:] = 8
    state.c = torch.tensor([3.0, 5.0])
    state.lower, state.upper = torch.tensor([2.0, 4.0]), torch.tensor([7.0, 9.0])
    state.found = torch.tensor([True, False])
    after = attack._next_search(state)
    assert after.c.tolist() == [3.0, 9.0]
    assert after.lower.tolist() == [2.0, 5.0]
    assert after.upper.tolist() == [3.0, 9.0]


@pytest.mark.parametrize(("forecast", "share"), [(False, 0.5), (True, 0.75)])
def test_c_grows_tenfold_until_a_success_then_bisects(forecast, share):
    attack = CWL2(forecast=forecast)
    state = attack._start(torch.arange(2), torch.rand(2, 3), torch.zeros(2, dtype=torch.int64))
    state.w += 1
    state.clock += 7
    after = attack._next_search(state)
    assert after.c.tolist() == pytest.approx([1e-2, 1e-2])
    assert after.clock.tolist() == [0, 0]
    torch.testing.assert_close(after.w, to_tanh(after.x))
    after.found[0] = True
    after = attack._next_search(after)
    assert after.c.tolist() == pytest.approx([1e-3 + share * (1e-2 - 1e-3), 1e-1])


@pytest.mark.parametrize("warm", [True, False])
def test_a_search_that_improves_nothing_is_the_last(warm):
    """Without warm only one that succeeds: it began at x, and a larger c may do better."""
    attack = CWL2(warm=warm, scaled=False)
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 0, 0]]))
        model.bias.copy_(torch.tensor([-0.5, 0.0]))
    attacked = AttackedModel(model, num_classes=2, limit=10, queries=torch.zeros(4, dtype=torch.int64))
    pair = _passes.Searched(attacked, attacked)
    x = torch.full((4, 3), 0.2)
    state = attack._start(torch.arange(4), x, torch.zeros(4, dtype=torch.int64))
    best = torch.tensor([0.5003, 0.5003, 0.5003, 0.52])  # the boundary is at 0.5
    state.best[:, 0], state.best_square = best, (best - 0.2) ** 2
    state.seen, state.clock[:] = (
        torch.tensor([-1, 50, 100, 100]),
        100,
    )  # no success, none at the end, some, some
    state.point[1:, 0, 0], state.square[1:] = 0.51, 0.31**2
    state.upper[:] = 1.0
    after = attack._confirm(pair, state, 25)
    assert after.found.tolist() == [False, not warm, True, True]
    assert after.done.tolist() == [warm, True, True, False]


def test_adam_has_a_clock_for_each_row():
    w = torch.zeros(2, 3)
    adam = Adam(
        torch.arange(2), w.clone(), torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    )
    gradients = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
    for step, gradient in enumerate(gradients):
        if step == 4:
            adam.reset_(torch.tensor([1]), w[1:])
        adam.step_(gradient, 0.1)
    for row, first in ((0, 0), (1, 4)):
        leaf = nn.Parameter(torch.zeros(3))
        peer = torch.optim.Adam([leaf], 0.1)
        for gradient in gradients[first:, row]:
            leaf.grad = gradient.clone()
            peer.step()
        torch.testing.assert_close(adam.w[row], leaf.data, rtol=1e-4, atol=1e-6)


def frozen_by(attack, state):
    before = state.bound.clone()
    attack._tighten(state)
    return before & ~state.bound


def l0_state(change: torch.Tensor) -> Climb:
    """A state of CW-L0 after a success in which every coordinate mattered by change [1,...]."""
    x = torch.full_like(change, 0.2)
    state = CWL0()._start(torch.arange(1), x, torch.zeros(1, dtype=torch.int64))
    state.solution, state.slope = x + change, torch.ones_like(x)
    return state


def test_l0_freezes_a_batch_of_the_least_and_one_that_matters_at_most():
    quiet = torch.linspace(1e-3, 9e-3, 100)[None]
    frozen = frozen_by(CWL0(), l0_state(quiet))
    assert frozen[0].nonzero().flatten().tolist() == [0, 1, 2]  # 0.3·sqrt(100)
    loud = torch.linspace(0.1, 0.2, 100)[None]
    frozen = frozen_by(CWL0(), l0_state(loud))
    assert frozen[0].nonzero().flatten().tolist() == [0]


def test_l0_frees_the_pixel_that_matters_most_and_freezes_the_others():
    attack, state = CWL0(retries=2), l0_state(torch.linspace(1e-3, 9e-3, 100)[None])
    attack._tighten(state)  # 0, 1 and 2
    for c, frozen, ended in ((0.4, [0, 1], False), (0.2, [0], False), (0.1, [3], True)):
        state.c[:] = 2 * c
        assert attack._give_up(state).tolist() == [ended]
        assert (~state.bound[0]).nonzero().flatten().tolist() == frozen
        assert state.c.item() == pytest.approx(c)
    assert state.failed[0].nonzero().flatten().tolist() == [0, 1, 2]


def test_linf_goes_on_where_a_larger_c_lowers_f():
    """What was missed counted c times: where f halved as c doubled, larger c were left out as if they did not help."""
    attack = CWLinf()
    state = attack._start(torch.arange(2), torch.full((2, 3), 0.5), torch.zeros(2, dtype=torch.int64))
    state.solved[:], state.slope[:], state.c[:] = True, 1.0, 1.0
    for hinge in ([0.1, 0.1], [0.05, 0.09]):
        state.share[:], state.over[:], state.least = 0.5, True, state.c * torch.tensor(hinge)
        bound = state.bound.clone()
        attack._next_attempt(state)
    assert (state.bound == bound).tolist() == [True, False]  # the other one goes on to another tau


def test_l0_ends_where_no_pixel_is_left_to_try():
    attack, state = CWL0(retries=9), l0_state(torch.tensor([[0.1, 0.2]]))
    attack._tighten(state)
    assert [attack._give_up(state).item() for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("share", "missing", "futile"),
    [(0.25, 0.3, False), (0.25, 0.5, True), (0.5, 0.5, False), (0.09, 0.01, True)],
)
def test_l0_takes_a_larger_c_while_the_distance_holds_f_back(share: float, missing: float, futile: bool):
    """At 0.3 left of f a row ended where the distance still had a quarter of the gradient: rows on a ResNet went on."""
    state = l0_state(torch.full((1, 4), 0.1))
    state.share[:], state.least[:] = share, missing
    assert CWL0()._futile(state).tolist() == [futile]


@pytest.mark.slow
def test_l0_retries_only_take_away(digits):
    model, x, target = digits
    budget = {"c_max": 20.0, "iterations": 60}
    none, some = (CWL0.fast(**budget, retries=n)(model, x, target) for n in (0, 3))
    assert none.success.all()
    assert some.success.all()
    assert (some.noise.l0 <= none.noise.l0).all()
    assert some.noise.l0.sum() < none.noise.l0.sum()


@pytest.mark.parametrize(
    "attack",
    [
        CWL2.fast(),
        CWLinf.fast(iterations=100),
        pytest.param(CWL0.fast(c_max=20.0), marks=pytest.mark.slow),
        CWL0.fast(c_max=20.0, retries=0, iterations=60),
    ],
    ids=lambda attack: f"{type(attack).__name__}-{attack.iterations}",
)
def test_the_least_noisy_point_on_the_way_is_handed_out(digits, attack):
    """Attempts that ask for more than the label, or that succeed with more noise than the last, passed better ones."""
    model, x, target = digits
    found = trace(attack.replace(precision="float32"), model, x, target)
    assert np.isfinite(found.returned).all()
    # A success by rounding alone is none; the line search goes on from it by so much of the noise.
    assert (found.returned <= found.best * (1 + 2 * REACH / 2**HALVINGS)).all()
    clear = found.success & (found.margin > 1e-4)
    for row, returned in enumerate(found.returned):
        assert returned <= found.noise[clear & (found.row == row)].min() * (1 + 1e-4)


@pytest.mark.parametrize("retries", [-1, 1.0, True])
def test_l0_counts_retries(retries: object):
    with pytest.raises(ValueError, match="retries"):
        CWL0(retries=retries)


def test_l0_freezes_all_channels_of_a_pixel():
    change = torch.zeros(1, 3, 2, 2) + 0.2
    change[0, 1, 1, 0] = 0.1
    frozen = frozen_by(CWL0(), l0_state(change))
    assert frozen[0, :, 1, 0].all()
    assert int(frozen.sum()) == 3


def test_tau_follows_the_largest_change():
    attack = CWLinf()
    state = attack._start(torch.arange(2), torch.full((2, 3), 0.5), torch.zeros(2, dtype=torch.int64))
    state.solution = state.x + torch.tensor([[0.1, 0.2, 0.0], [0.0, 0.004, 0.0]])
    assert attack._tighten(state).tolist() == [False, True]
    assert state.bound.tolist() == pytest.approx([0.18, 0.0036], rel=1e-4)


def test_a_success_that_comes_no_nearer_ends_the_row():
    """Within the tolerance of c·f it was one where it began: the search went on for ever."""
    attack = CWLinf()
    state = attack._start(torch.arange(3), torch.full((3, 2), 0.5), torch.zeros(3, dtype=torch.int64))
    state.failed[:], state.bound[:] = 0.1, 0.11  # the last success was at 0.12
    state.solution = state.x + torch.tensor([[0.12, 0.0], [0.112, 0.0], [0.11, 0.0]])
    assert attack._tighten(state).tolist() == [True, False, False]
    assert state.bound.tolist() == pytest.approx([0.11, 0.106, 0.105], rel=1e-4)


def test_tanh_space_comes_back():
    x = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert to_tanh(x).isfinite().all()
    torch.testing.assert_close(from_tanh(to_tanh(x)), x, rtol=0, atol=1e-6)


def test_pixels_at_the_faces_start_where_tanh_moves():
    x = torch.tensor([0.0, 0.25, 1.0])
    torch.testing.assert_close(from_tanh(movable(x)), x, rtol=0, atol=1e-3)
    assert movable(x).abs().max() <= 3.5


def attacked(model, count):
    return AttackedModel(model, num_classes=2, limit=64, queries=torch.zeros(count, dtype=torch.int64))


def test_shrink_ends_at_the_boundary_and_says_where_there_is_none():
    model = Linear(torch.tensor([1.0, 1.0]), 1.0).eval()
    x = torch.full((3, 2), 0.2)
    point = torch.tensor([[0.52, 0.52], [0.49, 0.49], [0.3, 0.3]])  # beyond, a little before, far before
    queries = attacked(model, 3)
    end, found = shrink(queries, x, point, torch.arange(3), lambda z: z[:, 1] > 0)
    assert found.tolist() == [True, True, False]
    assert (model(end[:2])[:, 1] > 0).all()
    torch.testing.assert_close(end[:2], torch.full((2, 2), 0.5), rtol=0, atol=2e-3)
    assert queries.queries.tolist() == [9, 9, 9]


def test_lower_precision_only_where_it_keeps_the_logits():
    """Logits that differ by less than bfloat16 tells apart are searched in float32; so is whatever is not an image."""
    scale = torch.tensor([[1.0], [1.0]])

    def shifted(z):
        return torch.nn.functional.linear(z.flatten(1).mean(1, keepdim=True), scale) + torch.tensor(
            [1e3, 1e3 + 1]
        )

    def far(z):
        return shifted(z).to(torch.bfloat16).float() if torch.is_autocast_enabled("cpu") else shifted(z)

    image, vector = torch.rand(2, 1, 20, 20), torch.rand(2, 400)
    for model, x, precision in ((far, image, "auto"), (shifted, vector, "auto"), (shifted, image, "float32")):
        pair = searched(attacked(model, 2), x, precision)
        assert pair.rough is pair.exact
    with pytest.raises(ValueError, match="precision"):
        CWL2(precision="half")


class Misrounded(nn.Module):
    """Two classes on images; under autocast class 1 comes out too large, by a share of the largest logit."""

    def __init__(self, weight: torch.Tensor, offset: float, error: float):
        super().__init__()
        self.weight, self.offset, self.error = nn.Parameter(weight), offset, error

    def forward(self, x):
        z = (x.flatten(1) * self.weight).sum(1) - self.offset
        rough = torch.is_autocast_enabled("cpu")
        return torch.stack([10 - z / 2, 10 + z / 2 + (10 * self.error if rough else 0)], 1)


@pytest.mark.parametrize(  # 2.5 and 25 times what bfloat16 may round
    "error", [pytest.param(0.01, marks=pytest.mark.slow), 0.1]
)
@pytest.mark.parametrize("kind", [CWL2, CWLinf, CWL0])
def test_a_success_by_rounding_alone_hides_no_other(monkeypatch, kind, error):
    """A search keeps to the edge of what it believes: what exact logits refute must neither end nor stall it."""
    generator = torch.Generator().manual_seed(2)
    weight, x = (
        torch.randn(256, generator=generator),
        0.3 + 0.4 * torch.rand(2, 1, 16, 16, generator=generator),
    )
    along = x.flatten(1) @ weight
    model = Misrounded(weight, float(along.max()) + 1.5, error).eval()
    monkeypatch.setattr(_passes, "_close", lambda exact, rough: True)
    pair = searched(attacked(model, 2), x, "bfloat16")
    assert pair.rough is not pair.exact
    told: list[bool] = []
    monkeypatch.setattr(attacked_module, "observers", [lambda x, logits, rows, rough: told.append(rough)])
    changes = {"c_max": 200.0} if kind is CWL0 else {}
    found = kind.fast(precision="bfloat16", **changes)(model, x, torch.ones(2, dtype=torch.int64))
    assert found.success.all()
    gap = model.offset - along
    few = torch.tensor([fewest(weight, model.offset, one.flatten()) for one in x])
    least = {0: few, 2: gap / weight.norm(), float("inf"): gap / weight.abs().sum()}[kind.norm]
    assert (found.noise.of(kind.norm) <= 1.15 * least + (kind.norm == 0)).all()
    assert set(told) == {False, True}, "observers know which passes were in bfloat16"


@pytest.mark.skipif(not has_bfloat16_units(torch.device("cpu")), reason="no bfloat16 units on this processor")
@pytest.mark.parametrize("kind", [CWL2, CWLinf, CWL0])
def test_an_example_does_not_depend_on_the_others_in_bfloat16(kind):
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(128, 4)
    ).eval()
    x = torch.rand(6, 1, 18, 18)
    target = (model(x).argmax(1) + 1 + torch.arange(6) % 3) % 4
    pair = searched(attacked(model, 6), x, "auto")
    assert pair.rough is not pair.exact
    check_apart(kind.fast(iterations=60, rate=0.1), model, x, target, rtol=1e-3, atol=1e-3)


def test_channels_last_leaves_the_model_alone(digits):
    model, x, _ = digits

    class Attacked:
        pass

    torch.manual_seed(0)
    colours = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)).eval()
    for own, images in ((model, x), (colours, torch.rand(4, 3, 8, 8))):
        attacked = Attacked()
        attacked.model = own
        before = [p.stride() for p in own.parameters()]
        faster = channels_last(attacked, images)
        torch.testing.assert_close(faster.model(images), own(images))
        assert attacked.model is own
        assert faster.model is not own
        assert [p.stride() for p in own.parameters()] == before


@pytest.mark.parametrize("kind", [CWL2, CWLinf, CWL0])
@pytest.mark.parametrize("bad", [{"iterations": 0}, {"rate": 0.0}, {"c0": -1.0}])
def test_bad_hyperparameters_are_named(kind, bad):
    with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
        kind(**bad)


def test_an_empty_batch_gives_an_empty_result(digits):
    for attack in ATTACKS:
        assert len(attack(digits[0], torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))) == 0
