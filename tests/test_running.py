"""Any model that PyTorch runs: what it needs is found out once, and it is left as it was found."""

import dataclasses
import functools
import gc
import warnings
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from rcfast import RegionClassifier, data, running, training
from rcfast.attacks import CWL0, CWL2, CWLinf, DeepFool, RegionCW, Untargeted, get
from rcfast.data import Split

DIGITS = data.load("digits")
X, Y = DIGITS.test.x[:8].clone(), DIGITS.test.y[:8]


class M(nn.Module):
    """A module that calls f(self, x), and holds n."""

    def __init__(self, f: Any, n: nn.Module) -> None:
        super().__init__()
        self.f, self.n = f, n

    def forward(self, x: Tensor) -> Any:
        return self.f(self, x)


def dense(scale: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).eval()
    net[1].weight.data *= scale
    return net


def viewing() -> nn.Module:
    torch.manual_seed(0)
    parts = nn.ModuleList([nn.Conv2d(1, 4, 3), nn.Linear(144, 10)])
    return M(lambda s, x: s.n[1](s.n[0](x).view(len(x), -1)), parts).eval()


def state(model: nn.Module) -> list[Any]:
    tensors = [*model.parameters(), *model.buffers()]
    return [
        *(part.training for part in model.modules()),
        *((t.dtype, t.stride(), t.requires_grad, t.clone()) for t in tensors),
    ]


def same(a: list[Any], b: list[Any]) -> bool:
    flat = [[v for part in s for v in (part if isinstance(part, tuple) else (part,))] for s in (a, b)]
    return all(torch.equal(p, q) if isinstance(p, Tensor) else p == q for p, q in zip(*flat, strict=True))


# ---- memory format


def test_a_model_that_views_is_voted_on_trained_and_evaluated() -> None:
    model = viewing()
    assert RegionClassifier(model, 0.1, m=20).vote(X).counts.shape == (8, 10)
    assert training.evaluate(model, Split(X, Y)).n == 8
    training.fit(model, DIGITS.test, epochs=1)
    training.fit_distilled(viewing, DIGITS.test, epochs=1, optimizer="sgd")
    model(X)


def test_a_model_is_left_as_it_was_after_training_that_fails() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(144, 10))
    model[1].eval()
    before = state(model)

    def fails(model: Any, x: Tensor, labels: Tensor) -> None:
        raise ArithmeticError("the attack")

    with pytest.raises(ArithmeticError, match="the attack"):
        training.fit_adversarial(model, DIGITS.test, attack=fails, epochs=1)
    assert same(state(model), before)
    strides = [p.stride() for p in model.parameters()]
    training.fit(model, DIGITS.test, epochs=1)
    assert [p.stride() for p in model.parameters()] == strides


def test_a_model_that_answers_otherwise_in_channels_last_is_run_contiguous() -> None:
    weight = torch.randn(192, 10, generator=torch.Generator().manual_seed(0))

    def by_storage(x: Tensor) -> Tensor:  # reads memory in the order in which it lies
        return torch.as_strided(x, (len(x), 192), (192, 1)) @ weight

    x = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(RegionClassifier(by_storage, 0.0, m=1).predict(x), by_storage(x).argmax(1))


# ---- no inference mode


def test_a_model_that_takes_a_gradient_of_its_own_gets_it() -> None:
    def step(s: M, x: Tensor) -> Tensor:
        return s.n(x - 0.5 * jacobian(lambda z: s.n(z).logsumexp(1).sum(), x))

    model = M(step, dense(8)).eval()
    x = DIGITS.test.x
    with torch.no_grad():
        labels, plainly = model(x).argmax(1), model.n(x).argmax(1)
    assert not torch.equal(labels, plainly)
    assert training.evaluate(model, Split(x, labels)).correct == len(x)
    with torch.inference_mode():
        assert training.evaluate(model, Split(x.clone(), labels)).correct == len(x)
    assert torch.equal(RegionClassifier(model, 0.0, m=1).predict(x), labels)


