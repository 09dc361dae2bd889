"""What every attack refuses, with which message, and what it leaves alone."""

import pytest
import torch
from attack_models import inputs, linear, network, other_targets, predicted
from torch import nn

from rcfast import RegionClassifier
from rcfast.attacks import (
    APGD,
    ATTACKS,
    CWL0,
    CWL2,
    FGSM,
    IGSM,
    JSMA,
    Adapted,
    DeepFool,
    OptMargin,
    RegionCW,
    Smallest,
    Untargeted,
    get,
)
from rcfast.attacks import memory as attack_memory
from rcfast.attacks._sampled import SampledAttack
from rcfast.running import TRIED

ATTACKED = [
    FGSM(steps=16),
    IGSM.fast(),
    JSMA(),
    DeepFool(),
    Untargeted(FGSM(steps=16)),
    get("T-CW-L2", budget="fast"),
]


class Head(nn.Module):
    """A function of the logits of a linear model."""

    def __init__(self, function):
        super().__init__()
        self.body, self.function = linear(5, 3), function

    def forward(self, x):
        return self.function(self.body(x))


def at(x, index, value):
    x = x.clone()
    x[index] = value
    return x


X, Y = inputs(4, 5), torch.tensor([0, 1, 2, 0])
BAD = {
    "not callable": ({"model": 3}, TypeError, "model must be a module or callable"),
    "training": ({"model": Head(lambda z: z)}, ValueError, r"model.eval\(\)"),
    "inner training": (
        {"model": nn.Sequential(nn.Dropout()).eval().append(nn.Dropout())},
        ValueError,
        r"eval\(\)",
    ),
    "probabilities": ({"model": Head(lambda z: z.softmax(1)).eval()}, ValueError, "got probabilities"),
    "NaN logits": (
        {"model": Head(lambda z: z / 0 * 0).eval()},
        ValueError,
        "finite logits, got NaN .* index 0",
    ),
    "one logit": ({"model": Head(lambda z: z[:, :1]).eval()}, ValueError, r"L >= 2, got shape \(4, 1\)"),
    "flat logits": ({"model": Head(lambda z: z[:, 0]).eval()}, ValueError, r"got shape \(4,\)"),
    "fewer rows": ({"model": Head(lambda z: z[1:]).eval()}, ValueError, r"logits \[N, L\]"),
    "labels for logits": (
        {"model": Head(lambda z: z.argmax(1)).eval()},
        TypeError,
        "floating logits, got torch.int",
    ),
    "detached": ({"model": Head(lambda z: z.detach()).eval()}, TypeError, "model must be differentiable"),
    "half": ({"x": X.half()}, TypeError, "float32 or float64 tensor, got torch.float16"),
    "bytes": ({"x": (X * 255).byte()}, TypeError, "got torch.uint8"),
    "array": ({"x": X.numpy()}, TypeError, "got ndarray"),
    "above 1": (
        {"x": at(X, (2, 3), 1.00001)},
        ValueError,
        r"x must lie in \[0, 1\], got 1.00001 at index \[2, 3\]",
    ),
    "below 0": ({"x": at(X, (0, 1), -0.5)}, ValueError, r"got -0.5 at index \[0, 1\]"),
    "0 to 255": ({"x": X * 255}, ValueError, r"x must lie in \[0, 1\]"),
    "NaN": ({"x": at(X, (1, 1), torch.nan)}, ValueError, r"got NaN at index \[1, 1\]"),
    "no example axis": ({"x": X[0]}, ValueError, r"shape \[N, ...\]"),
    "no coordinates": ({"x": X[:, :0]}, ValueError, "at least one coordinate"),
    "int32 labels": ({"labels": Y.int()}, TypeError, "labels must be an int64 tensor, got torch.int32"),
    "float labels": ({"labels": Y.double()}, TypeError, "got torch.float64"),
    "list of labels": ({"labels": [0, 1, 2, 0]}, TypeError, "got list"),
    "short labels": ({"labels": Y[:3]}, ValueError, r"shape \[4\], one for each x, got \(3,\)"),
    "one-hot labels": ({"labels": torch.eye(4, dtype=torch.int64)}, ValueError, r"got \(4, 4\)"),
    "label above": ({"labels": at(Y, 3, 3)}, ValueError, r"labels must lie in \[0, 2\], got 3 at index 3"),
    "label below": ({"labels": at(Y, 1, -1)}, ValueError, "got -1 at index 1"),
    "batch 0": ({"batch": 0}, ValueError, "batch must be a positive integer or None, got 0"),
    "labels elsewhere": (
        {"labels": Y.to("meta")},
        ValueError,
        "labels must be on the device of x, cpu, got meta",
    ),
}


