"""What all attacks share: checks, batches, gradients, the record of queries, and the final judgement."""

from __future__ import annotations

import dataclasses
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from tqdm import tqdm

from rcfast.attacks.memory import HELD, rows_that_fit
from rcfast.attacks.result import AttackResult, Noise
from rcfast.classifier import RegionClassifier
from rcfast.hardware import automatic_dtype
from rcfast.running import Model, device_of, evaluating, in_training, plain

__all__ = ["Attack", "AttackResult", "AttackedModel", "Model", "Noise", "margin", "per_row", "resolution"]

Observer = Callable[[Tensor, Tensor, Tensor], None]  # inputs, logits and examples of a forward pass
observers: list[Observer] = []  # told of every forward pass of an attacked model, for diagnosis
FAR = 1e4  # of the two logits that compete; below, what others add to the allowance is 2% of these at most
INSIDE = 1e-3  # how far from 0 and 1 a slope is taken that is infinite there
PASSES = 10  # in which a model that answers differently each time is asked what it says of a result
TOLERANCE = 1e-6  # inputs may leave [0,1] by this much: image pipelines round


def network_of(model: Model) -> Model:
    """What answers for one point: the network of a vote, any other model itself."""
    return model.model if isinstance(model, RegionClassifier) else model


def runnable(model: Model) -> Model:
    """The model as a function from inputs to logits, whatever it needs; a vote sees to that itself."""
    return model if isinstance(model, RegionClassifier) else plain(model)


