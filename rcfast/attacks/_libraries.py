"""What runs the attacks of other libraries: each under its own interface, with random numbers of a seed."""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from rcfast.running import modules

if TYPE_CHECKING:
    from rcfast.attacks.external import External

LIBRARIES = {
    "foolbox": ("foolbox.attacks", "foolbox"),
    "art": ("art.attacks.evasion", "adversarial-robustness-toolbox"),
    "torchattacks": ("torchattacks", "torchattacks"),
}

Run = Callable[[nn.Module, Tensor, Tensor], Tensor | None]  # model, x [1,...], label [1] -> example [1,...]


def runner(attack: External) -> Run:
    """A library's attack as a function. Raises ImportError or AttributeError where it is not there."""
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
        one_hot = np.eye(int(classes), dtype=np.float32)[label.cpu().numpy()]  # type: ignore[arg-type]
        with torch.cuda.device(x.device) if x.is_cuda else nullcontext():  # it takes the current one
            wrapped = PyTorchClassifier(
                model,
                nn.CrossEntropyLoss(),
                tuple(x.shape[1:]),
                int(classes),  # type: ignore[arg-type]
                clip_values=(0.0, 1.0),
                device_type=device,
            )
            found = kind(wrapped, **settings).generate(x.cpu().numpy(), one_hot)
        return torch.from_numpy(np.asarray(found)).to(x)

    return run


def _torchattacks(kind: Any, attack: External) -> Run:
    def run(model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
        made = kind(model, **dict(attack.settings))
        made.set_device(x.device)  # which it takes from parameters, and the model has none of its own
        if attack.targeted:
            made.set_mode_targeted_by_label(quiet=True)
        found: Tensor = made(x, label).detach()
        return found

    return run


@contextmanager
def gradients_kept(model: Any) -> Iterator[None]:
    """The gradients of a model's parameters are afterwards what they were: some libraries call backward()."""
    parameters = [p for module in modules(model) for p in module.parameters(recurse=False)]
    gradients = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    try:
        yield
    finally:
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient


@contextmanager
def seeded(seed: int) -> Iterator[None]:
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