@pytest.mark.parametrize("attack", ATTACKED, ids=repr)
@pytest.mark.parametrize("case", BAD)
def test_bad_input(attack, case):
    change, error, message = BAD[case]
    good = {"model": Head(lambda z: z).eval(), "x": X, "labels": Y}
    with pytest.raises(error, match=message):
        attack(**{**good, **change})


def test_target_that_is_the_true_label():
    with pytest.raises(
        ValueError, match="a target must differ from the true label, got 1 for both at index 1"
    ):
        FGSM()(linear(5, 3), X, Y, true_labels=torch.tensor([1, 1, 0, 2]))
    with pytest.raises(TypeError, match="true_labels must be an int64 tensor, got list"):
        FGSM()(linear(5, 3), X, Y, true_labels=[1, 1, 0, 2])
    with pytest.raises(ValueError, match="true_labels must be int64"):
        FGSM()(linear(5, 3), X, Y, true_labels=torch.tensor([1.0, 1, 0, 2]))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FGSM(steps=0), ValueError, "steps must be a positive integer, got 0"),
        (lambda: FGSM(refine=1.5), ValueError, "refine must be a positive integer, got 1.5"),
        (lambda: FGSM(max_eps=2.0), ValueError, "max_eps must be at most 1, .* got 2.0"),
        (lambda: IGSM(step=0.0), ValueError, "step must be positive, got 0.0"),
        (lambda: IGSM(iterations=0), ValueError, "iterations must be a positive integer, got 0"),
        (lambda: JSMA(theta=0), ValueError, "theta must lie in .* got 0"),
        (lambda: JSMA(max_changed=1), ValueError, "max_changed must be at least 2 or None, got 1"),
        (lambda: DeepFool(candidates=1), ValueError, "candidates must be at least 2, got 1"),
        (lambda: DeepFool(overshoot=-0.1), ValueError, "overshoot must be at least 0, got -0.1"),
        (lambda: Untargeted(DeepFool()), ValueError, r"attack must be targeted, got DeepFool\(\)"),
        (lambda: Untargeted(FGSM), TypeError, "attack must be an attack such as"),
        (lambda: Smallest([]), ValueError, "at least one, got none"),
        (lambda: Smallest([FGSM(), DeepFool()]), ValueError, "got targeted and untargeted ones"),
        (lambda: Smallest([FGSM()], norm=1), ValueError, "norm must be one of 0, 2, inf, got 1"),
        (lambda: Adapted(FGSM(), alpha=-1), ValueError, "alpha must be at least 0, got -1"),
        (lambda: get("CW"), ValueError, "name must be one of T-FGSM, .* got 'CW'"),
        (lambda: get("T-FGSM", budget="slow"), ValueError, "budget must be 'paper' or 'fast', got 'slow'"),
        (lambda: get("T-FGSM", alpha=1.0), ValueError, "alpha is for the adapted attacks"),
        (lambda: get("T-FGSM", confidence=1.0), TypeError, "T-FGSM has no hyperparameter 'confidence'"),
        (lambda: get("T-CA-L2", confidence=20.0), TypeError, "T-CA-L2 is .* its own confidence, .* be 20.0"),
        (lambda: get("T-RegionCW-L0", norm=2), TypeError, "T-RegionCW-L0 is .* its own norm, .* be 2"),
        (lambda: get("T-OptMargin", targeted=False), TypeError, "its own targeted, which cannot be False"),
        (lambda: JSMA(max_changed=10.0), ValueError, "max_changed must be a positive integer, got 10.0"),
    ],
)
def test_bad_hyperparameters(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("shape", [(12,), (3, 2, 2)])
def test_empty_batch(name, shape):
    result = get(name, budget="fast")(network(), torch.zeros(0, *shape), torch.zeros(0, dtype=torch.int64))
    assert result.adversarial.shape == (0, *shape)
    assert len(result) == len(result.noise) == 0
    assert "n=0" in repr(result)


@pytest.mark.parametrize("attack", ATTACKED, ids=repr)
def test_already_there(attack):
    """An example on which the model already says what the attack wants succeeds with noise 0."""
    model = network()
    x = inputs(3, 12)
    labels = predicted(model, x)
    result = attack(model, x, labels if attack.targeted else (labels + 1) % 4)
    assert result.success.all()
    assert torch.equal(result.adversarial, x)
    assert not result.noise.linf.any()


@pytest.mark.parametrize("attack", ATTACKED, ids=repr)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_leaves_the_model_alone(attack, mode):
    model, x = network(), inputs(4, 12)
    labels = predicted(model, x)
    labels = other_targets(labels, 4) if attack.targeted else labels
    kept = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    want = attack(model, x, labels)
    with mode():
        result = attack(model, x.clone(), labels.clone())
    assert torch.equal(result.adversarial, want.adversarial)
    assert not result.adversarial.requires_grad
    for p, before in zip(model.parameters(), kept, strict=True):
        assert p.requires_grad
        assert torch.equal(p, before)
        assert torch.equal(p.grad, torch.ones_like(p))


@pytest.mark.parametrize("attack", ATTACKED, ids=repr)
def test_queries_are_the_rows_the_model_saw(attack):
    model, seen = network(), []

    def counting(x):
        seen.append(len(x))
        return model(x)

    x = inputs(5, 12)
    labels = predicted(model, x)
    labels = other_targets(labels, 4) if attack.targeted else labels
    result = attack(counting, x, labels, batch=64)  # a given batch needs no look at the memory
    learning = 1 if isinstance(attack, Untargeted) else 0  # the number of classes
    tried = 2 * TRIED  # rows that find out how the model may be run
    assert int(result.queries.sum()) == sum(seen) - learning - tried
    assert result.queries.dtype == torch.int64


def test_a_rounded_input_is_accepted():
    x = at(at(inputs(2, 5), (0, 0), 1 + 5e-7), (1, 1), -5e-7)
    result = FGSM(steps=8)(linear(5, 3), x, torch.tensor([0, 1]))
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1


def test_float32_images_and_a_bare_function():
    model = network().float()
    x = inputs(4, 3, 2, 2).float()
    labels = predicted(model, x)
    result = DeepFool()(lambda z: model(z), x, labels)
    assert result.success.all()
    assert result.adversarial.dtype == torch.float32
    assert result.adversarial.shape == x.shape


def test_gradients_that_are_all_zero_fail_and_stay_finite():
    class Flat(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0] * 0 + 3, x[:, 0] * 0], 1)

    x = inputs(2, 6)
    for name in ("T-FGSM", "T-IGSM", "T-JSMA", "T-CW-L2", "T-CW-L0", "T-CW-Linf"):
        result = get(name, budget="fast")(Flat().eval(), x, torch.tensor([1, 1]))
        assert not result.success.any()
        assert torch.equal(result.adversarial, x)


