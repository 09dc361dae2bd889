"""The loop under fit, fit_adversarial and fit_distilled, which differ in objective and targets only."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..data import Split
from ..hardware import deterministic
from ..regions import Region, sample
from ..running import Plain, device_of, mode, plain
from .accuracy import evaluate
from .checkpoints import (
    architecture_of,
    below_prefix,
    described,
    load_weights,
    read_tensors,
    with_prefix,
    write_tensors,
)
from .checks import check_model, check_run, check_split
from .recipe import Recipe

# (model, x [B,…], targets [B] or [B,L], labels [B]) -> (loss to minimise, logits [B,L] of the clean examples)
Objective = Callable[[Plain, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What a training run gave.

    model: the trained model, in evaluation mode.
    history: for each epoch its number `epoch` (from 1), mean `loss`, `accuracy` on the training examples as
        they were seen, `seconds`, and `validation` accuracy where a validation set was given.
    seconds: time of all epochs, those before a resumption included.
    accuracy: on the validation set after the last epoch; None without one.
    teacher: of a distillation, its first run.
    """

    model: nn.Module
    history: list[dict[str, float]] = field(repr=False)
    seconds: float
    accuracy: float | None
    teacher: TrainingResult | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run: what decides its outcome, apart from model and data, and where it is kept."""

    method: dict[str, Any]
    objective: Objective
    recipe: Recipe
    seed: int = 0
    checkpoint: str | os.PathLike[str] | None = None
    progress: bool = False
    noise: Region | None = None  # the examples are replaced by points of it


def optimise(
    model: nn.Module, data: Split, run: Run, *, validation: Split | None, targets: Tensor | None = None
) -> TrainingResult:
    """Train `model` in place. targets: [N,L] soft labels; default: the labels of `data`."""
    check_run(run.seed, run.checkpoint)
    check_split(data, "train")
    if data.x.ndim != 4 and (run.recipe.shift or run.recipe.flip):
        raise ValueError(f"shift and flip need images [N,C,H,W], got {list(data.x.shape)}")
    num_classes = check_model(model, data)
    check_split(data, "train", num_classes)
    if validation is not None:
        check_split(validation, "validation", num_classes, shape=data.x.shape[1:])
    device = device_of(model)
    assert device is not None
    # Resolved before it is compared: a run that goes on elsewhere would change its precision half-way.
    run = replace(run, recipe=run.recipe.on(device))
    config = _configuration(model, data, run, targets) if run.checkpoint is not None else {}
    loop = _Loop(model, device, data, run, targets)
    history = _resume(loop, run.checkpoint, config)
    steps = loop.steps
    with (
        tqdm(
            total=run.recipe.epochs * steps,
            initial=len(history) * steps,
            unit="batch",
            disable=not run.progress,
        ) as bar,
        _reproducible(loop.device),
        _formatted(model, loop.format),
    ):
        while len(history) < run.recipe.epochs:
            history.append(loop.epoch(len(history), bar))
            if validation is not None:
                history[-1]["validation"] = float(evaluate(model, validation))
            bar.set_postfix(
                {
                    key: f"{history[-1][key]:.4f}"
                    for key in ("loss", "accuracy", "validation")
                    if key in history[-1]
                }
            )
            if run.checkpoint is not None:
                _save(loop, run.checkpoint, config, history)
    model.eval()
    accuracy = None if validation is None else float(evaluate(model, validation))
    return TrainingResult(model, history, sum(row["seconds"] for row in history), accuracy)


class _Loop:
    """The state of a run: model, optimiser, and the examples on the model's device."""

    def __init__(
        self, model: nn.Module, device: torch.device, data: Split, run: Run, targets: Tensor | None
    ) -> None:
        self.model, self.run, self.device = model, run, device
        self.data = data.to(device)
        self.targets = self.data.y if targets is None else targets.to(device)
        self.steps = math.ceil(len(data) / run.recipe.batch_size)
        parameters = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": run.recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        lr, momentum = run.recipe.lr, run.recipe.momentum
        self.optimizer: torch.optim.Optimizer
        if run.recipe.optimizer == "adam":
            self.optimizer = torch.optim.AdamW(groups, lr, betas=(momentum, 0.999))
        else:
            self.optimizer = torch.optim.SGD(groups, lr, momentum, nesterov=True)
        self.plain = plain(model)
        few = data.x[:1].to(device)
        last = run.recipe.channels_last and self.plain.reformatted(few) is not self.plain
        self.format = torch.channels_last if last else torch.contiguous_format

    def epoch(self, number: int, bar: Any) -> dict[str, float]:
        """One pass over the examples, which depends on nothing but the state and (seed, number)."""
        recipe, begin = self.run.recipe, time.perf_counter()
        generator = torch.Generator().manual_seed(_derived(self.run.seed, number, "order"))
        _seed_layers(_derived(self.run.seed, number, "layers"), self.device)
        loss_sum = torch.zeros((), device=self.device, dtype=torch.float64)
        correct = torch.zeros((), device=self.device, dtype=torch.int64)
        batches = (
            torch.randperm(len(self.data), generator=generator, device="cpu")
            .to(self.device)
            .tensor_split(self.steps)
        )
        with mode(self.model, training=True):
            for step, index in enumerate(batches):
                for group in self.optimizer.param_groups:
                    group["lr"] = recipe.learning_rate(number * self.steps + step, recipe.epochs * self.steps)
                x = self._noisy(
                    augment(self.data.x[index].to(self.device), recipe.shift, recipe.flip, generator),
                    index,
                    number,
                )
                x = x.contiguous(memory_format=self.format)
                labels = self.data.y[index]
                with torch.autocast(
                    self.device.type, torch.bfloat16, enabled=recipe.dtype(self.device) == torch.bfloat16
                ):
                    loss, logits = self.run.objective(self.plain, x, self.targets[index], labels)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                loss_sum += loss.detach().double() * len(index)
                correct += (logits.detach().argmax(1) == labels).sum()
                bar.update()
        row = {
            "epoch": number + 1,
            "loss": float(loss_sum) / len(self.data),
            "accuracy": int(correct) / len(self.data),
        }
        if not math.isfinite(row["loss"]):
            raise FloatingPointError(
                f"the loss became {row['loss']} in epoch {number + 1}; lr is {recipe.lr}: try less"
            )
        return {**row, "seconds": time.perf_counter() - begin}

    def _noisy(self, x: Tensor, index: Tensor, epoch: int) -> Tensor:
        """A point of the noise's region around each of ``x`` [B, ...]: a function of seed, epoch and example."""
        if self.run.noise is None:
            return x
        region = self.run.noise.to(x.device).take(index)
        seed = _derived(self.run.seed, epoch, "noise")
        return sample(x, region, 1, seed=seed, example_ids=index)[:, 0]


