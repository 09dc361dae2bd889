"""A small network and inputs, for tests of what is out of the ordinary around them."""

import torch
from torch import Tensor, nn


def linear(classes: int = 4, n: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(n, 16), nn.Tanh(), nn.Linear(16, classes)).eval()


def inputs(count: int = 5, n: int = 6) -> Tensor:
    return 0.2 + 0.6 * torch.rand(count, n, generator=torch.Generator().manual_seed(1))


def said(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)
