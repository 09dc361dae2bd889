"""The residual network of He et al. (2016, section 4.2) for CIFAR-10."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .network import Normalize, check_shape, register

# Per-channel mean and standard deviation of the 50,000 training images.
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x)))))); the shortcut has no parameters (their option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        if self.stride > 1 or self.added:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return F.relu(out + x)


@register
def cifar_resnet(
    *,
    shape: tuple[int, ...] = (3, 32, 32),
    num_classes: int = 10,
    depth: int = 20,
    width: int = 16,
    mean: tuple[float, ...] = CIFAR10_MEAN,
    std: tuple[float, ...] = CIFAR10_STD,
    seed: int = 0,
) -> nn.Sequential:
    """ResNet of depth 6k + 2 (20, 32, 44, 56, 110).

    3×3 convolution, three stages of k basic blocks with `width`, 2·`width` and 4·`width` channels, global
    average, dense L. Normalisation by `mean` and `std` happens inside: inputs in [0,1].

    Raises ValueError for a depth that is not 6k + 2, or constants that do not match the number of channels.
    """
    channels, _, _ = check_shape(shape, num_classes, least=4)
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6k + 2 with k >= 1, got {depth}")
    if len(mean) == 3 != channels and tuple(mean) == CIFAR10_MEAN and tuple(std) == CIFAR10_STD:
        mean, std = (0.5,) * channels, (0.25,) * channels
    if not len(mean) == len(std) == channels:
        raise ValueError(f"mean and std must have {channels} values, got {len(mean)} and {len(std)}")
    layers: list[nn.Module] = [
        Normalize(tuple(mean), tuple(std)),
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    inputs = width
    for stage in range(3):
        outputs = width << stage
        for block in range((depth - 2) // 6):
            layers.append(BasicBlock(inputs, outputs, stride=2 if stage and not block else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes))
