"""Plain convolutional networks for small one-channel images."""

from __future__ import annotations

from torch import nn

from .network import check_shape, register


@register
def mnist_cnn(
    *,
    shape: tuple[int, ...] = (1, 28, 28),
    num_classes: int = 10,
    dropout: float = 0.5,
    seed: int = 0,
) -> nn.Sequential:
    """The MNIST network of the paper (Carlini and Wagner, 2017, Table 1); 312,202 parameters.

    conv3×3-32, conv3×3-32, pool2, conv3×3-64, conv3×3-64, pool2, dense 200, dropout, dense 200, dense L;
    ReLU, no padding. Images of shape (C,H,W), sides of at least 16.
    """
    channels, height, width = check_shape(shape, num_classes, least=16)
    rest = [((side - 4) // 2 - 4) // 2 for side in (height, width)]
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * rest[0] * rest[1], 200),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, num_classes),
    )


@register
def digits_cnn(
    *,
    shape: tuple[int, ...] = (1, 8, 8),
    num_classes: int = 10,
    dropout: float = 0.25,
    seed: int = 0,
) -> nn.Sequential:
    """A small network for 8×8 digits; 40,394 parameters.

    conv3×3-16, conv3×3-32, pool2, conv3×3-64, pool2, dense 64, dropout, dense L; ReLU, padding 1. Images of
    shape (C,H,W), sides of at least 4.
    """
    channels, height, width = check_shape(shape, num_classes, least=4)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 64),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(64, num_classes),
    )
