"""Attacks made of attacks: untargeted, the least noisy of several, adapted to region-based classification."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rcfast.attacks.base import (
    Attack,
    AttackedModel,
    Model,
    check_label_range,
    clean_logits,
    empty_result,
    per_row,
)
from rcfast.attacks.memory import rows_that_fit
from rcfast.attacks.result import AttackResult, Noise, check_norm, least_noise


class _Combined(Attack):
    """An attack that calls other attacks as a whole instead of running on one batch itself."""

    def _run(self, model: AttackedModel, x: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError(f"{self!r} has no batches of its own")


def _check_attack(attack: object) -> None:
    if not isinstance(attack, Attack):
        raise TypeError(f"attack must be an attack such as CWL2(), got {attack!r}")


@dataclass(frozen=True)
class Untargeted(_Combined):
    """U-X: a targeted attack for every class but the true one; the success with the least noise in its norm.

    Carlini and Wagner, "Towards evaluating the robustness of neural networks" (2017), section V, and PAPER
    section 3. Labels are true labels. The result has one candidate for each class t, named by t: the attack
    towards t, failed where t is the true label. An example that is already misclassified succeeds with noise
    0.

    Raises TypeError if the attack is not an Attack, ValueError if it is untargeted already.
    """

    attack: Attack
    targeted = False

    def __post_init__(self) -> None:
        _check_attack(self.attack)
        if not self.attack.targeted:
            raise ValueError(f"attack must be targeted, got {self.attack!r}")

    @property
    def norm(self) -> float:  # type: ignore[override]
        return self.attack.norm

    def __repr__(self) -> str:
        return f"Untargeted({self.attack!r})"

    def _attack(
        self, model: Model, x: Tensor, labels: Tensor, *, progress: bool | str, batch: int | None
    ) -> AttackResult:
        if not len(x):
            return empty_result(x)
        num_classes = clean_logits(model, x[:1], 1).shape[1]
        check_label_range(labels, num_classes)
        classes = torch.arange(num_classes, device=x.device)
        wanted = classes != labels[:, None]  # [N,L]
        rows, targets = wanted.nonzero().T
        flat = self.attack._attack(model, x[rows], targets, progress=progress, batch=batch)
        slot = wanted.cumsum(1) - 1 + torch.arange(len(x), device=x.device)[:, None] * (num_classes - 1)
        candidates = []
        for t in range(num_classes):
            part = flat.select(slot[:, t].clamp(min=0))  # where t is the true label: any row, replaced next
            candidates.append(_failed_where(part, ~wanted[:, t], x))
        return least_noise(candidates, norm=self.norm, names=[str(t) for t in range(num_classes)])


def _failed_where(result: AttackResult, rows: Tensor, clean: Tensor) -> AttackResult:
    """The result with `rows` [N] bool turned into failures that cost nothing."""
    adversarial = torch.where(per_row(rows, clean), clean, result.adversarial)
    return AttackResult(
        adversarial=adversarial,
        success=result.success & ~rows,
        noise=Noise.between(adversarial, clean),
        queries=result.queries.masked_fill(rows, 0),
        clean=clean,
        candidates=tuple(_failed_where(c, rows, clean) for c in result.candidates),
        names=result.names,
    )


@dataclass(frozen=True)
class Smallest(_Combined):
    """CA: of several attacks the success with the least noise in `norm` (PAPER section 3, combined attacks).

    attacks: all targeted or all untargeted; labels as theirs. The result has one candidate for each attack,
    named by its expression. norm: 0, 2 or inf.

    Raises TypeError for a part that is no Attack, ValueError for none, a mixture, or another norm.
    """

    attacks: Sequence[Attack]
    norm: float = field(default=2, kw_only=True)  # type: ignore[misc]

    def __post_init__(self) -> None:
        object.__setattr__(self, "attacks", tuple(self.attacks))
        for attack in self.attacks:
            _check_attack(attack)
        if len({attack.targeted for attack in self.attacks}) != 1:
            kind = "targeted and untargeted ones" if self.attacks else "none"
            raise ValueError(f"attacks must be all targeted or all untargeted and at least one, got {kind}")
        check_norm(self.norm)

    @property
    def targeted(self) -> bool:  # type: ignore[override]
        return self.attacks[0].targeted

    def __repr__(self) -> str:
        return f"Smallest([{', '.join(map(repr, self.attacks))}], norm={self.norm})"

    def _attack(
        self, model: Model, x: Tensor, labels: Tensor, *, progress: bool | str, batch: int | None
    ) -> AttackResult:
        if not len(x):
            return empty_result(x)
        results = [
            attack._attack(model, x, labels, progress=progress and repr(attack), batch=batch)
            for attack in self.attacks
        ]
        return least_noise(results, norm=self.norm, names=[repr(attack) for attack in self.attacks])


@dataclass(frozen=True)
class Adapted(_Combined):
    """X-A: an attack on a region: clip(x + (1 + alpha)·delta, 0, 1) for the noise delta of X.

    Going on beyond the boundary of the point-based classifier brings more of the region across it. The
    attacked model judges the longer noise; since it may fool a region where the model itself takes it for
    something else, the result's only candidates are the longer noises as they are, failed or not, so that
    `judged` sees them.

    alpha: at least 0, the share of the noise that is added. Raises TypeError or ValueError otherwise.
    """

    attack: Attack
    alpha: float

    def __post_init__(self) -> None:
        _check_attack(self.attack)
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"alpha must be at least 0, got {self.alpha!r}")

    @property
    def norm(self) -> float:  # type: ignore[override]
        return self.attack.norm

    @property
    def targeted(self) -> bool:  # type: ignore[override]
        return self.attack.targeted

    def __repr__(self) -> str:
        return f"Adapted({self.attack!r}, alpha={self.alpha})"

    def of(self, result: AttackResult, model: Model, labels: Tensor) -> AttackResult:
        """The adapted form of a result of the attack: one alpha after another without attacking again.

        result: of `attack` on the same model and labels [N] int64.
        """
        if not len(result):
            return result
        with torch.no_grad():
            return self._of(result, model, labels, limit=rows_that_fit(model, result.clean))

    def _attack(
        self, model: Model, x: Tensor, labels: Tensor, *, progress: bool | str, batch: int | None
    ) -> AttackResult:
        result = self.attack._attack(model, x, labels, progress=progress, batch=batch)
        limit = (batch or rows_that_fit(model, x)) if len(x) else 1
        return self._of(result, model, labels, limit=limit)

    def _of(self, result: AttackResult, model: Model, labels: Tensor, *, limit: int) -> AttackResult:
        parts = [self._longer(leaf, model, labels, limit=limit) for leaf in result.leaves()]
        names = result.names if len(result.names) == len(parts) else [str(k) for k in range(len(parts))]
        return least_noise(parts, norm=self.norm, names=names)

    def _longer(self, leaf: AttackResult, model: Model, labels: Tensor, *, limit: int) -> AttackResult:
        clean = leaf.clean
        longer = (clean + (1 + self.alpha) * (leaf.adversarial - clean)).clamp(0, 1)
        logits = [model(part) for part in longer.split(limit)] if len(longer) else []
        said = torch.cat(logits).argmax(1) if logits else labels
        right = (said == labels) if self.targeted else (said != labels)
        return dataclasses.replace(
            leaf,
            adversarial=longer,
            success=right & leaf.success,
            noise=Noise.between(longer, clean),
            queries=leaf.queries + 1,
        )
