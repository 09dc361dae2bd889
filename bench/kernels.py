"""The operators against plain torch and against what memory allows: rows of bench/throughput.py."""

from collections.abc import Callable
from typing import Any

import torch
from common import kernel_seconds, paired, seconds, short
from torch import Tensor

from rcfast import ops

DTYPES = (torch.float32, torch.bfloat16)


class Limits:
    """Bytes per second that a write and a copy of so many bytes reach here: a size that fits a cache has its own."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.found = device, {}  # "write 1MB": bytes per second

    def write(self, size: int) -> float:
        return self._measured("write", size, 1, lambda source, target: target.zero_())

    def copy(self, size: int) -> float:
        return self._measured("copy", size, 2, lambda source, target: target.copy_(source))

    def _measured(self, name: str, size: int, passes: int, run: Callable[[Tensor, Tensor], Any]) -> float:
        key = f"{name} {size / 1e6:.3g} MB"
        if key not in self.found:
            source, target = (
                torch.ones(size // 4, device=self.device),
                torch.empty(size // 4, device=self.device),
            )

            def call() -> None:
                run(source, target)

            cuda = self.device.type == "cuda"
            took = kernel_seconds(call) if cuda else seconds(call, self.device)
            self.found[key] = passes * size / took
        return self.found[key]


def sampling(device: torch.device, limits: Limits) -> list[dict[str, Any]]:
    rows = []
    shapes = [(1, 128, (1, 28, 28)), (1, 1000, (1, 28, 28)), (8, 128, (3, 32, 32))]
    if device.type == "cuda":
        shapes = [(1, 1000, (1, 28, 28)), (256, 1000, (1, 28, 28)), (64, 1000, (3, 32, 32))]
    layouts = {1: [torch.contiguous_format], 3: [torch.contiguous_format, torch.channels_last]}
    for batch, samples, shape, layout in [(*one, layout) for one in shapes for layout in layouts[one[2][0]]]:
        x, ids = torch.rand(batch, *shape, device=device), torch.arange(batch, device=device)
        low, high = (x - 0.3).clamp(0, 1)[:, None], (x + 0.3).clamp(0, 1)[:, None]
        for dtype in DTYPES:
            out = torch.empty(batch * samples, *shape, dtype=dtype, device=device, memory_format=layout)
            out = out.unflatten(0, (batch, samples))

            def plain(low=low, high=high, out=out, dtype=dtype) -> Tensor:
                return (low + (high - low) * torch.rand(out.shape, device=device)).to(dtype)

            def ours(out=out, x=x, ids=ids) -> None:
                ops.sample_hypercube_(out, x, 0.3, seed=1, example_ids=ids)

            took = paired({"ours": ours, "plain": plain}, device)
            size = out.numel() * out.element_size()
            kernel = kernel_seconds(ours) if device.type == "cuda" else took["ours"]
            rows.append(
                {
                    "op": "sample_hypercube_",
                    "shape": [batch, samples, *shape],
                    "dtype": short(dtype),
                    "layout": short(layout),
                    "seconds": took["ours"],
                    "kernel_seconds": kernel,
                    "coordinates_per_s": out.numel() / kernel,
                    "bytes_per_s": size / kernel,
                    "share_of_write_limit": size / kernel / limits.write(size),
                    "plain_seconds": took["plain"],
                    "speedup": took["plain"] / took["ours"],
                }
            )
    return rows


def voting(device: torch.device, limits: Limits) -> list[dict[str, Any]]:
    rows = []
    shapes = [(1, 1000, 10), (100, 1000, 10), (8, 1000, 1000)]
    if device.type == "cuda":
        shapes = [(1, 1000, 10), (2000, 1000, 10), (100, 1000, 1000)]
    for batch, samples, labels in shapes:
        for dtype in DTYPES:
            logits = torch.randn(batch, samples, labels, device=device).to(dtype)
            counts = torch.zeros(batch, labels, dtype=torch.int32, device=device)
            shift = torch.arange(batch, device=device)[:, None] * labels

            def plain(logits=logits, shift=shift, labels=batch * labels) -> Tensor:
                return torch.bincount((logits.argmax(-1) + shift).flatten(), minlength=labels)

            def ours(c=counts, z=logits) -> None:
                ops.vote_(c, z)

            took = paired({"ours": ours, "plain": plain}, device)
            size = logits.numel() * logits.element_size()
            kernel = kernel_seconds(ours) if device.type == "cuda" else took["ours"]
            rows.append(
                {
                    "op": "vote_",
                    "shape": [batch, samples, labels],
                    "dtype": short(dtype),
                    "seconds": took["ours"],
                    "kernel_seconds": kernel,
                    "rows_per_s": batch * samples / kernel,
                    "bytes_per_s": size / kernel,
                    "share_of_copy_limit": size / kernel / limits.copy(size),
                    "plain_seconds": took["plain"],
                    "speedup": took["plain"] / took["ours"],
                }
            )
    return rows