def test_what_a_model_keeps_from_a_vote_is_an_ordinary_tensor() -> None:
    def keeps(s: M, x: Tensor) -> Tensor:
        if not hasattr(s, "g"):
            s.g = torch.linspace(0, 1, 10)
        return s.n(x) * s.g

    for first in (
        lambda model: RegionClassifier(model, 0.1, m=20).vote(X),
        lambda model: training.evaluate(model, Split(X, Y)),
    ):
        model = M(keeps, dense()).eval()
        with torch.inference_mode():
            first(model)
        training.fit(model, DIGITS.test, epochs=1)
        model(X.clone().requires_grad_()).sum().backward()


def test_votes_under_inference_mode_are_ordinary_tensors() -> None:
    with torch.inference_mode():
        votes = RegionClassifier(dense(), 0.1, m=20).vote(X.clone())
    assert not any(t.is_inference() for t in (votes.counts, votes.label, votes.samples, votes.decided))


# ---- models that work in place


@pytest.mark.parametrize(
    "change", [lambda x: x.sub_(0.5), lambda x: (x.data.sub_(0.5), x)[1], lambda x: (x.numpy().fill(0), x)[1]]
)
def test_the_users_data_outlives_a_model_that_works_in_place(change: Any) -> None:
    model, x = M(lambda s, x: s.n(change(x)), dense()), X.clone()
    expected = model.n(change(x.clone())).argmax(1)
    assert training.evaluate(model, Split(x, expected)).correct == 8
    assert torch.equal(RegionClassifier(model, 0.0, m=1).predict(x), expected)
    assert torch.equal(running.plain(model)(x).argmax(1), expected)
    assert torch.equal(x, X)


def test_a_gradient_goes_through_a_model_that_works_in_place() -> None:
    model, x = running.plain(M(lambda s, x: s.n(x.sub_(0.5)), dense())), X.clone().requires_grad_()
    assert model.needs(x).copies
    assert torch.autograd.grad(model(x).sum(), x)[0].abs().sum() > 0
    assert not running.plain(dense()).needs(x).copies


def test_training_on_a_model_that_works_in_place() -> None:
    train = Split(DIGITS.test.x.clone(), DIGITS.test.y)
    training.fit_distilled(lambda: M(lambda s, x: s.n(x.sub_(0.5)), dense()), train, epochs=1, shift=0)
    assert torch.equal(train.x, DIGITS.test.x)


# ---- modes


class Merging(nn.Linear):
    """Its train() does something, as that of merged adapters does."""

    merged = False

    def train(self, mode: bool = True) -> nn.Module:
        self.merged = not mode
        return super().train(mode)


def merging() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), Merging(64, 32), nn.Dropout(), nn.Sequential(Merging(32, 10)))


@pytest.mark.parametrize(
    "use",
    [
        lambda model: RegionClassifier(model, 0.1, m=20).predict(X),
        lambda model: training.evaluate(model, Split(X, Y)),
        lambda model: running.plain(model)(X),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_modes_come_back_by_train(use: Any, frozen: bool) -> None:
    model = merging()
    if frozen:
        model[3].eval()
    modes = [part.training for part in model.modules()]
    merged = [part.merged for part in model.modules() if isinstance(part, Merging)]
    use(model)
    assert [part.training for part in model.modules()] == modes
    assert [part.merged for part in model.modules() if isinstance(part, Merging)] == merged


def test_the_modes_come_back_where_a_child_has_two_parents() -> None:
    child = nn.Dropout()
    model = nn.Sequential(nn.Sequential(child), nn.Sequential(child), nn.Flatten(), nn.Linear(64, 10))
    model[0].eval()
    modes = [part.training for part in model.modules()]
    RegionClassifier(model, 0.1, m=20).predict(X)
    assert [part.training for part in model.modules()] == modes


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["frozen", "exported"])
def test_what_has_no_mode_is_in_evaluation_mode_by_nature(kind: str) -> None:
    net = dense()
    if kind == "frozen":
        model = torch.jit.freeze(torch.jit.trace(net, X))
    else:
        batch = torch.export.Dim("batch", min=2)
        model = torch.export.export(net, (X,), dynamic_shapes=({0: batch},)).module()
    had = hasattr(model, "training")
    labels = net(X).argmax(1)
    assert training.evaluate(model, Split(X, labels)).correct == 8
    assert torch.equal(RegionClassifier(model, 0.0, m=2).predict(X), labels)
    assert hasattr(model, "training") == had
    assert not running.in_training(model)


HIDDEN = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))