@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize(
    "attack",
    [
        FGSM(steps=8),
        CWL2(iterations=20, searches=2),
        CWL0(iterations=10, c_max=1.0),
        IGSM(iterations=3),
        JSMA(),
        DeepFool(),
        OptMargin(iterations=4, searches=1, directions=2),
        RegionCW(steps=8, votes=40),
        APGD(eps=0.2, steps=4, restarts=2),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_progress_bar_counts_examples(capsys, attack, batch):
    """Images, whose network has other forms on a CPU, and votes, which are attacked by their network."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)
    )
    x = torch.rand(6, 1, 6, 6)
    labels = predicted(net.eval(), x)
    labels = other_targets(labels, 4) if attack.targeted else labels
    for model in (net, RegionClassifier(net, 0.05, m=40)):
        if model is net or isinstance(attack, SampledAttack):
            attack(model, x, labels, progress="it", batch=batch)
            err = capsys.readouterr().err
            assert "it: 100%" in err
            assert "6/6" in err


def test_rows_follow_the_free_memory(monkeypatch):
    model, x = nn.Sequential(nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 2)).eval(), torch.rand(4, 1000)
    monkeypatch.setattr(attack_memory, "free_bytes", lambda device: 10 << 20)
    few = attack_memory.rows_that_fit(model, x)
    monkeypatch.setattr(attack_memory, "free_bytes", lambda device: 1 << 10)
    assert attack_memory.rows_that_fit(model, x) == 1
    # A row saves its input and activations, 4 kB each and a mask at most, and has HELD inputs of work space.
    held = 4_000 * attack_memory.HELD
    assert (10 << 20) / 2 / (3 * 16_000 + held) <= few <= (10 << 20) / 2 / (3 * 8_000 + held)
    assert attack_memory.free_bytes.__name__ == "<lambda>"
    monkeypatch.undo()
    assert attack_memory.free_bytes(torch.device("cpu")) > 0


def test_what_a_row_takes_does_not_follow_how_many_are_given():
    """A convolution keeps its input: of one example that, and not all of which it is a view."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(4)).eval()
    x = torch.rand(100, 3, 8, 8)
    model(x[:1])
    few, many = (attack_memory._saved_by_a_row(model, x[:n]) for n in (2, 100))
    assert few == many >= (3 * 8 * 8 + 8 * 6 * 6) * 4


def test_a_vote_with_a_size_for_each_example_is_not_attacked():
    net = network()
    vote = RegionClassifier(net, torch.tensor([0.1, 0.2]), m=40)
    x = inputs(2, 12).float()
    with pytest.raises(
        ValueError, match=r"r of the attacked vote must be one number for all examples, got .*\[2\]"
    ):
        RegionCW(steps=2)(vote, x, torch.tensor([0, 1]))