def _asked(model: Model, x: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Logits [N,L] of x [N,...], or what its vote gave the labels, and the forward passes behind them [N] int64."""
    said, spent = [], []
    for part in x.split(limit):
        if isinstance(model, RegionClassifier):
            votes = model.vote(part)  # whose weights need not sum to the number of points
            said.append(votes.counts.to(torch.float32))
            spent.append(votes.samples.to(x.device))
        else:
            said.append(model(part))
            spent.append(torch.ones(len(part), dtype=torch.int64, device=x.device))
    return torch.cat(said), torch.cat(spent)


def per_row(value: Tensor, like: Tensor) -> Tensor:
    """value [n] shaped [n,1,...,1] so that it multiplies like [n,...] row by row."""
    return value.reshape(-1, *[1] * (like.dim() - 1))


def margin(logits: Tensor, labels: Tensor, *, targeted: bool) -> Tensor:
    """By how much [n] an attack has succeeded, positive on success: logits [n,L], labels [n] int64.

    Targeted: Z_t - max_{i≠t} Z_i. Untargeted: max_{i≠y} Z_i - Z_y. Differentiable; float32 or better.
    """
    own, other = rivals(logits, labels)
    return own - other if targeted else other - own


def rivals(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logit of the label and the largest other one [n], of logits [n,L]; float32 or better."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = logits.gather(1, labels[:, None])[:, 0]
    return own, logits.scatter(1, labels[:, None], -torch.inf).amax(1)


def magnitude(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest [n] among the logits [n,L] that compete: not FAR larger than the label's or the largest other."""
    own, other = rivals(logits.detach(), labels)
    size = logits.detach().abs().to(own.dtype)
    competing = size <= FAR * torch.maximum(own.abs(), other.abs())[:, None]
    return torch.where(competing, size, 0).amax(1)


def resolution(logits: Tensor, labels: Tensor) -> Tensor:
    """Differences up to this [n] between the label's of logits [n,L] and the largest other may be rounding.

    An attack that stops at the first sign of success lands as close to the boundary as numbers go, where the
    same example judged in a batch of another size may fall on the other side. Searches ask for this much
    more. Logits that do not compete, such as masked ones, have no part in it.
    """
    return rounding(logits.dtype) * magnitude(logits, labels)


def rounding(dtype: torch.dtype) -> float:
    """The share of a logit that may be rounding: sums of float32 and float64 add up in an order that varies.

    Logits of less precision were summed in float32, and rounded once at the end.
    """
    eps = torch.finfo(dtype).eps
    return eps if eps > 1e-4 else 16 * eps


@dataclass
class _Slopes:
    """What is known of slopes that are infinite or NaN, for all forms of a model in one batch."""

    met: Tensor  # [1] bool: since the last look, while they were not expected
    left_out: Tensor  # [1] bool: some was taken for 0 although it was expected
    steep: bool | None = None  # whether they are expected; None before the first gradient


class AttackedModel:
    """The attacked model during one batch: logits, gradients, and a count of the forward passes.

    `rows` [n] int64 says which example of the batch each row of the input belongs to, so that attacks may
    drop finished examples and try several variants of one at once. limit: rows that fit into memory at once.
    examples [b] int64: which of the attacked examples the batch holds, for observers. in_parts: `limit` is what memory
    takes, and a graph of more rows is made in parts, at the cost of a pass more.
    Neither the parameters nor their gradients are touched, and callers under torch.no_grad are fine.
    """

    def __init__(
        self,
        model: Model,
        *,
        num_classes: int,
        limit: int,
        queries: Tensor,
        bar: tqdm | None = None,
        examples: Tensor | None = None,
        in_parts: bool = False,
    ):
        self.examples, self.in_parts = examples, in_parts
        self.model, self.num_classes, self.limit, self.queries = model, num_classes, limit, queries
        self._bar, self._done = bar, 0.0
        self._slopes = _Slopes(*torch.zeros(2, 1, dtype=torch.bool, device=queries.device))
        self._once = False  # whether a graph serves for one backward pass only

    def logits(self, x: Tensor, rows: Tensor) -> Tensor:
        """Logits [n,L] of x [n,...]; keeps the graph if x requires a gradient and gradients are enabled."""
        self.queries.index_add_(0, rows, torch.ones_like(rows))
        logits = self.model(x)
        if logits.dtype == torch.float64 != x.dtype:
            logits = logits.to(torch.float32)  # the points are no finer, and searches compute as x does
        for observer in observers:
            observer(x, logits, rows if self.examples is None else self.examples[rows])
        return logits

    @torch.no_grad()
    def predict(self, x: Tensor, rows: Tensor) -> Tensor:
        """Logits [n,L] without a graph, in slices of at most `limit` rows."""
        if len(x) <= self.limit:
            return self.logits(x, rows)
        parts = zip(x.split(self.limit), rows.split(self.limit), strict=True)
        return torch.cat([self.logits(part, row) for part, row in parts])

    def gradients(
        self, x: Tensor, rows: Tensor, *losses: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits [n,L] at x [n,...] and, for each loss (logits -> [n] or scalar), its gradient [n,...] in x.

        One forward pass, one backward pass for each loss. A slope that is infinite or NaN, as that of a root at 0,
        is taken INSIDE the box instead, once the first call or a later `look` has met one; else it becomes 0.
        """
        logits, grads = self._differentiate(x, rows, losses)
        slopes = self._slopes
        if (
            slopes.steep is None
        ):  # found out at the first call and in `look`: each time waits for a GPU's work
            slopes.steep = not all(bool(g.isfinite().all()) for g in grads)
        if slopes.steep:
            _, inner = self._differentiate(x.clamp(INSIDE, 1 - INSIDE), rows, losses)
            grads = [torch.where(g.isfinite(), g, other) for g, other in zip(grads, inner, strict=True)]
        for g in grads:
            (slopes.left_out if slopes.steep else slopes.met).logical_or_(~g.isfinite().all())
        return logits, [g.nan_to_num_(0.0, 0.0, 0.0) for g in grads]

    def look(self) -> None:
        """Finds out whether infinite slopes were met since the last look; waits for a GPU's work."""
        slopes = self._slopes
        if not slopes.steep and bool(slopes.met):
            slopes.steep = True
            slopes.met.zero_()

    def warn(self) -> None:
        """Warns of slopes that were taken for 0 in an attack that has ended."""
        if bool(self._slopes.left_out | self._slopes.met):
            warnings.warn(
                "the gradient of the model is infinite or NaN in some coordinates, which are left out: "
                "the attack may be weaker than it looks",
                RuntimeWarning,
                stacklevel=2,
            )

    def _differentiate(
        self, x: Tensor, rows: Tensor, losses: Sequence[Callable[[Tensor], Tensor]]
    ) -> tuple[Tensor, list[Tensor]]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            logits = self.logits(leaf, rows)
            if not logits.requires_grad:  # a constant, or a model that votes
                raise TypeError(
                    "model must be differentiable: its logits carry no gradient in x (of a vote, attack the network, "
                    "or take an attack that knows votes, such as RegionCW)"
                )
            grads: list[Tensor] = []
            while len(grads) < len(losses):
                more = len(grads) + 1 < len(losses) and not self._once
                value = losses[len(grads)](logits).sum()
                try:
                    grads += torch.autograd.grad(value, leaf, retain_graph=more)
                except RuntimeError as error:  # compiled models may give the buffers of their graph away
                    if not more or "donated" not in str(error):
                        raise
                    self._once = True
                    continue
                if self._once and len(grads) < len(losses):
                    logits = self.logits(leaf, rows)
        return logits.detach(), grads

    def progress(self, share: float) -> None:
        """Tells the progress bar which share of this batch is finished."""
        if self._bar is not None:
            step = share * len(self.queries) - self._done
            if step > 0:
                self._bar.update(step)
                self._done += step


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
            _check_targets(labels, true_labels)
        x, model = _leave_inference_mode(x), runnable(model)
        with evaluating(model):
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
        said = logits.argmax(1)
        right = (said == labels) if self.targeted else (said != labels)
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
        passes = 1 if isinstance(model, RegionClassifier) or plain(model).needs(x).repeats else PASSES
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

    def _succeed(
        self, model: Model, x: Tensor, labels: Tensor, *, limit: int, passes: int
    ) -> tuple[Tensor, Tensor]:
        """Which of x [N,...], as it is handed out, succeed in most of some passes, and the passes spent [N]."""
        hits, spent = torch.zeros_like(labels), torch.zeros_like(labels)
        for _ in range(passes):
            logits, asked = _asked(model, x, limit)
            hits += self._judges(logits, labels)
            spent += asked
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


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def check_inputs(model: Model, x: Tensor, labels: Tensor, *, batch: int | None) -> None:
    """Raises TypeError or ValueError for everything that can be seen without running the model."""
    if not callable(model):
        raise TypeError(f"model must be a module or callable from inputs to logits, got {_kind(model)}")
    if in_training(network_of(model)):
        raise ValueError("model must be in eval mode: call model.eval() first, dropout would blur the attack")
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x must be a float32 or float64 tensor, got {_kind(x)}")
    if x.dim() < 2 or (len(x) > 0 and not x[0].numel()):
        raise ValueError(f"x must have shape [N, ...] with at least one coordinate, got {tuple(x.shape)}")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise TypeError(f"labels must be an int64 tensor, got {_kind(labels)}")
    if labels.shape != x.shape[:1]:
        raise ValueError(f"labels must have shape [{len(x)}], one for each x, got {tuple(labels.shape)}")
    if labels.device != x.device:
        raise ValueError(f"labels must be on the device of x, {x.device}, got {labels.device}")
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ValueError(f"batch must be a positive integer or None, got {batch!r}")
    device = device_of(model)
    if device is not None and device != x.device:
        raise ValueError(f"x must be on the device of the model, {device}, got {x.device}")
    if len(x):
        _check_range(x)


def _check_range(x: Tensor) -> None:
    outside = ~((x >= -TOLERANCE) & (x <= 1 + TOLERANCE))
    if outside.any():
        at = tuple(outside.nonzero()[0].tolist())
        value = float(x[at])
        if value != value:
            raise ValueError(f"x must not contain NaN, got NaN at index {list(at)}")
        raise ValueError(f"x must lie in [0, 1], got {value:.9g} at index {list(at)}")


def check_label_range(labels: Tensor, num_classes: int, *, name: str = "labels") -> None:
    """Raises ValueError unless labels [N] lie in [0, num_classes-1]."""
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        at = int(wrong.nonzero()[0])
        raise ValueError(f"{name} must lie in [0, {num_classes - 1}], got {int(labels[at])} at index {at}")


def _check_targets(labels: Tensor, true_labels: Tensor) -> None:
    if not isinstance(true_labels, Tensor):
        raise TypeError(f"true_labels must be an int64 tensor, got {type(true_labels).__name__}")
    if true_labels.dtype != torch.int64 or true_labels.shape != labels.shape:
        kind = f"{true_labels.dtype} {tuple(true_labels.shape)}"
        raise ValueError(f"true_labels must be int64 of shape {tuple(labels.shape)}, got {kind}")
    same = labels == true_labels
    if same.any():
        at = int(same.nonzero()[0])
        raise ValueError(
            f"a target must differ from the true label, got {int(labels[at])} for both at index {at}"
        )


def clean_logits(model: Model, x: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Logits [N,L] of x [N,...], N >= 1, checked: shape, dtype, NaN, and that they are no probabilities.

    Beside them the forward passes that they took, [N] int64.
    """
    logits, spent = _asked(runnable(model), x, limit)
    wrong = ~logits.isfinite().all(1)
    if wrong.any():
        raise ValueError(f"model must return finite logits, got NaN or infinity for the input at index "
                         f"{int(wrong.nonzero()[0])}")  # fmt: skip
    if isinstance(model, RegionClassifier):
        return logits, spent  # of votes
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-4).all()):
        raise ValueError(
            "model must return logits, got probabilities (every row is nonnegative and sums to 1): "
            "take the softmax off its end, a saturated softmax has no gradient to follow"
        )
    return logits, spent


def check_positive(**values: float) -> None:
    """Raises ValueError naming the first hyperparameter that is not a positive finite number."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive, got {value!r}")


def check_counts(**values: int) -> None:
    """Raises ValueError naming the first hyperparameter that is not a positive integer."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
