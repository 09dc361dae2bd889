"""What the tests of training share: a linear network, whether two networks are equal, and a stand-in for an attack."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


def linear(size: int = 192, classes: int = 4) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(size, classes))


def perceptron(seed: int) -> nn.Module:
    """A network of 8x8 digits that trains in a tenth of a second an epoch."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def equal(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@dataclass(frozen=True)
class Result:
    adversarial: Tensor


@dataclass(frozen=True)
class Brighten:
    """Stands in for an attack: every pixel up by `step`."""

    step: float = 0.1
    targeted: bool = False

    def __call__(self, model: nn.Module, x: Tensor, labels: Tensor) -> Result:
        assert model(x).shape == (len(x), 4)
        return Result((x + self.step).clamp(0, 1))
