"""Small models for the tests of the attacks, in float64, whose rows do not feel who else is in the batch."""

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """Z = W x + c on inputs of any shape; sums row by row, where a matrix product would round by batch size."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(weight.new_zeros(len(weight)) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1)[:, None] * self.weight).sum(2) + self.bias


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(n: int, classes: int, seed: int = 0) -> Linear:
    rng = generator(seed)
    weight = torch.randn(classes, n, generator=rng, dtype=torch.float64)
    return Linear(weight, 0.3 * torch.randn(classes, generator=rng, dtype=torch.float64)).eval()


def network(n: int = 12, classes: int = 4, seed: int = 0) -> nn.Module:
    """Two layers; softsign, since tanh rounds differently by its place in a vector."""
    rng = generator(seed)
    first = torch.randn(16, n, generator=rng, dtype=torch.float64)
    second = torch.randn(classes, 16, generator=rng, dtype=torch.float64)
    return nn.Sequential(Linear(first, -first.sum(1) / 2), nn.Softsign(), Linear(second)).eval()


def inputs(count: int, *shape: int, seed: int = 1, low: float = 0.0, high: float = 1.0) -> Tensor:
    rng = generator(seed)
    return low + (high - low) * torch.rand(count, *shape, generator=rng, dtype=torch.float64)


@torch.no_grad()
def predicted(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).argmax(1)


def other_targets(labels: Tensor, classes: int) -> Tensor:
    """A target for each example that is not its label."""
    return (labels + 1 + torch.arange(len(labels)) % (classes - 1)) % classes
