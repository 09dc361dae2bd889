"""learn_length, against Algorithm 1 written out, on real digits."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from rcfast import calibration
from rcfast.calibration import LengthSearch, learn_length
from rcfast.classifier import RegionClassifier

OPTIONS = {"m": 100, "step": 0.05}


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A trained network and 300 validation examples."""
    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[:1000]), y[:1000]).backward()
        optimizer.step()
    return model, x[1000:1300], y[1000:1300]


def algorithm_1(model: nn.Module, x: Tensor, y: Tensor, step: float, m: int) -> tuple[float, list[int]]:
    """The paper's loop, line by line, with all m votes of every example."""
    r, steps, seen = 0.0, 0, []
    acc = int((model(x).argmax(1) == y).sum())
    acc_rc = int((RegionClassifier(model, r, m=m, stop=None).predict(x) == y).sum())
    while acc_rc >= acc:
        seen.append(acc_rc)
        steps += 1
        r = steps * step
        acc_rc = int((RegionClassifier(model, r, m=m, stop=None).predict(x) == y).sum())
    return (steps - 1) * step, [*seen, acc_rc]


def test_it_is_algorithm_1(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = digits
    found = learn_length(model, x, y, **OPTIONS)
    r, correct = algorithm_1(model, x, y, 0.05, 100)
    assert found.r == pytest.approx(r)
    assert [round(a * 300) for a in found.accuracy] == correct
    assert found.radii == pytest.approx([0.05 * k for k in range(len(correct))])
    assert found.point_accuracy == pytest.approx((model(x).argmax(1) == y).float().mean().item())
    assert found.n == 300
    assert found.accuracy[-1] < found.point_accuracy <= min(found.accuracy[:-1])


def test_the_curve_goes_on_to_the_end(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = digits
    short, whole = (
        learn_length(model, x, y, **OPTIONS),
        learn_length(model, x, y, curve=True, r_max=0.6, **OPTIONS),
    )
    assert whole.r == short.r
    assert whole.radii == tuple(round(0.05 * k, 12) for k in range(13))
    assert whole.accuracy[: len(short.accuracy)] == short.accuracy
    assert whole.accuracy[-1] < 0.9


@pytest.mark.parametrize("block", [7, 64, 10_000])
def test_lengths_scored_together_or_apart(
    digits: tuple[nn.Module, Tensor, Tensor], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, y = digits
    few = slice(0, 40)
    expected = learn_length(model, x[few], y[few], curve=True, r_max=0.2, **OPTIONS)
    monkeypatch.setattr(calibration, "BLOCK", block)
    assert learn_length(model, x[few], y[few], curve=True, r_max=0.2, **OPTIONS) == expected


def test_other_rules_and_precisions_agree_nearly(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = digits
    exact = learn_length(model, x, y, curve=True, r_max=0.4, **OPTIONS)
    for options in ({"stop": "sequential"}, {"dtype": torch.bfloat16}):
        other = learn_length(model, x, y, curve=True, r_max=0.4, **OPTIONS, **options)
        assert max(abs(a - b) for a, b in zip(exact.accuracy, other.accuracy, strict=True)) <= 0.02
    assert learn_length(model, x, y, curve=True, r_max=0.4, stop=None, **OPTIONS) == exact


def test_tolerance_reaches_farther_and_r_max_ends_it(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = digits
    strict = learn_length(model, x, y, **OPTIONS)
    lenient = learn_length(model, x, y, tolerance=0.05, **OPTIONS)
    assert lenient.r > strict.r
    assert all(a >= lenient.point_accuracy - 0.05 for a in lenient.accuracy[:-1])
    ended = learn_length(model, x, y, tolerance=1.0, r_max=0.2, **OPTIONS)
    assert ended.r == ended.radii[-1] == 0.2


def test_nothing_holds(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = digits
    with pytest.warns(RuntimeWarning, match=r"r0 = 0.7 already loses accuracy .* r is 0"):
        found = learn_length(model, x, y, r0=0.7, **OPTIONS)
    assert isinstance(found, LengthSearch)
    assert found.r == 0.0
    assert found.radii == (0.7,)


def test_progress_bar(digits: tuple[nn.Module, Tensor, Tensor], capsys: pytest.CaptureFixture[str]) -> None:
    model, x, y = digits
    learn_length(model, x[:50], y[:50], r_max=0.1, **OPTIONS)
    assert capsys.readouterr().err == ""
    learn_length(model, x[:50], y[:50], r_max=0.1, curve=True, progress=True, **OPTIONS)
    assert "150/150" in capsys.readouterr().err
