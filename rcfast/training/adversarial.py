"""Adversarial training (Goodfellow et al., 2015), with the attack of one's choice."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Split
from ..running import Plain, mode
from .engine import Run, TrainingResult, optimise
from .recipe import recipe_for


def fit_adversarial(
    model: nn.Module,
    train: Split,
    *,
    attack: Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Any] | None = None,
    validation: Split | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
    **settings: Any,
) -> TrainingResult:
    """Train on every example and on one adversarial example of it, made against the current model.

    The loss is the mean of the cross-entropy on both, at the true labels. The model is in evaluation mode while
    it is attacked, in the precision of training. `history` has the accuracy on the clean examples.

    attack: attack(model, x, labels) -> result with `.adversarial`, untargeted: labels are the true ones.
        Default: `rcfast.attacks.DeepFool(iterations=5, candidates=4)`, the paper's choice with 5 of 50
        iterations and 4 of 10 classes: on MNIST the loss of an epoch differs by less than 3% from the full
        attack's. With many iterations take precision="float32": in bfloat16 single examples use them all up.

    Everything else is as in `fit`; a checkpoint also records `repr(attack)`.
    """
    recipe = recipe_for(model, **settings)
    if attack is None:
        from ..attacks import DeepFool

        attack = DeepFool(iterations=5, candidates=4)
    if not callable(attack):
        raise TypeError(f"attack must be callable, got {type(attack).__name__}")
    if getattr(attack, "targeted", False):
        raise ValueError(f"attack must be untargeted, got {attack!r}")

    @functools.lru_cache(maxsize=1)  # what it needs is found out once, not in every batch
    def attacked(model: Plain) -> Plain:
        return Plain(lambda z: model(z).float())

    def objective(model: Plain, x: Tensor, targets: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        low = recipe.dtype(x.device) == torch.bfloat16
        # No cache: an attack also runs without gradients, and its casts of the weights would end ours.
        with (
            mode(model, training=False),
            torch.autocast(x.device.type, torch.bfloat16, low, cache_enabled=False),
        ):
            # In float32 the module itself, whose convolutions then run as in any attack.
            adversarial = attack(attacked(model) if low else model, x, labels).adversarial.detach()
        if adversarial.shape != x.shape:
            shapes = f"{list(x.shape)}, got {list(adversarial.shape)}"
            raise ValueError(f"attack must return adversarial examples of shape {shapes}")
        logits = model(torch.cat([x, adversarial]))
        loss = F.cross_entropy(
            logits.float(), torch.cat([targets] * 2), label_smoothing=recipe.label_smoothing
        )
        return loss, logits[: len(x)]

    method = {
        "name": "fit_adversarial",
        "attack": re.sub(r" at 0x[0-9a-f]+", "", repr(attack)),  # of a function, the same in every process
    }
    run = Run(
        method=method, objective=objective, recipe=recipe, seed=seed, checkpoint=checkpoint, progress=progress
    )
    return optimise(model, train, run, validation=validation)
