"""What all attacks share: checks, batches, gradients, the record of queries, and the final judgement."""

from __future__ import annotations

import dataclasses
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from tqdm import tqdm

from rcfast.attacks.attacked import AttackedModel
from rcfast.attacks.inputs import (
    asked,
    attacking,
    check_inputs,
    check_label_range,
    check_targets,
    clean_logits,
    network_of,
    runnable,
)
from rcfast.attacks.margins import hits, margin, per_row, resolution
from rcfast.attacks.memory import HELD, rows_that_fit
from rcfast.attacks.result import AttackResult, Noise
from rcfast.classifier import RegionClassifier
from rcfast.hardware import automatic_dtype
from rcfast.running import Model, plain

PASSES = 10  # in which a model that answers differently each time is asked what it says of a result


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Base of all attacks: `attack(model, x, labels) -> AttackResult`.

    An attack is a frozen dataclass of its hyperparameters: it prints, compares, hashes and holds no state.
    `norm` (0, 2 or inf) is the noise that it minimises; `targeted` says whether labels are targets or true
    labels. Subclasses write `_run` for one batch; checking, batching, judging and measuring happen here.
    """

    norm: ClassVar[float]
    targeted: ClassVar[bool]
    rolling: ClassVar[bool] = False  # True: `_run` gets all examples and keeps to model.limit itself

    def on(self, device: torch.device) -> Self:
        """The attack with the precision that it has on this device in the place of `auto`, in all its parts."""
        changed: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Attack):
                changed[field.name] = value.on(device)
            elif isinstance(value, tuple) and value and isinstance(value[0], Attack):
                changed[field.name] = tuple(part.on(device) for part in value)
            elif field.name == "precision" and value == "auto":
                changed[field.name] = str(automatic_dtype(device)).removeprefix("torch.")
        return self.replace(**changed)

    def __call__(
        self,
        model: Model,
        x: Tensor,
        labels: Tensor,
        *,
        progress: bool | str = False,
        batch: int | None = None,
        true_labels: Tensor | None = None,
    ) -> AttackResult:
        """Attacks every example on its own; who else is in the batch does not matter.

        model: module or callable from x [n,...] to logits [n,L], deterministic, in eval mode (modules behind a
        callable are put into it); left as it was found, see :mod:`rcfast.running`. x [N,...]
        float32 or float64 in [0,1]; labels [N] int64 in [0,L-1]: targets if the attack is targeted, else true
        labels. progress: show a bar, a string names it. batch: examples attacked at once; None takes what the
        free memory allows. true_labels [N] int64: optional, only to refuse targets that equal them.

        On CUDA, float32 means all of its bits, for the process as long as the attack runs
        (:func:`rcfast.hardware.full_float32`): the best examples lie within TF32's rounding of the boundary.

        An example on which the model already says what the attack wants is a success with noise 0. A model that
        answers the same input differently each time is found out and warned of; a success of it is what it calls one in
        most of ten passes.

        Raises TypeError or ValueError, before the attack begins, for: x outside [0,1] by more than 1e-6, NaN,
        another dtype; labels of another dtype, length, device or range; a target equal to the true label; a
        model in training mode, not differentiable, or returning probabilities, NaN or another shape than
        [n,L], L >= 2; batch < 1.
        """
        check_inputs(model, x, labels, batch=batch)
        if true_labels is not None and self.targeted:
            check_targets(labels, true_labels)
        x, model = _leave_inference_mode(x), runnable(model)
        with attacking(model):
            return self._attack(
                model, x.clamp(0, 1), _leave_inference_mode(labels), progress=progress, batch=batch
            )

    @abstractmethod
    def _run(self, model: AttackedModel, x: Tensor, labels: Tensor) -> Tensor:
        """Adversarial examples [b,...] for one batch x [b,...], labels [b]; rows that failed may be anything.

        Runs under no_grad, and only on examples on which the model does not yet say what the attack wants.
        """

    def _confidence(self) -> float:
        """Margin between logits that a success must have beyond saying the right label."""
        return 0.0

    def _copies(self, num_classes: int) -> int:
        """Rows that one example fills in a forward pass; the batch becomes smaller by this factor."""
        return 1

    def _held(self) -> int:
        """Inputs' worth of memory that one row needs beside what the model itself does."""
        return HELD

    def _accepts(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Which rows [n] of logits [n,L] are certain successes, for use inside a search."""
        lead = margin(logits, labels, targeted=self.targeted) - self._confidence()
        return lead > resolution(logits, labels)

    def _judges(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Which rows [n] of logits [n,L] are successes: the argmax, and the confidence up to rounding."""
        right = hits(logits, labels, targeted=self.targeted)
        if self._confidence() > 0:
            lead = margin(logits, labels, targeted=self.targeted)
            right &= lead > self._confidence() - resolution(logits, labels)
        return right

    def _attack(
        self, model: Model, x: Tensor, labels: Tensor, *, progress: bool | str, batch: int | None
    ) -> AttackResult:
        if not len(x):
            return empty_result(x)
        limit = batch or rows_that_fit(network_of(model), x, self._held())
        logits, queries = clean_logits(model, x, limit)
        check_label_range(labels, logits.shape[1])
        passes = self._passes(model, x)
        already = self._judges(logits, labels)
        if passes > 1:
            _warn_of_randomness()
            already, more = self._succeed(model, x, labels, limit=limit, passes=passes)
            queries += more
        adversarial = x.clone()
        active = (~already).nonzero().flatten()
        size = batch or max(1, limit // self._copies(logits.shape[1]))
        if self.rolling:
            size = max(1, len(active))
        name = progress if isinstance(progress, str) else type(self).__name__
        with tqdm(total=len(x), desc=name, unit="ex", disable=not progress, bar_format=_BAR) as bar:
            bar.update(len(x) - len(active))
            for rows in active.split(size) if len(active) else ():
                spent = torch.zeros_like(rows)
                attacked = AttackedModel(
                    model,
                    num_classes=logits.shape[1],
                    limit=limit,
                    queries=spent,
                    bar=bar,
                    examples=rows,
                    in_parts=batch is None,
                )
                adversarial[rows] = self._run(attacked, x[rows], labels[rows]).to(x.dtype)
                queries[rows] += spent
                attacked.warn()
                attacked.progress(1.0)
        whole = adversarial.isfinite().flatten(1).all(1)
        adversarial = torch.where(per_row(whole, x), adversarial.clamp(0, 1), x)
        success, spent = self._succeed(model, adversarial, labels, limit=limit, passes=passes)
        success &= whole
        adversarial = torch.where(per_row(success, x), adversarial, x)
        return AttackResult(
            adversarial=adversarial,
            success=success,
            noise=Noise.between(adversarial, x),
            queries=queries + spent,
            clean=x,
        )

    def _passes(self, model: Model, x: Tensor) -> int:
        """How many passes decide about a success: one where the model repeats its answers on x [N,...], N >= 1."""
        return 1 if isinstance(model, RegionClassifier) or plain(model).needs(x).repeats else PASSES

    def _succeed(
        self, model: Model, x: Tensor, labels: Tensor, *, limit: int, passes: int
    ) -> tuple[Tensor, Tensor]:
        """Which of x [N,...], as it is handed out, succeed in most of some passes, and the passes spent [N]."""
        hits, spent = torch.zeros_like(labels), torch.zeros_like(labels)
        for _ in range(passes):
            logits, passed = asked(model, x, limit)
            hits += self._judges(logits, labels)
            spent += passed
        return 2 * hits > passes, spent

    @classmethod
    def fast(cls, **changes: Any) -> Self:
        """The attack with a budget for a CPU; the published one where that is small enough."""
        return cls(**changes)

    def __repr__(self) -> str:
        """The hyperparameters that differ from the defaults, as the expression that builds the attack."""
        changed = [f for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]
        inner = (f"{f.name}={getattr(self, f.name)!r}" for f in changed)
        return f"{type(self).__name__}({', '.join(inner)})"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = cls.__repr__  # type: ignore[method-assign]  # or @dataclass would write its own

    def replace(self, **changes: Any) -> Self:
        """The same attack with other hyperparameters."""
        return dataclasses.replace(self, **changes)


def _warn_of_randomness() -> None:
    warnings.warn(
        f"model answers differently each time it is given the same input: success is what most of {PASSES} passes say, "
        "and a search that takes single answers follows noise; say what is random as a region and attack its vote "
        "(RegionCW, APGD with eot)",
        RuntimeWarning,
        stacklevel=4,
    )


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} [{elapsed}<{remaining}, {rate_fmt}]"


def _leave_inference_mode(tensor: Tensor) -> Tensor:
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()


def empty_result(x: Tensor) -> AttackResult:
    zero = x.new_zeros(0)
    none = torch.zeros(0, dtype=torch.int64, device=x.device)
    return AttackResult(x.clone(), none.bool(), Noise(zero, zero, zero), none, x)
