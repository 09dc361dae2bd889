"""Defensive distillation (Papernot et al., 2016)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Images, Split
from ..running import Plain, device_of, evaluating, plain
from .engine import Run, TrainingResult, optimise
from .recipe import Recipe, recipe_for


def fit_distilled(
    make_model: Callable[[], nn.Module],
    train: Split,
    *,
    temperature: float = 100.0,
    validation: Split | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
    **settings: Any,
) -> TrainingResult:
    """Train a teacher with its softmax at `temperature` T, then a student on the teacher's softmax at T.

    The student's logits divided by T are trained; it is used as it is, at T = 1, which makes its logits T
    times larger than usual. The result's `model` is the student, its `teacher` the teacher's result.

    make_model: makes a new model, twice.
    settings: as in `fit`, for both runs, but with Adam at lr = 0.001·√T unless said otherwise: at the logits
        the gradient is 1/T as large as without temperature until they have grown T-fold, and plain gradient
        descent either stays at chance or diverges.
    checkpoint: of the student; the teacher's is beside it, with `-teacher` added to the stem.

    Everything else is as in `fit`.
    """
    teacher_model, student = make_model(), make_model()
    if teacher_model is student:
        raise ValueError("make_model must make a new model at each call, got the same object twice")
    recipe = distilled_recipe(student, temperature=temperature, **settings)

    def objective(model: Plain, x: Tensor, targets: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(x)
        loss = F.cross_entropy(logits.float() / temperature, targets, label_smoothing=recipe.label_smoothing)
        return loss, logits

    method: dict[str, Any] = {"name": "fit_distilled", "temperature": float(temperature), "role": "teacher"}
    run = Run(
        method=method,
        objective=objective,
        recipe=recipe,
        seed=seed,
        progress=progress,
    )
    beside = None if checkpoint is None else Path(checkpoint).with_stem(Path(checkpoint).stem + "-teacher")
    teacher = optimise(teacher_model, train, replace(run, checkpoint=beside), validation=validation)
    soft = soft_labels(teacher.model, train.x, temperature)
    run = replace(run, checkpoint=checkpoint, method={**method, "role": "student"})
    result = optimise(student, train, run, validation=validation, targets=soft)
    return replace(result, teacher=teacher)


def distilled_recipe(model: nn.Module, *, temperature: float, **settings: Any) -> Recipe:
    """The recipe of both runs of `fit_distilled`. Raises ValueError or TypeError that names the setting."""
    if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature!r}")
    return recipe_for(model, **{"optimizer": "adam", "lr": 0.001 * math.sqrt(temperature), **settings})


def soft_labels(model: nn.Module, x: Tensor | Images, temperature: float, batch_size: int = 500) -> Tensor:
    """softmax(model(x) / temperature) [N,L] float32, in evaluation mode."""
    device, run = device_of(model), plain(model)
    with evaluating(model):
        parts = [
            F.softmax(run(part.to(device, copy=True)).float() / temperature, 1)
            for part in x.split(batch_size)
        ]
    return torch.cat(parts)
