"""Errors, not wrong answers: bad input to the classifier and the length search, case by case."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcfast import regions
from rcfast.calibration import learn_length
from rcfast.classifier import RegionClassifier

NAN, INF = float("nan"), float("inf")
LINEAR = nn.Linear(4, 3)


def model(x: Tensor) -> Tensor:
    return x[:, :3]


def at(index: tuple[int, ...], value: float) -> Tensor:
    x = torch.full((4, 5), 0.5)
    x[index] = value
    return x


MAKING = [
    ({"model": None}, TypeError, "model must be a module or a callable, got NoneType"),
    ({"r": -0.1}, ValueError, "r must be finite and >= 0, got -0.1"),
    ({"r": NAN}, ValueError, "r must be finite and >= 0, got nan"),
    ({"r": INF}, ValueError, "r must be finite and >= 0, got inf"),
    ({"r": "0.3"}, TypeError, "r must be a number or a floating tensor [B], got '0.3'"),
    ({"r": None}, TypeError, "give a region or a length r, got neither"),
    ({"r": True}, TypeError, "r must be a number or a floating tensor [B], got True"),
    ({"r": torch.tensor([0.1, -0.2])}, ValueError, "r must be finite and >= 0, got -0.2"),
    ({"r": torch.tensor([NAN])}, ValueError, "got nan at index 0"),
    ({"r": torch.tensor([1])}, TypeError, "got a tensor of torch.int64"),
    ({"r": torch.zeros(2, 2)}, ValueError, "r must be a number or a tensor of shape [B], got shape (2, 2)"),
    ({"m": 0}, ValueError, "m must lie in [1, 2147483647], got 0"),
    ({"m": 2**31}, ValueError, "m must lie in [1, 2147483647], got 2147483648"),
    ({"m": 10.0}, TypeError, "m must be an integer, got 10.0"),
    ({"m": True}, TypeError, "m must be an integer, got True"),
    ({"alpha": 0.0}, ValueError, "alpha must lie in (0, 1), got 0.0"),
    ({"alpha": 1}, ValueError, "alpha must lie in (0, 1), got 1.0"),
    ({"alpha": NAN}, ValueError, "alpha must lie in (0, 1), got nan"),
    ({"alpha": "small"}, TypeError, "alpha must be a number, got 'small'"),
    ({"clip": "none"}, ValueError, "clip must be one of 'intersect', 'clamp', got 'none'"),
    ({"clip": None}, ValueError, "clip must be one of 'intersect', 'clamp', got None"),
    ({"stop": "never"}, ValueError, "stop must be 'sequential', 'exact' or None, got 'never'"),
    ({"seed": -1}, ValueError, "seed must lie in [0, 18446744073709551615], got -1"),
    ({"seed": 0.5}, TypeError, "seed must be an integer, got 0.5"),
    ({"num_classes": 1}, ValueError, "num_classes must lie in [2, 2147483647], got 1"),
    ({"chunk": 0}, ValueError, "chunk must lie in [1, 2147483647], got 0"),
    (
        {"dtype": torch.int8},
        ValueError,
        "dtype must be torch.float32, torch.float16, torch.bfloat16, 'auto' or None",
    ),
    ({"dtype": torch.float64}, ValueError, "got torch.float64"),
    ({"dtype": "bf16"}, ValueError, "got bf16"),
]


@pytest.mark.parametrize(("change", "error", "message"), MAKING)
def test_making(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"model": model, "r": 0.1} | change
    with pytest.raises(error) as caught:
        RegionClassifier(arguments.pop("model"), arguments.pop("r"), **arguments)
    assert message in str(caught.value)


VOTING = [
    ([[0.5]], {}, TypeError, "x must be a torch.Tensor, got list"),
    (
        torch.zeros(2, 5, dtype=torch.uint8),
        {},
        TypeError,
        "x must be a floating tensor (float32), got torch.uint8",
    ),
    (torch.zeros(2, 5, dtype=torch.complex64), {}, TypeError, "got torch.complex64"),
    (torch.zeros(5), {}, ValueError, "x must have the shape [B, ...] with at least one coordinate, got (5,)"),
    (torch.zeros(2, 0), {}, ValueError, "with at least one coordinate, got (2, 0)"),
    (at((2, 1), 1.001), {}, ValueError, "x must lie in [0, 1], got 1.00"),
    (at((2, 1), 1.001), {}, ValueError, "in example 2"),
    (at((3, 0), -0.01), {}, ValueError, "x must lie in [0, 1], got -0.0"),
    (at((1, 0), NAN), {}, ValueError, "x must lie in [0, 1], got NaN in example 1"),
    (at((0, 0), INF), {}, ValueError, "x must lie in [0, 1], got inf in example 0"),
    (at((0, 0), 255.0), {}, ValueError, "x must lie in [0, 1], got 255.0 in example 0"),
    (at((0, 0), 0.5).to("meta"), {}, ValueError, "x must be on the device of the model, cpu, got meta"),
    (at((0, 0), 0.5), {"m": 0}, ValueError, "m must lie in [1, 2147483647], got 0"),
    (
        at((0, 0), 0.5),
        {"example_ids": [1, 2, 3, 4]},
        TypeError,
        "example_ids must be an int64 tensor [B], got list",
    ),
    (
        at((0, 0), 0.5),
        {"example_ids": torch.zeros(4)},
        TypeError,
        "example_ids must be int64, got torch.float32",
    ),
    (
        at((0, 0), 0.5),
        {"example_ids": torch.arange(3)},
        ValueError,
        "example_ids must have the shape [4], got [3]",
    ),
    (
        at((0, 0), 0.5),
        {"example_ids": torch.arange(4, device="meta")},
        ValueError,
        "example_ids must be on the device of the model, cpu, got meta",
    ),
]


@pytest.mark.parametrize(("x", "options", "error", "message"), VOTING)
def test_voting(x: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    calls = []

    class Noting(nn.Linear):
        def forward(self, points: Tensor) -> Tensor:
            calls.append(len(points))
            return super().forward(points)

    rc = RegionClassifier(Noting(5, 3), 0.1)
    with pytest.raises(error) as caught:
        rc.vote(x, **options)
    assert message in str(caught.value)
    assert not calls  # before any work


def test_lengths_of_another_batch() -> None:
    with pytest.raises(
        ValueError, match=r"r must be a number or have the shape \[4\] of the batch, got \[3\]"
    ):
        RegionClassifier(model, torch.zeros(3)).vote(torch.zeros(4, 5))


def nan_near_one(x: Tensor) -> Tensor:
    return torch.where(x[:, :1] > 0.95, NAN, x[:, :3])


MODELS = [
    (
        lambda x: x[:, :, None],
        ValueError,
        "model must return logits [N, L], L >= 2, got shape (4, 5, 1) for 4 points",
    ),
    (lambda x: x[0], ValueError, "got shape (5,) for 4 points"),
    (lambda x: x[:, :1], ValueError, "L >= 2, got shape (4, 1)"),
    (lambda x: x.repeat(2, 1), ValueError, "got shape (8, 5) for 4 points"),
    (lambda x: None, TypeError, "model must return a tensor of logits [N, L], got NoneType"),
    (
        lambda x: (x, x[:, :2]),
        TypeError,
        "got tuple with [0] [4, 5], [1] [4, 2]; name the one, as in lambda x: model(x)[0]",
    ),
    (lambda x: x.long(), TypeError, "model must return floating logits, got torch.int64"),
    (
        lambda x: x[:, : 3 + (len(x) > 4)],
        ValueError,
        "model must return 3 logits per point, got shape (12, 4)",
    ),
    (
        lambda x: x + NAN,
        ValueError,
        "model must not return NaN, got NaN logits at 12 of 12 points of example 0",
    ),
]


@pytest.mark.parametrize(("function", "error", "message"), MODELS)
def test_models(function: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        RegionClassifier(function, 0.1, chunk=18).vote(torch.full((2, 5), 0.5))
    assert message in str(caught.value)


@pytest.mark.parametrize("stop", ["sequential", "exact", None])
@pytest.mark.parametrize("bad", [0, 2])
def test_nan_names_the_example(bad: int, stop: str | None) -> None:
    x = torch.full((4, 5), 0.5)
    x[bad, 0] = 0.96
    with pytest.raises(ValueError, match=rf"got NaN logits at \d+ of \d+ points of example {bad}"):
        RegionClassifier(nan_near_one, 0.1, m=200, stop=stop).vote(x)


def test_number_of_classes() -> None:
    with pytest.raises(ValueError, match="model must return num_classes = 4 logits per point, got 3"):
        RegionClassifier(model, 0.1, num_classes=4).vote(torch.zeros(2, 5))


def test_rounding_beyond_the_ends_is_no_error() -> None:
    x = torch.tensor([[1 + 9e-7, -9e-7, 0.5]])
    assert RegionClassifier(model, 0.0).predict(x).tolist() == [0]
    points = regions.sample(x, 0.0, 2)
    assert points.min() >= 0
    assert points.max() <= 1


X, Y = torch.full((4, 5), 0.5), torch.zeros(4, dtype=torch.int64)
LEARNING = [
    ({"x": X * 3}, ValueError, "x must lie in [0, 1], got 1.5 in example 0"),
    ({"x": X[:0], "y": Y[:0]}, ValueError, "x must hold at least one example, got none"),
    ({"y": [0, 0, 0, 0]}, TypeError, "y must be a torch.Tensor, got list"),
    ({"y": Y.float()}, TypeError, "y must be int64, got torch.float32"),
    ({"y": Y[:3]}, ValueError, "y must have the shape [4], got [3]"),
    ({"y": torch.tensor([0, 1, 2, 3])}, ValueError, "y must lie in [0, 2], got 3 at index 3"),
    ({"y": torch.tensor([0, -1, 2, 2])}, ValueError, "y must be >= 0, got -1 at index 1"),
    ({"r0": -0.1}, ValueError, "r0 must lie in [0, inf), got -0.1"),
    ({"step": 0.0}, ValueError, "step must lie in (0, inf), got 0.0"),
    ({"step": "small"}, TypeError, "step must be a number, got 'small'"),
    ({"r0": 0.5, "r_max": 0.4}, ValueError, "r_max must lie in [0.5, inf), got 0.4"),
    ({"tolerance": 2.0}, ValueError, "tolerance must lie in [0, 1], got 2.0"),
    ({"m": 0}, ValueError, "m must lie in [1, 2147483647], got 0"),
    ({"stop": "soon"}, ValueError, "stop must be 'sequential', 'exact' or None, got 'soon'"),
]


@pytest.mark.parametrize(("change", "error", "message"), LEARNING)
def test_learning(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"x": X, "y": Y} | change
    with pytest.raises(error) as caught:
        learn_length(model, arguments.pop("x"), arguments.pop("y"), **arguments)
    assert message in str(caught.value)


SAMPLING = [
    ({"samples": -1}, ValueError, "samples must lie in [0, 2147483647], got -1"),
    (
        {"dtype": torch.float64},
        TypeError,
        "dtype must be torch.float32, torch.float16 or torch.bfloat16, got",
    ),
    (
        {"r": torch.zeros(3)},
        ValueError,
        "r must be a number or have the shape [4] of the batch, got [3]",
    ),
    ({"first_sample": -1}, ValueError, "first_sample must lie in [0, 2147483647], got -1"),
    ({"clip": "wrap"}, ValueError, "clip must be one of 'intersect', 'clamp', got 'wrap'"),
]


@pytest.mark.parametrize(("change", "error", "message"), SAMPLING)
def test_sampling(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"r": 0.1, "samples": 3} | change
    with pytest.raises(error) as caught:
        regions.sample(X, arguments.pop("r"), arguments.pop("samples"), **arguments)
    assert message in str(caught.value)
