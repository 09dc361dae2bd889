"""Every check catches its planted failure, and lets an honest evaluation pass."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from marks import slow_where
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from rcfast import RegionClassifier, data, training
from rcfast.attacks import CWL0, CWL2, FGSM, IGSM, JSMA, Attack, CWLinf, DeepFool
from rcfast.attacks.attacked import AttackedModel, observers
from rcfast.attacks.result import Noise
from rcfast.eval import checks
from rcfast.eval.checks import Trace, trace
from rcfast.eval.run.passes import Spent
from rcfast.running import Model

N = 8


@dataclass(frozen=True)
class Case:
    model: nn.Module
    x: Tensor
    y: Tensor
    targets: Tensor


@pytest.fixture(scope="module")
def case(digits: data.Dataset) -> Case:
    """A small network on the digits and examples that it labels correctly."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    training.fit(model, digits.train, epochs=8)
    model.eval()
    x, y = digits.test.x[:40], digits.test.y[:40]
    right = (model(x).argmax(1) == y).nonzero().flatten()[:N]
    return Case(model, x[right], y[right], (y[right] + 1) % 10)


# Planted classifiers


class Rounded(nn.Module):
    """Masks its gradients: what is rounded has a slope of zero almost everywhere."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x * 8).round() / 8)


class Random(nn.Module):
    """Answers at random."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.randn(len(x), 10) + 0 * x.flatten(1).sum(1, keepdim=True)


