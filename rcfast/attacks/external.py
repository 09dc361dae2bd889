"""Attacks of Foolbox, ART and torchattacks, by name: counted, bounded and judged as ours are."""

from __future__ import annotations

import importlib
import math
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from itertools import count
from types import ModuleType
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from rcfast.attacks._sampled import Sampled, SampledAttack, key
from rcfast.attacks.inputs import check_counts
from rcfast.attacks.margins import hits
from rcfast.attacks.result import Noise, check_norm

__all__ = ["External", "external"]

LIBRARIES = {
    "foolbox": ("foolbox.attacks", "foolbox"),
    "art": ("art.attacks.evasion", "adversarial-robustness-toolbox"),
    "torchattacks": ("torchattacks", "torchattacks"),
}


class _Spent(Exception):
    """The budget of queries is spent: the library is left where it stands."""


class _Asked(nn.Module):
    """What a library attacks, for one example: answers, counts, stops at the budget, and keeps the best success seen.

    Votes per label in the place of logits; or, where the attack needs gradients, the logarithm of the mean softmax over
    fresh points of the region.
    """

    def __init__(self, attack: External, vote: Sampled, x: Tensor, label: Tensor, row: Tensor) -> None:
        super().__init__()
        self._attack, self._vote, self._x, self._label, self._row = attack, vote, x, label, row
        self.asked, self.best, self.noise = 0, x, math.inf

    def forward(self, x: Tensor) -> Tensor:
        left = self._attack.queries - self.asked
        if left <= 0:
            raise _Spent
        given = x[:left]
        self.asked += len(given)
        inputs = given.to(self._x.dtype).clamp(0, 1)
        answers = self._differentiable(inputs) if self._attack.points else self.look(inputs)
        if len(given) < len(x):
            raise _Spent
        return answers.to(x.dtype)

    def look(self, x: Tensor) -> Tensor:
        """What is answered for x [n,...]: [n,L]; the least noisy success among them is kept."""
        answers = self._vote.answers(x, self._row.expand(len(x)))
        won = hits(answers.detach(), self._label, targeted=self._attack.targeted)
        noise = Noise.between(x.detach(), self._x.expand_as(x)).of(self._attack.norm)
        noise = noise.masked_fill(~won, math.inf)
        if len(x) and float(noise.min()) < self.noise:
            self.noise, self.best = float(noise.min()), x.detach()[int(noise.argmin())][None].clone()
        return answers

    def _differentiable(self, x: Tensor) -> Tensor:
        logits = self._vote.differentiable(
            x, self._row.expand(len(x)), first=self.asked * self._attack.points, samples=self._attack.points
        )
        return logits.log_softmax(2).logsumexp(1) - math.log(logits.shape[1])


@dataclass(frozen=True, kw_only=True)
class External(SampledAttack):
    """An attack of another library; made by :func:`external`."""

    name: str
    settings: tuple[tuple[str, Any], ...] = field(default=())
    norm: float = 2  # type: ignore[misc]
    targeted: bool = False  # type: ignore[misc]
    queries: int = 10_000
    points: int = 0
    rolling: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self.norm)
        check_counts(queries=self.queries)
        library, _, attack = self.name.partition(":")
        if library not in LIBRARIES or not attack:
            raise ValueError(f"name must be LIBRARY:ATTACK, of {', '.join(LIBRARIES)}, got {self.name!r}")
        if isinstance(self.points, bool) or not isinstance(self.points, int) or self.points < 0:
            raise ValueError(f"points must be a count, or 0 for votes, got {self.points!r}")

    def __repr__(self) -> str:
        named = [f"{name}={value!r}" for name, value in self.settings]
        defaults = {"norm": 2, "targeted": False, "queries": 10_000, "points": 0, "seed": 0}
        named += [f"{k}={getattr(self, k)!r}" for k, v in defaults.items() if getattr(self, k) != v]
        return f"external({', '.join([repr(self.name), *named])})"

    @property
    def version(self) -> str:
        """Of the library, which decides what is found; empty where it is not there, which `find` tells."""
        try:
            return metadata.version(LIBRARIES[self.name.partition(":")[0]][1])
        except metadata.PackageNotFoundError:
            return ""

    def find(self) -> Run:
        """The library's attack. Raises ImportError or AttributeError where it is not there."""
        return _runner(self)

    def _search(self, vote: Sampled, x: Tensor, labels: Tensor) -> Tensor:
        run = _runner(self)
        found = x.clone()
        for i in range(len(x)):
            row = torch.tensor([i], device=x.device)
            asked = _Asked(self, vote, x[i : i + 1], labels[i : i + 1], row).eval()
            given = x[i : i + 1].to(torch.float32)
            with _seeded(key(self.seed, f"external {int(vote.ids[i])}")):
                try:
                    handed = run(asked, given, labels[i : i + 1])
                except _Spent:
                    handed = None
            found[i] = self._better(asked, handed)[0]
            vote.network.progress((i + 1) / len(x))
        return found

    def _better(self, asked: _Asked, handed: Tensor | None) -> Tensor:
        """The least noisy success [1,...] among the queries and what the library handed out; the latter if none."""
        if handed is None or not bool(handed.isfinite().all()):
            return asked.best
        last = handed.to(asked.best.dtype).clamp(0, 1)
        asked.look(last)
        return asked.best if asked.noise < math.inf else last