class Holder:
    def __init__(self, net: nn.Module) -> None:
        self.parts = {"nets": [net]}

    def __call__(self, x: Tensor) -> Tensor:
        return self.parts["nets"][0](x)

    def method(self, x: Tensor) -> Tensor:
        return self(x)


def by_global(x: Tensor) -> Tensor:
    return torch.cat([HIDDEN(part[None]) for part in x])  # named in a comprehension


@pytest.mark.parametrize(
    "hide",
    [
        lambda net: lambda x: net(x),
        lambda net: lambda x, own=net: own(x),
        lambda net: functools.partial(lambda n, x: n(x), net),
        lambda net: Holder(net),
        lambda net: Holder(net).method,
        lambda net: functools.wraps(net.forward)(lambda x: net(x)),
        lambda net: by_global,
    ],
)
def test_modules_behind_a_callable_are_run_in_evaluation_mode(hide: Any) -> None:
    model = hide(HIDDEN)
    before = state(HIDDEN)
    assert any(part.training for part in HIDDEN.modules())
    votes = RegionClassifier(model, 0.1, m=20).vote(X)
    training.evaluate(model, Split(X, Y))
    assert same(state(HIDDEN), before)
    with running.evaluating(HIDDEN):
        assert torch.equal(votes.counts, RegionClassifier(HIDDEN, 0.1, m=20).vote(X).counts)


class Slots:
    __slots__ = ("net",)

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_modules_in_training_mode_that_cannot_be_found_are_told() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10))
    uses = (
        lambda model: RegionClassifier(model, 0.1, m=20).vote(X),
        lambda model: training.evaluate(model, Split(X, Y)),
    )
    for use in uses:
        net.train()
        with pytest.warns(
            RuntimeWarning, match=r"in training mode \(BatchNorm2d, Flatten, Linear, .*call .eval\(\)"
        ):
            use(Slots(net))
        net.eval()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            use(Slots(net))


class Stubborn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(64, 10)

    def train(self, mode: bool = True) -> nn.Module:
        raise RuntimeError("this module has one mode")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1))


def test_a_module_that_refuses_to_change_its_mode_runs_as_it_is() -> None:
    model = Stubborn()
    labels = model(X).argmax(1)
    assert training.evaluate(model, Split(X, labels)).correct == 8
    assert torch.equal(RegionClassifier(model, 0.0, m=1).predict(X), labels)
    assert DeepFool()(model, X, labels).success.all()


def test_modules_are_not_kept_alive() -> None:
    def used() -> weakref.ref[nn.Module]:
        net = dense()
        model = running.plain(lambda x: net(x))
        assert running.modules(model) == list(net.modules())
        model(X)
        RegionClassifier(net, 0.1, m=5).vote(X)
        return weakref.ref(net)

    assert running.modules(len) == []
    gone = used()
    gc.collect()
    assert gone() is None


# ---- precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("wrapped", [False, True])
def test_inputs_follow_the_models_dtype(dtype: torch.dtype, wrapped: bool) -> None:
    net = dense().to(dtype)
    model: Any = (lambda x: net(x)) if wrapped else net
    labels = net(X.to(dtype)).argmax(1)
    assert training.evaluate(model, Split(X, labels)).correct == 8
    assert torch.equal(RegionClassifier(model, 0.0, m=1, dtype=None).predict(X), labels)
    x = X.clone().requires_grad_()
    assert torch.autograd.grad(running.plain(model)(x).sum(), x)[0].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_training_in_the_models_dtype(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).to(dtype)
    result = training.fit(model, DIGITS.train, validation=DIGITS.validation, epochs=3)
    assert next(model.parameters()).dtype == dtype
    assert result.accuracy > 0.8


# ---- answers


