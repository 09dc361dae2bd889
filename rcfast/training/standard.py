"""Ordinary training."""

from __future__ import annotations

import os
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Split
from ..regions import Region
from ..running import Plain
from .engine import Run, TrainingResult, optimise
from .recipe import recipe_for


def fit(
    model: nn.Module,
    train: Split,
    *,
    validation: Split | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
    noise: Region | None = None,
    **settings: Any,
) -> TrainingResult:
    """Train a classifier in place by cross-entropy, SGD with Nesterov momentum and a one-cycle schedule.

    model: module from x [B,…] in [0,1] to logits [B,L]; the run takes place on its device.
    train, validation: examples x [N,…] float32 in [0,1], y [N] int64 in 0 … L−1. `validation` is only
        measured.
    settings: fields of `Recipe`, such as epochs=8, batch_size=128, lr=0.1; those not given come from the
        recipe measured for the network (`recipe_for`).
    seed: decides the order of the examples, augmentation and dropout. With equal first weights, seed,
        settings and number of threads, one machine gives equal final weights, bit for bit. The caller's
        random state is neither used nor moved.
    checkpoint: file to which each finished epoch is written, atomically. Where it is there already, the run
        goes on from it and ends with the weights it would have had uninterrupted; a finished one is loaded.
    progress: show a bar.
    noise: train on one point of the region around every example, drawn anew in each epoch, in place of the example
        itself: networks for certificates (Cohen et al., 2019; Yang et al., 2020). None: on the examples.

    Raises TypeError or ValueError that names the argument before any work; ValueError for a checkpoint that
    is damaged or of another configuration; FloatingPointError if the loss becomes infinite or NaN.
    """
    recipe = recipe_for(model, **settings)

    def objective(model: Plain, x: Tensor, targets: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(x)
        return F.cross_entropy(logits.float(), targets, label_smoothing=recipe.label_smoothing), logits

    method: dict[str, Any] = {"name": "fit"}
    if noise is not None:
        if not isinstance(noise, Region):
            raise TypeError(f"noise must be a region such as rcfast.Gaussian(0.25), got {noise!r}")
        noise.check(train.x.shape)
        method["noise"] = noise.identity()
    run = Run(
        method=method,
        objective=objective,
        recipe=recipe,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
        noise=noise,
    )
    return optimise(model, train, run, validation=validation)
