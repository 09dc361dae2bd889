"""Attacks made of attacks: untargeted, the least noisy of several, adapted to region-based classification."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from rcfast.attacks.attacked import AttackedModel
from rcfast.attacks.base import Attack, empty_result
from rcfast.attacks.inputs import (
    attacking,
    check_counts,
    check_label_range,
    clean_logits,
    network_of,
    runnable,
)
from rcfast.attacks.memory import free_bytes, rows_that_fit
from rcfast.attacks.result import AttackResult, Noise, check_norm, least_noise
from rcfast.classifier import RegionClassifier
from rcfast.running import Model


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

    targets: None for all of them, or k for the k classes with the highest logits at x beside the true one, as
    for a thousand classes. The candidates are then named "logit 1" (the highest) to "logit k". All candidates
    of all examples are held in memory, everything else in blocks of what is free.

    Raises TypeError if the attack is not an Attack, ValueError if it is untargeted already, if targets is not a
    positive integer or None, and, at the call, if the candidates take more than half of the free memory.
    """

    attack: Attack
    targets: int | None = field(default=None, kw_only=True)
    targeted = False

    def __post_init__(self) -> None:
        _check_attack(self.attack)
        if not self.attack.targeted:
            raise ValueError(f"attack must be targeted, got {self.attack!r}")
        if self.targets is not None:
            check_counts(targets=self.targets)

    @property
    def norm(self) -> float:  # type: ignore[override]
        return self.attack.norm

    def __repr__(self) -> str:
        return f"Untargeted({self.attack!r}{'' if self.targets is None else f', targets={self.targets}'})"

    def _attack(
        self, model: Model, x: Tensor, labels: Tensor, *, progress: bool | str, batch: int | None
    ) -> AttackResult:
        if not len(x):
            return empty_result(x)
        wanted, names, ranking = self._wanted(model, x, labels, batch)  # [T,N], -1 for none
        free = free_bytes(x.device)
        _check_room(wanted, x, free)
        rows = (wanted.flatten() >= 0).nonzero().flatten()
        block = max(1, free // (8 * IN_FLIGHT * x[0].numel() * x.element_size()))
        whole: AttackResult | None = None
        for part in rows.split(block):
            targets = wanted.flatten()[part]
            found = self.attack._attack(model, x[part % len(x)], targets, progress=progress, batch=batch)
            if whole is None:
                whole = _failures(found, x, len(wanted))
            _put(whole, part, found)
        assert whole is not None
        candidates = [_slot(whole, t, x) for t in range(len(wanted))]
        return least_noise(candidates, norm=self.norm, names=names, queries=ranking)

    def _wanted(
        self, model: Model, x: Tensor, labels: Tensor, batch: int | None
    ) -> tuple[Tensor, list[str], Tensor]:
        """Which class every example x [N,...] is attacked towards, one after the other [T,N], and their names.

        And the passes [N] that rank the classes.
        """
        if self.targets is None:
            num_classes = clean_logits(model, x[:1], 1)[0].shape[1]
            check_label_range(labels, num_classes)
            classes = torch.arange(num_classes, device=x.device)[:, None].expand(-1, len(x))
            names = [str(t) for t in range(num_classes)]
            return classes.masked_fill(classes == labels, -1), names, torch.zeros_like(labels)
        logits, ranking = clean_logits(model, x, batch or rows_that_fit(model, x))
        check_label_range(labels, logits.shape[1])
        count = min(self.targets, logits.shape[1] - 1)
        others = logits.scatter(1, labels[:, None], -torch.inf)
        if isinstance(model, RegionClassifier):  # most labels have no votes: the network ranks those that tie
            own, passes = clean_logits(network_of(model), x, batch or rows_that_fit(model, x))
            first = own.argsort(dim=1, descending=True, stable=True)
            order = others.gather(1, first).argsort(dim=1, descending=True, stable=True)
            order, ranking = first.gather(1, order), ranking + passes
        else:
            order = others.argsort(dim=1, descending=True, stable=True)
        return order[:, :count].T, [f"logit {k + 1}" for k in range(count)], ranking


IN_FLIGHT = 12  # inputs' worth of memory that one row under attack takes wherever it stands


def _check_room(wanted: Tensor, x: Tensor, free: int) -> None:
    need = wanted.numel() * x[0].numel() * x.element_size()
    if need > free // 2:
        raise ValueError(
            f"targets must be given for {wanted.shape[0]} classes and {len(x)} examples of shape "
            f"{list(x.shape[1:])}: their candidates take {need / 2**30:.2g} of {free / 2**30:.2g} GiB free. "
            "Untargeted(attack, targets=k) attacks the k highest other logits"
        )


def _failures(like: AttackResult, x: Tensor, count: int) -> AttackResult:
    """Room for count·N rows of results of the same kind: for now failures, which are the clean input."""
    rows = count * len(x)
    return AttackResult(
        adversarial=x.repeat(count, *[1] * (x.dim() - 1)),
        success=torch.zeros(rows, dtype=torch.bool, device=x.device),
        noise=Noise(*(torch.zeros(rows, dtype=x.dtype, device=x.device) for _ in fields(Noise))),
        queries=torch.zeros(rows, dtype=torch.int64, device=x.device),
        clean=x,
        candidates=tuple(_failures(part, x, count) for part in like.candidates),
        names=like.names,
    )


def _put(whole: AttackResult, rows: Tensor, part: AttackResult) -> None:
    """Replaces rows (int64 indices [r]) by the r rows of part, in place."""
    for name in ("adversarial", "success", "queries"):
        getattr(whole, name)[rows] = getattr(part, name)
    for f in fields(Noise):
        getattr(whole.noise, f.name)[rows] = getattr(part.noise, f.name)
    for inner, values in zip(whole.candidates, part.candidates, strict=True):
        _put(inner, rows, values)


def _slot(whole: AttackResult, place: int, x: Tensor) -> AttackResult:
    """Rows place·N … place·N + N - 1, without a copy, as results for x [N,...]."""
    rows = slice(place * len(x), (place + 1) * len(x))
    return AttackResult(
        adversarial=whole.adversarial[rows],
        success=whole.success[rows],
        noise=Noise(*(getattr(whole.noise, f.name)[rows] for f in fields(Noise))),
        queries=whole.queries[rows],
        clean=x,
        candidates=tuple(_slot(part, place, x) for part in whole.candidates),
        names=whole.names,
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
        model = runnable(model)
        with attacking(model):
            return self._of(result, model, labels, limit=rows_that_fit(network_of(model), result.clean))

    def _attack(
        self, model: Model, x: Tensor, labels: Tensor, *, progress: bool | str, batch: int | None
    ) -> AttackResult:
        result = self.attack._attack(model, x, labels, progress=progress, batch=batch)
        limit = (batch or rows_that_fit(network_of(model), x)) if len(x) else 1
        return self._of(result, model, labels, limit=limit)

    def _of(self, result: AttackResult, model: Model, labels: Tensor, *, limit: int) -> AttackResult:
        parts = [self._longer(leaf, model, labels, limit=limit) for leaf in result.leaves()]
        names = result.names if len(result.names) == len(parts) else [str(k) for k in range(len(parts))]
        return least_noise(parts, norm=self.norm, names=names)

    def _longer(self, leaf: AttackResult, model: Model, labels: Tensor, *, limit: int) -> AttackResult:
        clean = leaf.clean
        longer = (clean + (1 + self.alpha) * (leaf.adversarial - clean)).clamp(0, 1)
        right, spent = labels.bool(), labels
        if len(longer):
            passes = self._passes(model, clean)
            right, spent = self._succeed(model, longer, labels, limit=limit, passes=passes)
        return dataclasses.replace(
            leaf,
            adversarial=longer,
            success=right & leaf.success,
            noise=Noise.between(longer, clean),
            queries=leaf.queries + spent,
        )