@dataclasses.dataclass
class Output:
    logits: Tensor
    features: Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: Output(z, z[:, :3]),
        lambda z: {"logits": z, "features": z[:, :3]},
        lambda z: (z,),
        lambda z: [z],
        lambda z: {"scores": z},
        lambda z: z.squeeze(),
    ],
)
def test_outputs_are_taken_as_what_they_plainly_are(wrap: Any) -> None:
    net = dense()
    labels = net(X).argmax(1)

    def model(x: Tensor) -> Any:
        return wrap(net(x))

    for batch in (1, 8):
        assert training.evaluate(model, Split(X, labels), batch).correct == 8
        assert torch.equal(RegionClassifier(model, 0.0, m=1, chunk=batch).predict(X), labels)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda z: (z, z[:, :3]), r"got tuple with \[0\] \[4, 10\], \[1\] \[4, 3\]; name the one"),
        (lambda z: {"a": z, "b": z}, r"got dict with \['a'\] \[4, 10\], .* lambda x: model\(x\)\['a'\]"),
        (lambda z: z.numpy(), "must return a tensor of logits .*, got ndarray"),
        (lambda z: None, "got NoneType"),
        (lambda z: z.argmax(1), "floating logits, got torch.int64"),
    ],
)
def test_outputs_that_could_be_several_things_are_refused(wrap: Any, message: str) -> None:
    net = dense()
    for use in (
        lambda model: RegionClassifier(model, 0.1).predict(X),
        lambda model: training.evaluate(model, Split(X, Y)),
    ):
        with pytest.raises(TypeError, match=message):
            use(lambda x: wrap(net(x)))


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (nn.Conv2d(3, 8, 3), X, r"model cannot be run on inputs \[N, 1, 8, 8\], float32: .*expected input"),
        (
            nn.Conv2d(1, 8, 11),
            X,
            r"inputs \[N, 1, 8, 8\], float32: Calculated padded input size .* Kernel size",
        ),
        (nn.Linear(9, 10), X.flatten(1), r"inputs \[N, 64\], float32: mat1 and mat2 shapes"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), X, r"lazy layer without weights, 1 \(LazyLinear\)"),
        (lambda a, b: a, X, r"inputs \[N, 1, 8, 8\], float32: .*missing 1 required positional argument: 'b'"),
    ],
)
def test_models_that_do_not_fit_the_inputs_are_refused_in_one_line(
    model: Any, x: Tensor, message: str
) -> None:
    for use in (
        lambda: RegionClassifier(model, 0.1).predict(x),
        lambda: training.evaluate(model, Split(x, Y)),
    ):
        with pytest.raises((TypeError, ValueError), match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_users_own_error_is_not_explained_away() -> None:
    def broken(x: Tensor) -> Tensor:
        raise ArithmeticError("mine")

    with pytest.raises(ArithmeticError, match=r"^mine$"):
        training.evaluate(broken, Split(X, Y))


def test_an_answer_of_nan_is_no_label() -> None:
    net = dense()
    broken = lambda x: net(x).masked_fill((x.flatten(1) > 0.9).any(1)[:, None], torch.nan)  # noqa: E731
    first = int((X.flatten(1) > 0.9).any(1).nonzero()[0])
    with pytest.raises(ValueError, match=rf"logits without NaN, got NaN for example {first} of 8"):
        training.evaluate(broken, Split(X, Y))


# ---- models that answer differently each time


def test_a_model_that_answers_differently_each_time_is_found_out() -> None:
    net = dense()

    def noisy(x: Tensor) -> Tensor:
        return net(x * (1 + 0.1 * torch.randn_like(x)))

    assert not running.plain(noisy).needs(X).repeats
    assert running.plain(net).needs(X).repeats
    mask = torch.zeros(10)
    mask[9] = -1e9
    assert not running.plain(lambda x: noisy(x) + mask).needs(X).repeats
    assert running.plain(lambda x: net(x) + mask).needs(X).repeats
    with pytest.warns(RuntimeWarning, match="answers differently each time"):
        RegionClassifier(noisy, 0.1, m=20).vote(X)
    with pytest.warns(RuntimeWarning, match="answers differently each time"):
        training.evaluate(noisy, Split(X, Y))


# ---- attacks

ATTACKS = [
    DeepFool(),
    get("T-FGSM", budget="fast"),
    Untargeted(get("T-IGSM", budget="fast", refine=2, iterations=5)),
]
BATCH_NORM = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))
MODELS = {
    "views": viewing(),
    "in place": M(lambda s, x: s.n(x.sub_(0.5)), dense()).eval(),
    "answers with a dict": M(lambda s, x: {"logits": s.n(x)}, dense()).eval(),
    "squeezes": M(lambda s, x: s.n(x).squeeze(), dense()).eval(),
    "bfloat16": dense().bfloat16(),
    "float64": dense().double(),
    "behind a callable, in training mode": lambda x: BATCH_NORM(x),
}


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
@pytest.mark.parametrize("name", MODELS)
def test_attacks_run_on_what_models_are_there(attack: Any, name: str) -> None:
    model, x = MODELS[name], X.clone()
    before = state(BATCH_NORM)
    with running.evaluating(model):
        said = running.plain(model)(x).argmax(1)
    result = attack(model, x, (said + 1) % 10 if attack.targeted else said)
    assert result.success_rate > 0.5
    assert result.adversarial.dtype == result.noise.l2.dtype == torch.float32
    assert torch.equal(x, X)
    assert same(state(BATCH_NORM), before)
    with running.evaluating(model):
        judged = running.plain(model)(result.adversarial).argmax(1)
    assert torch.equal((judged == (said + 1) % 10) if attack.targeted else (judged != said), result.success)