def augment(x: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """x [B,C,H,W], each image moved by up to `shift` pixels (filled with 0) and half of them mirrored."""
    rows = torch.arange(len(x), device=x.device)
    if shift:
        height, width = x.shape[2:]
        offset = torch.randint(2 * shift + 1, (2, len(x)), generator=generator, device="cpu").to(x.device)
        windows = nn.functional.pad(x, (shift,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        x = windows[rows, :, offset[0], offset[1]]
    if flip:
        mirrored = (torch.rand(len(x), generator=generator, device="cpu") < 0.5).to(x.device)
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    return x


def _derived(seed: int, epoch: int, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch} {purpose}".encode()).digest()[:8], "little") >> 1


def _seed_layers(seed: int, device: torch.device) -> None:
    """Dropout draws from the default generator; _reproducible gives the caller's state back afterwards."""
    torch.random.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def _formatted(model: nn.Module, form: torch.memory_format) -> Iterator[None]:
    """The weights in a memory format inside; afterwards as they lay, so that they round like a loaded model's."""
    before = [(tensor, tensor.stride()) for tensor in (*model.parameters(), *model.buffers())]
    try:
        if form == torch.channels_last:
            model.to(memory_format=torch.channels_last)
        yield
    finally:
        for tensor, stride in before:
            if tensor.stride() != stride:
                laid = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device)
                tensor.data = laid.copy_(tensor.data)


@contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """The global random state is kept for the caller, and cuDNN takes deterministic algorithms only."""
    with deterministic(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _configuration(model: nn.Module, data: Split, run: Run, targets: Tensor | None) -> dict[str, Any]:
    """What a checkpoint must agree on before its run may go on."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    config = {
        "method": run.method,
        "recipe": asdict(run.recipe),
        "seed": run.seed,
        "data": data.fingerprint,
        "architecture": architecture_of(model),
        "tensors": hashlib.sha256(str(shapes).encode()).hexdigest(),
    }
    if targets is not None:
        config["targets"] = hashlib.sha256(targets.detach().cpu().contiguous().numpy().data).hexdigest()
    plain: dict[str, Any] = json.loads(json.dumps(config))  # as a checkpoint holds it
    return plain


def _save(
    loop: _Loop, path: str | os.PathLike[str], config: dict[str, Any], history: list[dict[str, float]]
) -> None:
    tensors = with_prefix("model", loop.model.state_dict())
    if len(history) < loop.run.recipe.epochs:
        for index, state in loop.optimizer.state_dict()["state"].items():
            tensors |= with_prefix(f"optimizer/{index}", state)
    description = {
        "kind": "training",
        **described(loop.model),
        "config": config,
        "epoch": len(history),
        "history": history,
    }
    write_tensors(path, tensors, description)


def _resume(
    loop: _Loop, path: str | os.PathLike[str] | None, config: dict[str, Any]
) -> list[dict[str, float]]:
    """Load the state at `path` if there is one; its history so far."""
    if path is None or not Path(path).exists():
        return []
    tensors, description = read_tensors(path)
    if description.get("kind") != "training":
        raise ValueError(f"checkpoint {path} is not of a training run")
    _same(description["config"], config, path)
    load_weights(loop.model, tensors, path)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in below_prefix("optimizer", tensors).items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = tensor
    groups = loop.optimizer.state_dict()["param_groups"]
    loop.optimizer.load_state_dict({"state": state, "param_groups": groups})
    return description["history"]


def _same(there: dict[str, Any], here: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Raise ValueError that names the first difference between two configurations."""
    flat = [dict(_flat(config)) for config in (there, here)]
    for key in sorted(flat[0].keys() | flat[1].keys()):
        values = [config.get(key) for config in flat]
        if values[0] != values[1]:
            raise ValueError(
                f"checkpoint {path} is of another configuration: {key} is {values[0]!r} there and "
                f"{values[1]!r} here; choose another path, or delete it to start anew"
            )


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
