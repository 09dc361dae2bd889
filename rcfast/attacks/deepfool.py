"""DeepFool: steps to the nearest linearised boundary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rcfast.attacks._passes import channels_last
from rcfast.attacks.attacked import AttackedModel
from rcfast.attacks.base import Attack
from rcfast.attacks.inputs import check_counts
from rcfast.attacks.margins import margin, resolution

PUBLISHED_STEPS = 25  # 100 MNIST images needed 16 at most
# Times what may be rounding that an example leads when it leaves, and by which steps go beyond the boundary: steps that
# the box cuts short end just there, and passes of other sizes and layouts differed by 1.4 of it on digits. Not where
# logits are coarser than float32: they were rounded once at the end, and 8 of their steps are a 16th of their size.
SURE, BEYOND = 4, 8
COARSE = 1e-4


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """DeepFool, untargeted, L2: repeatedly the smallest step to the nearest linearised class boundary.

    Moosavi-Dezfooli et al., "DeepFool: a simple and accurate method to fool deep neural networks" (2016),
    algorithm 2. With y the predicted label, w_k = grad(Z_k - Z_y) and f_k = Z_k - Z_y at the current point,
    the sum r of the steps grows by (|f_l| / |w_l|²)·w_l, l = argmin_k |f_k| / |w_k|, and the point is clip(x
    + (1 + overshoot)·r, 0, 1), until the label changes. Where the box takes most of every step, these steps
    shrink and may not arrive: an example that 25 steps did not free goes on from the clipped point, with steps
    that leave out the coordinates that the box stops. Between two linear classes both kinds of step end next to
    the closest point of the box. (The second kind from the start takes a third of the steps, but on MNIST 9%
    more noise: such steps are long, the boundary is not straight.)

    iterations: 50; overshoot: 0.02; candidates: 10, the classes with the highest logits at x, the label
    included. Raises ValueError unless iterations >= 1, candidates >= 2 and overshoot >= 0.
    """

    norm: ClassVar[float] = 2
    targeted: ClassVar[bool] = False

    iterations: int = 50
    overshoot: float = 0.02
    candidates: int = 10

    def __post_init__(self) -> None:
        check_counts(iterations=self.iterations, candidates=self.candidates)
        if self.candidates < 2:
            raise ValueError(f"candidates must be at least 2, got {self.candidates}")
        if not self.overshoot >= 0:
            raise ValueError(f"overshoot must be at least 0, got {self.overshoot!r}")

    def _held(self) -> int:
        return 8 + 3 * self.candidates  # the gradients, once more side by side, and what is made of them

    def _run(self, model: AttackedModel, x: Tensor, labels: Tensor) -> Tensor:
        model = channels_last(model, x)
        rows = torch.arange(len(x), device=x.device)
        adversarial, point, total = x.clone(), x, torch.zeros_like(x)
        logits = model.predict(x, rows)
        # The label stands in front: an example comes here only if the model predicts its label.
        first = logits.scatter(1, labels[:, None], torch.inf).argsort(dim=1, descending=True, stable=True)
        classes = first[:, : self.candidates]  # [b,K]
        for step in range(self.iterations):
            inside = step >= PUBLISHED_STEPS
            change, movable = self._step(model, point, rows, classes, inside=inside)
            total = total + change
            start, way = (point, change) if inside else (x[rows], total)
            point = (start + (1 + self.overshoot) * way).clamp(0, 1)
            logits = model.predict(point, rows)
            lead = margin(logits, labels[rows], targeted=False)
            accepted = lead > _times(SURE, logits) * resolution(logits, labels[rows])
            adversarial[rows] = point
            stay = ~accepted & movable
            rows, point, total, classes = rows[stay], point[stay], total[stay], classes[stay]
            model.progress(1 - len(rows) / len(x) * (1 - (step + 1) / self.iterations))
            if not len(rows):
                break
        return adversarial

    def _step(
        self, model: AttackedModel, point: Tensor, rows: Tensor, classes: Tensor, *, inside: bool
    ) -> tuple[Tensor, Tensor]:
        """The step [a,...] from point [a,...] to the nearest linear boundary, and whether there is one.

        inside: moves no coordinate that stands at the end of [0,1] towards which it would go.
        """

        def lead(k: int) -> Callable[[Tensor], Tensor]:
            return lambda z: (z.gather(1, classes[:, k : k + 1]) - z.gather(1, classes[:, :1])).sum()

        logits, gradients = model.gradients(point, rows, *(lead(k) for k in range(1, classes.shape[1])))
        values = logits.gather(1, classes).to(gradients[0].dtype)
        gap = (values[:, 1:] - values[:, :1]).abs()  # [a,K-1]
        w = torch.stack([g.flatten(1) for g in gradients], 1)  # [a,K-1,n]
        if inside:
            at = point.flatten(1)[:, None]
            w = w.masked_fill(((at <= 0) & (w < 0)) | ((at >= 1) & (w > 0)), 0)
        square = (w * w).sum(2)
        distance = torch.where(square > 0, gap / square.sqrt(), torch.inf)
        nearest = distance.argmin(1, keepdim=True)
        square, gap = square.gather(1, nearest), gap.gather(1, nearest)
        direction = w.gather(1, nearest[:, :, None].expand(-1, -1, w.shape[2]))[:, 0]
        movable = square[:, 0] > 0
        # Beyond the boundary by what rounding may hide, else a step could end on it and never leave.
        hidden = _times(BEYOND, logits) * resolution(logits, classes[:, 0])[:, None].to(gap.dtype)
        scale = torch.where(movable[:, None], (gap + hidden) / square, 0)
        return (scale * direction).reshape(point.shape), movable


def _times(factor: int, logits: Tensor) -> int:
    return factor if torch.finfo(logits.dtype).eps < COARSE else 1