def external(
    name: str,
    *,
    norm: float = 2,
    targeted: bool = False,
    queries: int = 10_000,
    points: int = 0,
    seed: int = 0,
    **settings: Any,
) -> External:
    """An attack of another library as one of ours: `external("foolbox:HopSkipJumpAttack", steps=20)`.

    name: LIBRARY:ATTACK, of `foolbox`, `art` (Adversarial Robustness Toolbox) or `torchattacks`, and the name of the
    attack there. norm: 0, 2 or inf, in which its examples are compared. targeted: labels are targets, where the attack
    can be. queries: the most inputs that it may ask about, for each example; it is stopped there. points: 0: it sees
    the votes per label in place of logits (decision- and score-based attacks); k: the logarithm of the mean softmax
    over k fresh points of the region at each query, with a gradient. A plain network answers with its logits. seed: of
    the library's own random numbers, and of the points. settings: the attack's own, by name; Foolbox's attacks of a
    given length take `epsilons=`.

    Examples run one at a time, so that each is the same whoever else is attacked. The example handed out is the least
    noisy one among all that the library asked about and that the vote called a success, or what the library returned.

    Raises ValueError for another library, norm or budget; ImportError where the library is not installed (pip install
    'rcfast[peers]'); AttributeError where it has no such attack; what the library raises for its settings.
    """
    return External(
        name=name,
        settings=tuple(sorted(settings.items())),
        norm=norm,
        targeted=targeted,
        queries=queries,
        points=points,
        seed=seed,
    )


Run = Callable[[nn.Module, Tensor, Tensor], Tensor | None]  # model, x [1,...], label [1] -> example [1,...]


def _runner(attack: External) -> Run:
    library, _, name = attack.name.partition(":")
    module, package = LIBRARIES[library]
    try:
        found: ModuleType = importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{attack.name} needs {package}, which does not import ({error}): pip install 'rcfast[peers]'"
        ) from error
    if not hasattr(found, name):
        raise AttributeError(f"{module} has no attack {name!r}")
    runs = {"foolbox": _foolbox, "art": _art, "torchattacks": _torchattacks}
    return runs[library](getattr(found, name), attack)


def _foolbox(kind: Any, attack: External) -> Run:
    import foolbox

    settings = dict(attack.settings)
    epsilons = settings.pop("epsilons", None)
    made = kind(**settings)
    wanted = (
        foolbox.criteria.TargetedMisclassification if attack.targeted else foolbox.criteria.Misclassification
    )

    def run(model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        found: Tensor = made(wrapped, x, wanted(label), epsilons=epsilons)[1]
        return found

    return run


def _art(kind: Any, attack: External) -> Run:
    from art.estimators.classification import PyTorchClassifier

    settings = dict(attack.settings)
    if attack.targeted:
        settings["targeted"] = True
    if "verbose" in kind.attack_params:
        settings.setdefault("verbose", False)

    def run(model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
        classes = model._vote.network.num_classes  # type: ignore[union-attr]
        device = "gpu" if x.is_cuda else "cpu"
        wrapped = PyTorchClassifier(
            model,
            nn.CrossEntropyLoss(),
            tuple(x.shape[1:]),
            int(classes),  # type: ignore[arg-type]
            clip_values=(0.0, 1.0),
            device_type=device,
        )
        one_hot = np.eye(int(classes), dtype=np.float32)[label.cpu().numpy()]  # type: ignore[arg-type]
        found = kind(wrapped, **settings).generate(x.cpu().numpy(), one_hot)
        return torch.from_numpy(np.asarray(found)).to(x)

    return run


def _torchattacks(kind: Any, attack: External) -> Run:
    def run(model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
        made = kind(model, **dict(attack.settings))
        if attack.targeted:
            made.set_mode_targeted_by_label(quiet=True)
        found: Tensor = made(x, label).detach()
        return found

    return run


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global random numbers of torch, numpy and Python by this seed inside; afterwards as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    made = count()

    class Seeded(np.random.RandomState):
        """ART makes generators without a seed."""

        def __init__(self, own: int | None = None) -> None:
            super().__init__((seed + next(made)) & 0xFFFFFFFF if own is None else own)

    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with (
        torch.random.fork_rng(devices=devices),
        torch.inference_mode(False),
        torch.enable_grad(),
        warnings.catch_warnings(),
        patch.object(np.random, "RandomState", Seeded),
    ):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed & (2**63 - 1))
        np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