class Adapting(nn.Module):
    """Moves its input uphill before it labels it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            (uphill,) = torch.autograd.grad(self.model(leaf).amax(1).sum(), leaf)
        return self.model(x + 0.01 * uphill)


# Planted attacks


@dataclass(frozen=True, kw_only=True)
class Walk(Attack):
    """Fixed steps towards the target for as long as the budget lasts; returns the last point, or the best one."""

    norm: ClassVar[float] = 2
    targeted: ClassVar[bool] = True

    iterations: int = 60
    step: float = 0.1
    keep_best: bool = False

    def _run(self, model: AttackedModel, x: Tensor, labels: Tensor) -> Tensor:
        rows, point, best = torch.arange(len(x)), x, x.clone()
        least = torch.full((len(x),), torch.inf)
        for _ in range(self.iterations):
            logits, (gradient,) = model.gradients(
                point, rows, lambda z: cross_entropy(z, labels, reduction="sum")
            )
            noise = Noise.between(point, x).l2
            better = self._accepts(logits, labels) & (noise < least)
            best[better], least[better] = point[better], noise[better]
            length = gradient.flatten(1).norm(dim=1)[:, None, None, None].clamp(min=1e-12)
            point = (point - self.step * gradient / length).clamp(0, 1)
        return best if self.keep_best else point


def fails(check: checks.Check) -> bool:
    assert check.measured
    assert check.kind.why
    assert check.kind.advice
    return check.failed


def of_trace(found: Trace) -> dict[str, checks.Check]:
    made = (checks.gradients, checks.silent_success, checks.still_moving)
    return {function.__name__: function("it", found) for function in made}


# Honest cases


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(),
        IGSM.fast(),
        JSMA(),
        CWL2.fast(),
        pytest.param(CWLinf.fast(iterations=60), marks=pytest.mark.slow),
        pytest.param(CWL0.fast(iterations=60), marks=pytest.mark.slow),
        DeepFool(),
        Walk(keep_best=True),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_an_honest_attack_passes_and_is_not_changed_by_being_observed(attack: Attack, case: Case) -> None:
    labels = case.targets if attack.targeted else case.y
    found = trace(attack, case.model, case.x, labels)
    assert not any(map(fails, of_trace(found).values())), of_trace(found)
    plain = attack(case.model, case.x, labels, batch=N)
    noise = plain.noise.of(attack.norm).double().masked_fill(~plain.success, torch.inf)
    assert found.returned.tolist() == noise.tolist()
    assert (found.best <= found.returned).all()
    forward, backward = found.passes
    assert forward == pytest.approx(
        float((plain.queries - 2).double().mean())
    )  # but the first and the last look
    assert backward > 0
    assert not observers


def test_an_honest_model_passes_every_flag(case: Case) -> None:
    seen = checks.examine(case.model, case.x, case.y)
    assert [check.verdict for check in checks.flags("it", seen)] == ["pass"] * 5


# Planted failures of models


def test_masked_gradients_are_caught(case: Case) -> None:
    model = Rounded(case.model).eval()
    seen = checks.examine(model, case.x, case.y)
    assert seen.zero == N
    assert [check.kind.name for check in checks.flags("it", seen) if fails(check)] == ["gradients"]
    found = of_trace(trace(CWL2.fast(), model, case.x, case.targets))
    assert fails(found["gradients"])
    assert found["gradients"].numbers["blind"] == N
    hidden = checks.examine(lambda x: model(x).detach(), case.x, case.y)
    assert "gradients" in [check.kind.name for check in checks.flags("it", hidden) if fails(check)]


def test_a_model_that_answers_at_random_is_caught(case: Case) -> None:
    torch.manual_seed(0)
    seen = checks.examine(Random(), case.x, case.y)
    failed = {check.kind.name for check in checks.flags("it", seen) if fails(check)}
    assert "stable predictions" in failed


def test_votes_that_depend_on_their_seed_are_caught(case: Case) -> None:
    """A handful of points in a huge region says something else with every seed; a thousand in a small one does not."""

    def said(r: float, m: int) -> np.ndarray:
        votes = [RegionClassifier(case.model, r, m=m, stop=None, seed=seed) for seed in range(4)]
        return torch.stack([vote.predict(case.x) for vote in votes]).numpy()

    assert fails(checks.stable_predictions("it", said(0.9, 1)))
    assert not fails(checks.stable_predictions("it", said(0.05, 100)))
    assert checks.stable_predictions("it", said(0.05, 5)[:1]).verdict == "not applicable"


def test_probabilities_adaptation_and_few_labels_are_caught(case: Case) -> None:
    def failed(model: Model) -> list[str]:
        seen = checks.examine(model, case.x, case.y.clamp(max=2))
        return [check.kind.name for check in checks.flags("it", seen) if fails(check)]

    assert failed(lambda x: case.model(x).softmax(1)) == ["outputs are logits"]
    assert failed(Adapting(case.model)) == ["no optimisation at inference"]
    assert failed(lambda x: case.model(x)[:, :3]) == ["enough labels"]


# Planted failures of attacks


def test_an_attack_that_returns_its_last_point_is_caught(case: Case) -> None:
    last = trace(Walk(), case.model, case.x, case.targets)
    assert fails(checks.silent_success("it", last))
    assert checks.silent_success("it", last).numbers["worse"] > N / 2

    @dataclass(frozen=True, kw_only=True)
    class Overstepping(Walk):
        """Walks on, and back to where it began."""

        def _run(self, model: AttackedModel, x: Tensor, labels: Tensor) -> Tensor:
            super()._run(model, x, labels)
            return x

    forgot = checks.silent_success("it", trace(Overstepping(), case.model, case.x, case.targets))
    assert fails(forgot)
    assert forgot.numbers["forgotten"] == N


def test_an_attack_with_too_few_iterations_is_caught(case: Case) -> None:
    brief, enough = Walk(iterations=4, keep_best=True), Walk(iterations=60, keep_best=True)
    found = of_trace(trace(brief, case.model, case.x, case.targets))
    assert fails(found["still_moving"])
    assert not fails(found["silent_success"])

    def noise(attack: Walk, times: int) -> np.ndarray:
        result = attack.replace(iterations=attack.iterations * times)(case.model, case.x, case.targets)
        return np.where(result.success, result.noise.l2, np.inf)

    few = Walk(
        iterations=11, keep_best=True
    )  # finds one of eight, twice as many find all, on AVX2 and AVX-512
    assert fails(checks.budget("it", noise(few, 1), noise(few, 2)))
    assert not fails(checks.budget("it", noise(enough, 1), noise(enough, 2)))
    farther = np.full(10, 2.0)
    assert fails(checks.budget("it", farther, 0.9 * farther))  # as many, but closer
    assert not fails(checks.budget("it", farther, 0.97 * farther))


def test_an_attack_without_a_bound_that_fails_is_caught() -> None:
    broken = np.ones((3, 10), bool)
    assert not fails(checks.unbounded("it", broken))
    broken[:, 4] = False
    assert fails(checks.unbounded("it", broken))
    assert checks.unbounded("it", np.zeros((0, 10), bool)).verdict == "not applicable"


# Planted failures of evaluations


def test_success_that_falls_with_confidence_is_caught() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random((10, 9))
    rising = np.stack([hard < rate for rate in (0.1, 0.3, 0.7, 1.0)])
    assert not fails(checks.rises("it", [0, 5, 10, 15], rising))
    assert not fails(checks.rises("it", [0, 5, 10, 15], np.ones((4, 10, 9), bool)))
    stuck = rising.copy()
    stuck[3] = hard < 0.2  # the search gave up at the highest confidence
    found = checks.rises("it", [0, 5, 10, 15], stuck)
    assert fails(found)
    assert "k = 10" in found.measured
    assert "k = 15" in found.measured
    blurred = rising.copy()
    blurred[3, 0, 0] = False  # a single failure is chance
    assert not fails(checks.rises("it", [0, 5, 10, 15], blurred))
    assert checks.rises("it", [0], rising[:1]).verdict == "not applicable"


def test_noise_no_better_than_random_is_caught(case: Case) -> None:
    attack = CWL2.fast()
    result = attack(case.model, case.x, case.targets)
    random = checks.random_noise(case.x, result.adversarial, attack.norm)

    def fooled(x: Tensor) -> np.ndarray:
        return (case.model(x).argmax(1) == case.targets).numpy()

    assert not fails(checks.better_than_random("it", fooled(result.adversarial), fooled(random)))
    assert fails(checks.better_than_random("it", fooled(random) | (np.arange(N) == 0), np.ones(N, bool)))
    none = np.zeros(N, bool)
    assert checks.better_than_random("it", none, none).verdict == "not applicable"


@pytest.mark.parametrize("norm", [0, 2, float("inf")])
def test_random_noise_has_the_same_size(norm: float, case: Case) -> None:
    attack = {0: JSMA(), 2: CWL2.fast(), float("inf"): IGSM.fast()}[norm]
    result = attack(case.model, case.x, case.targets)
    random = checks.random_noise(case.x, result.adversarial, norm)
    assert ((random >= 0) & (random <= 1)).all()
    wanted, got = result.noise.of(norm), Noise.between(random, case.x).of(norm)
    assert got.tolist() == pytest.approx(wanted.tolist(), rel=1e-4)
    assert not torch.equal(random, result.adversarial)
    again = checks.random_noise(case.x, result.adversarial, norm)
    assert torch.equal(random, again)
    assert not torch.equal(random, checks.random_noise(case.x, result.adversarial, norm, seed=1))
    assert torch.equal(checks.random_noise(case.x, case.x, norm), case.x)


def test_transfer_alone_is_caught() -> None:
    weak, strong = np.arange(20) < 2, np.arange(20) < 17
    assert fails(checks.attacked_itself("it", weak, None))
    assert not fails(checks.attacked_itself("it", weak, strong))
    assert fails(checks.attacked_itself("it", strong, weak))  # its own attack is worse than none
    assert fails(checks.attacked_itself("it", np.ones(20, bool), None))  # a direct attack may need less noise


def test_transfer_that_fails_on_a_weak_target_is_caught() -> None:
    made, moved, least = np.ones((10, 3), bool), np.zeros((10, 3), bool), np.linspace(1.0, 2.0, 10)
    check = checks.transfers("it", made, moved, least, 1.2 * least)
    assert fails(check)
    assert "100.0% where they were made, 0.0% here" in check.measured
    assert "1.5 there, 1.8 here" in check.measured
    assert not fails(checks.transfers("it", made, made, least, 1.2 * least))  # they arrive
    assert not fails(
        checks.transfers("it", made, np.arange(30).reshape(10, 3) < 29, least, least)
    )  # all but one
    assert not fails(checks.transfers("it", made, moved, least, 3 * least))  # the target is not weak
    strong = checks.transfers("it", made, moved, least, np.full(10, np.inf))
    assert not fails(strong)
    assert strong.numbers["noise_here"] is None, "no JSON has an infinity"
    assert checks.transfers("it", made, moved, least, None).verdict == "not applicable"
    assert checks.transfers("it", moved, moved, least, least).verdict == "not applicable"


def test_black_box_attacks_that_do_better_are_caught() -> None:
    white, black = np.arange(20) < 12, np.arange(20) < 9
    assert not fails(checks.white_beats_black("it", white, black))
    assert fails(checks.white_beats_black("it", black, white))
    assert checks.white_beats_black("it", white, None).verdict == "not applicable"


def test_a_search_against_known_votes_is_seen_by_fresh_ones(case: Case) -> None:
    """Of many points around a tie the attacker keeps one that the known seed calls a success: fresh seeds do not."""
    known = RegionClassifier(case.model, 0.2, m=15, stop=None, seed=7)
    judges = [RegionClassifier(case.model, 0.2, m=15, stop=None, seed=seed) for seed in (1, 2, 3)]
    direct = CWL2.fast()(case.model, case.x, case.targets).adversarial
    found = []
    for clean, made, target in zip(case.x, direct, case.targets, strict=True):
        ways = torch.stack([clean + scale * (made - clean) for scale in torch.linspace(1, 4, 60)]).clamp(0, 1)
        wins = (known.predict(ways) == target).nonzero().flatten()
        found.append(ways[wins[0]] if len(wins) else clean)  # the first, with the least noise
    made = torch.stack(found)
    first = (known.predict(made) == case.targets).numpy()
    fresh = np.stack([(judge.predict(made) == case.targets).numpy() for judge in judges])
    check = checks.judged_by_unseen("it", first, fresh)
    assert check.verdict == "pass"
    assert check.numbers["gap"] > 0.2
    assert fails(checks.judged_by_unseen("it", first, None))


def test_a_check_is_data(case: Case) -> None:
    (first, *_) = checks.flags("point", checks.examine(case.model, case.x, case.y))
    record = first.record()
    assert list(record) == ["check", "about", "verdict", "measured", "why", "advice", "numbers"]
    assert (record["about"], record["verdict"]) == ("point", "pass")


def test_nothing_to_trace(case: Case) -> None:
    already = case.model(case.x).argmax(1)
    found = trace(CWL2.fast(), case.model, case.x, already)
    assert len(found) == 0
    assert {check.verdict for check in of_trace(found).values()} == {"not applicable"}


@pytest.mark.parametrize(
    "attack",
    slow_where(
        lambda attack: isinstance(attack, CWLinf),
        [CWL2.fast(), CWLinf.fast(iterations=60), IGSM.fast(), DeepFool()],
    ),
    ids=repr,
)
def test_some_rows_are_observed_in_a_larger_attack_as_alone(attack: Attack, case: Case) -> None:
    """A row that the model already calls the target is left out in both."""
    labels = case.targets.clone() if attack.targeted else case.y.clone()
    chosen = torch.tensor([1, 4, 6])
    labels[4] = case.model(case.x).argmax(1)[4] if attack.targeted else (case.y[4] + 1) % 10
    recorder = checks.Recorder(attack, case.model, case.x, labels, chosen)
    with checks.observing(recorder):
        result = attack(case.model, case.x, labels)
    beside, alone = (
        recorder.trace(case.model, result),
        trace(attack, case.model, case.x[chosen], labels[chosen]),
    )
    assert len(beside) == len(alone) == 2
    np.testing.assert_allclose(beside.returned, alone.returned, rtol=1e-3)
    for name in ("row", "back"):
        counted = (np.bincount(getattr(found, name), minlength=2) for found in (beside, alone))
        np.testing.assert_array_equal(*counted)
    np.testing.assert_allclose(beside.best, alone.best, rtol=1e-3)


class Waits(TorchDispatchMode):
    """Notes each operation whose result decides a shape or a branch: a GPU would be waited for."""

    SYNCHRONOUS: ClassVar = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "is_nonzero",
        "item",
        "unique",
    )

    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        copied = name == "_to_copy" and (kwargs or {}).get("device") is not None
        if masked or copied or name in self.SYNCHRONOUS:
            self.met.append(name)
        return func(*args, **(kwargs or {}))


def test_who_observes_does_not_wait_for_a_gpu_at_each_pass(case: Case) -> None:
    attack = CWL2.fast()
    spent = Spent(attack, case.x, case.targets)
    recorder = checks.Recorder(attack, case.model, case.x, case.targets, torch.tensor([1, 4]))
    with Waits() as waits:
        for _ in range(3):
            x = case.x.clone().requires_grad_(True)
            logits = case.model(x)
            for observer in (spent, recorder):
                observer(x, logits, torch.arange(N), False)
            logits.sum().backward()
    assert waits.met == []
    assert recorder.passes == 3
    assert int(spent.backward.sum()) == 3 * N
    with Waits() as waits:
        recorder.look()
    assert waits.met, "the look at what waits is what waits for a GPU"
