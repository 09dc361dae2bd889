"""What TF32 convolutions, torch's default on CUDA, do to labels and votes; without a GPU, by rounding as they do.

    python bench/tf32.py [--dataset auto] [--images 200] [--model mnist_cnn.safetensors]

TF32 keeps 10 of the 23 bits of the mantissas of a convolution's inputs and weights and adds up in float32. Here both
are rounded so before each convolution, and the labels of the same points compared with those of float32; the order of
the sums, which also differs between devices, is not in it. bfloat16 beside it, as votes in dtype="auto" use it, where
the processor has units for it.
"""

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from common import DATASETS, dataset_and_model, table
from peers import M
from throughput import LENGTHS
from torch import Tensor, nn

from rcfast import RegionClassifier, regions
from rcfast.hardware import has_bfloat16_units

ROWS = 500
Way = tuple[Callable[[Tensor], Tensor], nn.Module, torch.dtype]  # labels of points, and how to vote so


def rounded(values: Tensor) -> Tensor:
    """float32 with the mantissa rounded to 10 bits, ties away from zero."""
    return ((values.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def in_tf32(model: nn.Module) -> nn.Module:
    """A copy whose convolutions see inputs and weights as TF32 does."""
    twin = copy.deepcopy(model)
    for part in twin.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = rounded(part.weight.data)
            part.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0].contiguous()),))
    return twin


def labels(model: nn.Module, points: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(part).argmax(1) for part in points.split(ROWS)])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="auto", help=DATASETS)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args()
    dataset, model, name = dataset_and_model(
        arguments.dataset, arguments.root, arguments.model, torch.device("cpu")
    )
    r, x = LENGTHS.get(name, 0.1), dataset.test.x[: arguments.images]
    twin = in_tf32(model)
    ways: dict[str, Way] = {"tf32 convolutions": (lambda p: labels(twin, p), twin, torch.float32)}
    if has_bfloat16_units(x.device):
        reduced = copy.deepcopy(model).to(torch.bfloat16)
        ways["bfloat16"] = (lambda p: labels(reduced, p.bfloat16()), model, torch.bfloat16)
    base = RegionClassifier(model, r, m=M, stop=None, dtype=torch.float32).vote(x)
    rows = []
    for way, (label, voter, dtype) in ways.items():
        changed = drawn = 0
        for image in x:
            points = regions.sample(image[None], r, M).flatten(0, 1)
            changed += int((label(points) != labels(model, points)).sum())
            drawn += len(points)
        votes = RegionClassifier(voter, r, m=M, stop=None, dtype=dtype).vote(x)
        sequential = RegionClassifier(voter, r, m=M, dtype=dtype).vote(x)
        moved = (votes.counts - base.counts).abs().sum(1).float() / 2
        rows.append(
            [way, f"{changed} of {drawn}", f"{int((votes.label != base.label).sum())} of {len(x)}",
             f"{moved.mean():.2f} of {M}", f"{int((sequential.label != base.label).sum())} of {len(x)}"]
        )  # fmt: skip
    columns = ["against float32", "labels of points changed", "labels of votes changed", "votes moved, mean"]
    print(table(f"{name}, r = {r}", [*columns, "sequential labels changed"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
