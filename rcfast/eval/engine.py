"""One run from configuration to report."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from rcfast import data, info
from rcfast.eval.config import Config, ConfigError
from rcfast.eval.plan import make_plan
from rcfast.eval.progress import Progress
from rcfast.eval.results import OUTPUTS, Results
from rcfast.eval.stages import attack, draw, tabulate, train, vote
from rcfast.eval.stages.context import Context
from rcfast.eval.store import Store, write_atomic


def evaluate(
    config: Config,
    out: Path | str = "rcfast-report",
    *,
    outputs: Sequence[str] = OUTPUTS,
    progress: Progress | None = None,
) -> Results:
    """Run the stages that `outputs` need, reuse what `out` holds already, and write everything there.

    Returns the results document with the times of the stages.
    Raises ConfigError for a setting or input that cannot be used, StageError for a training, attack or vote that
    fails, StoreError for a folder that is locked or a full disk; what was finished stays and is found by the next
    call.
    """
    folder, progress = Path(out), progress or Progress("quiet")
    store = Store(folder, report=progress.print)
    with store.locked():
        ctx = prepare(config, folder, outputs, store, progress)
        train.run(ctx)
        attack.run(ctx)
        vote.run(ctx)
        results = tabulate.run(ctx)
        draw.run(ctx, results)
        results["stages"] = ctx.stages
        write_atomic(folder / "timings.json", json.dumps(ctx.stages, indent=1) + "\n")
    return results


def prepare(config: Config, out: Path, outputs: Sequence[str], store: Store, progress: Progress) -> Context:
    """Load the data and check all settings. Raises ConfigError."""
    device = find_device(config.device)
    dataset = load_data(config)
    plan = make_plan(config, outputs)
    for unit in plan.units:
        attack.make(config, unit)
    ctx = Context(resolved(config, device), plan, store, progress, device, dataset, out)
    for name in plan.networks:
        make, described, _ = train.builder(ctx)
        train.recipe(ctx, name, make, described)
    return ctx


def resolved(config: Config, device: torch.device) -> Config:
    """Return the configuration with what `auto` precision of the votes means on the device of the run."""
    if config.vote.dtype != "auto":
        return config
    dtype = info.precision(device)["dtype"]
    return dataclasses.replace(config, vote=dataclasses.replace(config.vote, dtype=dtype))


def find_device(name: str) -> torch.device:
    """Return the device of a run. Raises ConfigError where there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device takes auto, cpu or cuda, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device takes auto, cpu or cuda, got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: this machine has no usable CUDA device")
    return device


def load_data(config: Config) -> data.Dataset:
    """Return the data set of a run. Raises ConfigError."""
    own = config.data
    try:
        return data.load(own.name, own.root or None, validation=own.validation or None, seed=own.seed)
    except (ValueError, OSError) as error:
        raise ConfigError(f"--dataset {own.name}: {error}") from error
