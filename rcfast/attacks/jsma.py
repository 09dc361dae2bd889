"""Jacobian-based saliency map attack on logits, with the exact search over all pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rcfast.attacks._passes import channels_last
from rcfast.attacks.attacked import AttackedModel
from rcfast.attacks.base import Attack
from rcfast.attacks.inputs import check_counts
from rcfast.attacks.margins import margin
from rcfast.ops import saliency_pair

# On a GPU looking whether examples are finished waits for all work queued: look only every so many
# iterations.
ITERATIONS_BETWEEN_LOOKS = 8


@dataclass(frozen=True, kw_only=True)
class JSMA(Attack):
    """T-JSMA: changes two coordinates at a time by theta, the pair that rates highest on logits.

    Papernot et al., "The limitations of deep learning in adversarial settings" (2016), algorithm 3, on
    logits. With alpha = a_p + a_q, a = grad Z_t, and beta = b_p + b_q, b = grad sum_{i≠t} Z_i, the pair p < q
    maximises -alpha·beta among those with alpha > 0 > beta (theta > 0) or alpha < 0 < beta (theta < 0); the
    lowest pair wins ties. A coordinate is used once, and not at all where it already stands at the end of
    [0,1] towards which theta points. The search is exact over all pairs; b is the gradient of one sum, so
    that an iteration costs one forward and two backward passes whatever the number of classes. An example
    fails when no pair is left that fits.

    prune: after a success, give back coordinates one by one, those first that by the gradient help least,
    where the success outlives it: fewer changes than the published attack, and so next to the boundary.

    theta: 1, the whole range, negative to darken; prune: False; max_changed: None, up to all coordinates,
    else at most that many. Raises ValueError unless 0 < |theta| <= 1 and max_changed is None or at least 2.
    """

    norm: ClassVar[float] = 0
    targeted: ClassVar[bool] = True

    theta: float = 1.0
    max_changed: int | None = None
    prune: bool = False

    def __post_init__(self) -> None:
        if not 0 < abs(self.theta) <= 1:
            raise ValueError(f"theta must lie in [-1, 1] and not be 0, got {self.theta!r}")
        if self.max_changed is not None:
            check_counts(max_changed=self.max_changed)
            if self.max_changed < 2:
                raise ValueError(f"max_changed must be at least 2 or None, got {self.max_changed!r}")

    def _run(self, model: AttackedModel, x: Tensor, labels: Tensor) -> Tensor:
        model = channels_last(model, x)
        shape = x.shape[1:]
        adversarial = x.flatten(1).clone()
        rows = torch.arange(len(x), device=x.device)
        point, target = adversarial.clone(), labels
        free = point < 1 if self.theta > 0 else point > 0
        looks = ITERATIONS_BETWEEN_LOOKS if x.is_cuda else 1
        pairs = (self.max_changed or point.shape[1]) // 2
        over = torch.zeros_like(target, dtype=torch.bool)
        for step in range(pairs + 1):

            def lead(z: Tensor, target: Tensor = target) -> Tensor:
                return z.gather(1, target[:, None]).sum()

            def rest(z: Tensor, target: Tensor = target) -> Tensor:
                return z.sum() - lead(z, target)

            logits, (a, b) = model.gradients(point.reshape(-1, *shape), rows, lead, rest)
            over = over | self._accepts(logits, target)
            pair = saliency_pair(a.flatten(1).float(), b.flatten(1).float(), free, down=self.theta < 0)
            over = over | (pair[:, 0] < 0)
            if step % looks == 0 or step == pairs:
                adversarial[rows] = point
                stay = ~over
                rows, point, target, free = rows[stay], point[stay], target[stay], free[stay]
                pair, over = pair[stay], over[stay]
                model.progress(1 - len(rows) / len(x) * (1 - step / (pairs + 1)))
                if not len(rows):
                    break
            pair = pair.clamp(min=0)
            moved = (point.gather(1, pair) + self.theta).clamp(0, 1)
            moved = torch.where(over[:, None], point.gather(1, pair), moved)
            point = point.scatter(1, pair, moved)
            free = free.scatter(1, pair, False)
        if self.prune:
            self._give_back(model, x.flatten(1), adversarial, labels, shape)
        return adversarial.reshape(x.shape)

    def _give_back(
        self, model: AttackedModel, x: Tensor, adversarial: Tensor, labels: Tensor, shape: torch.Size
    ) -> None:
        """Restores changed coordinates of adversarial [b,n] in place, one by one, where the success outlives it."""
        rows = torch.arange(len(x), device=x.device)
        rows = rows[self._accepts(model.predict(adversarial.reshape(-1, *shape), rows), labels)]
        if not len(rows):
            return
        point, target = adversarial[rows], labels[rows]
        _, (gradient,) = model.gradients(
            point.reshape(-1, *shape), rows, lambda z: margin(z, target, targeted=True)
        )
        changed = point != x[rows]
        help_ = (gradient.flatten(1) * (point - x[rows])).masked_fill(~changed, torch.inf)
        order, count = help_.argsort(dim=1, stable=True), changed.sum(1)  # what helps least goes first
        for k in range(int(count.max())):
            stay = count > k
            if not stay.all():
                rows, point, target, order, count = (
                    rows[stay],
                    point[stay],
                    target[stay],
                    order[stay],
                    count[stay],
                )
            at = order[:, k : k + 1]
            trial = point.scatter(1, at, x[rows].gather(1, at))
            accepted = self._accepts(model.predict(trial.reshape(-1, *shape), rows), target)
            point = torch.where(accepted[:, None], trial, point)
            adversarial[rows] = point
