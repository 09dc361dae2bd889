"""What the vote is compared with: the loop of existing implementations, and the best plain torch we know."""

from collections.abc import Callable

import torch
from common import seconds
from torch import Tensor, nn

M = 1000  # points per example


class Loop:
    """(a) As existing implementations vote: image by image, all m points at once, clamped noise, float32."""

    def __init__(self, model: nn.Module, r: float, m: int = M) -> None:
        self.model, self.r, self.m = model, r, m

    def __call__(self, x: Tensor) -> Tensor:
        labels = []
        with torch.no_grad():
            for image in x:
                noise = torch.empty(self.m, *image.shape, device=x.device).uniform_(-self.r, self.r)
                votes = self.model((image + noise).clamp(0, 1)).argmax(1)
                labels.append(torch.bincount(votes).argmax())
        return torch.stack(labels)


class PlainTorch:
    """(b) What a careful user writes in plain torch: reduced precision, channels_last, compiled, a good chunk.

    The chunk divides m, so that every pass has one size and a compiled model is compiled once.
    """

    def __init__(self, eager: nn.Module, compiled: nn.Module, r: float, image: Tensor) -> None:
        self.r, self.dtype = r, next(eager.parameters()).dtype
        sizes = (250, 500, 1000) if image.device.type == "cuda" else (125, 250, 500)
        times = {
            (way, rows): self._seconds(model, image, rows)
            for rows in sizes
            for way, model in (("eager", eager), ("compiled", compiled))
        }
        self.name, self.rows = min(times, key=times.__getitem__)
        self.model = compiled if self.name == "compiled" else eager

    def _seconds(self, model: nn.Module, image: Tensor, rows: int) -> float:
        return seconds(lambda: self._votes(model, image, rows), image.device, budget=0.0)

    def _votes(self, model: Callable[[Tensor], Tensor], image: Tensor, rows: int) -> Tensor:
        low, high = (image - self.r).clamp(0, 1), (image + self.r).clamp(0, 1)
        counts = torch.zeros(1, dtype=torch.int64, device=image.device)
        with torch.inference_mode():
            for start in range(0, M, rows):
                take = min(rows, M - start)
                points = (low + (high - low) * torch.rand(take, *image.shape[1:], device=image.device)).to(
                    self.dtype
                )
                if points.dim() == 4:
                    points = points.contiguous(memory_format=torch.channels_last)
                logits = model(points)
                if len(counts) == 1:
                    counts = counts.new_zeros(logits.shape[1])
                counts += torch.bincount(logits.argmax(1), minlength=len(counts))
        return counts

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack([self._votes(self.model, x[i : i + 1], self.rows).argmax() for i in range(len(x))])