@pytest.mark.parametrize(
    "attack",
    [
        DeepFool(),
        CWL2.fast(iterations=60, searches=2),
        pytest.param(CWL0.fast(iterations=60), marks=pytest.mark.slow),
        pytest.param(CWLinf.fast(iterations=60), marks=pytest.mark.slow),
        RegionCW.fast(steps=6, points=4, votes=20),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_a_float64_network_is_attacked_as_its_float32_twin_is(attack: Any) -> None:
    found = []
    for dtype in (torch.float32, torch.float64):
        model = dense().to(dtype)
        said = model(X.to(dtype)).argmax(1)
        attacked = RegionClassifier(model, 0.05, m=20) if isinstance(attack, RegionCW) else model
        found.append(attack(attacked, X, (said + 1) % 10 if attack.targeted else said))
    one, other = found
    assert one.success.sum() >= 4
    assert torch.equal(other.success, one.success)
    torch.testing.assert_close(other.noise.of(attack.norm), one.noise.of(attack.norm), rtol=0.1, atol=0.01)


def test_convolutions_run_in_channels_last_where_that_changes_nothing() -> None:
    x = torch.rand(4, 3, 8, 8)
    plain = running.plain(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 10)))
    faster = plain.reformatted(x)
    assert faster is not plain
    assert faster is plain.reformatted(x)
    torch.testing.assert_close(faster(x), plain(x))
    for model in (dense(), viewing(), lambda x: x.flatten(1)):
        kept = running.plain(model)
        assert kept.reformatted(x[:, :1]) is kept


# ---- evaluate


@pytest.mark.parametrize(
    ("split", "error", "message"),
    [
        (Split(X, Y[:, None]), ValueError, r"split must be x \[N,…\] and y \[N\], got .* \[8, 1\]"),
        (Split(X, Y.int()), TypeError, "split.y must be int64, got int32"),
        (Split(X, Y.float()), TypeError, "split.y must be int64, got float32"),
        (Split(X * 255, Y), ValueError, r"split.x must lie in \[0, 1\], got"),
        (Split(X.double(), Y), TypeError, "split.x must be float32, got float64"),
        (Split(X, Y + 90), ValueError, r"split.y: labels must lie in \[0, 9\], got 9\d at index 0"),
        ((X, Y), TypeError, "split must be an rcfast.data.Split, got tuple"),
    ],
)
def test_evaluate_checks_the_split(split: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        training.evaluate(dense(), split)


def test_arrays_in_a_split_become_tensors() -> None:
    split = Split(X.numpy().astype(">f4"), Y.numpy())
    assert torch.equal(split.x, X)
    assert training.evaluate(dense(), split).n == 8
    with pytest.raises(TypeError, match="x must be a tensor or an array, got list"):
        Split([[0.5]], Y[:1])
