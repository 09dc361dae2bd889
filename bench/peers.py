"""What the vote is compared with: the loop of existing implementations, and the best plain torch we know."""

import copy
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
    """(b) What a careful user writes in plain torch: one precision, channels_last, compiled, a good chunk.

    A pass holds a part of the m points of one image, so that a compiled model is compiled once, or on a GPU all
    points of several images.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, r: float, images: Tensor) -> None:
        self.r, self.dtype, cuda = r, dtype, images.device.type == "cuda"
        eager = copy.deepcopy(model).to(dtype).to(memory_format=torch.channels_last).eval()
        ways = {"eager": eager.requires_grad_(False)}
        if not cuda:  # where compiling would take the time that the machine is lent for
            ways["compiled"] = torch.compile(eager, options={"freezing": True})
        sizes = (500, 1000, 4000, 16000) if cuda else (125, 250, 500)
        times = {
            (way, rows): self._seconds(model, images[: max(1, rows // M)], rows)
            for rows in sizes
            for way, model in ways.items()
        }
        self.name, self.rows = min(times, key=times.__getitem__)
        self.model = ways[self.name]

    def _seconds(self, model: nn.Module, images: Tensor, rows: int) -> float:
        """Seconds per point of one pass."""
        return seconds(lambda: self._votes(model, images, rows, m=1), images.device, budget=0.0) / rows

    def _votes(self, model: Callable[[Tensor], Tensor], images: Tensor, rows: int, m: int = M) -> Tensor:
        low, high = (images - self.r).clamp(0, 1)[:, None], (images + self.r).clamp(0, 1)[:, None]
        take, labels = min(M, rows // len(images)), []
        with torch.inference_mode():
            for _ in range(0, m, take):
                noise = torch.rand(len(images), take, *images.shape[1:], device=images.device)
                points = (low + (high - low) * noise).to(self.dtype).flatten(0, 1)
                if points.dim() == 4:
                    points = points.contiguous(memory_format=torch.channels_last)
                logits = model(points)
                labels.append(logits.argmax(1).view(len(images), take))
            votes, classes = torch.cat(labels, 1), logits.shape[1]
            places = votes + classes * torch.arange(len(images), device=images.device)[:, None]
            return torch.bincount(places.flatten(), minlength=len(images) * classes).view(-1, classes)

    def __call__(self, x: Tensor) -> Tensor:
        groups = x.split(max(1, self.rows // M))
        return torch.cat([self._votes(self.model, images, self.rows).argmax(1) for images in groups])
