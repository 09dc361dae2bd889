"""What a run is given by its configuration: the device, the precision of its votes, the data."""

import dataclasses

import torch
from torch import nn

from rcfast import data, info, models
from rcfast.eval.run.config import Config, ConfigError
from rcfast.eval.run.team import Team
from rcfast.running import plain


def resolved(config: Config, device: torch.device) -> Config:
    """Return the configuration with what `auto` precision of the votes means on the device of the run.

    It stays `auto` where that depends on the region, see voter.precision.
    """
    dtype = info.precision(device)["dtype"]
    if config.vote.dtype != "auto" or dtype != "float32":
        return config
    return dataclasses.replace(config, vote=dataclasses.replace(config.vote, dtype=dtype))


def find_device(name: str, team: Team) -> torch.device:
    """Return the device of a run; of the GPUs of a host, each process takes its own.

    Raises ConfigError where there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device takes auto, cpu or cuda, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device takes auto, cpu or cuda, got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: this machine has no usable CUDA device")
    if name == "cuda" and team.size > 1:
        place, there = team.here[0], torch.cuda.device_count()
        if place >= there:
            raise ConfigError(f"--device cuda: {team.here[1]} processes on this host, but {there} GPUs")
        device = torch.device("cuda", place)
    if device.type == "cuda" and device.index is None:  # by its number, the same for any number of processes
        device = torch.device("cuda", torch.cuda.current_device())
    return device


def load_data(config: Config, given: nn.Module | None = None, *, progress: bool = False) -> data.Dataset:
    """Return the data set of a run, prepared as its network wants it. Raises ConfigError.

    given: the user's own network; it may know more classes than the data show.
    """
    own, source = config.data, config.model.source
    try:
        own_words = given.metadata if isinstance(given, models.Prepared) else None
        about = models.metadata(source, config.model.weights) if models.is_source(source) else own_words
        classes = own_words.classes if own_words is not None else ()
        loaded = data.load(
            own.name,
            own.root or None,
            validation=own.validation or None,
            test=own.test or None,
            seed=own.seed,
            size=own.size or None,
            preparation=about.preparation if about is not None and not own.size else None,
            classes=classes or None,
            some_classes=given is not None,
            progress=progress,
        )
    except (ValueError, OSError, ImportError) as error:
        raise ConfigError(f"--dataset {own.name}: {error}") from error
    return (
        loaded if given is None else dataclasses.replace(loaded, num_classes=_labels(given, loaded, source))
    )


def _labels(given: nn.Module, dataset: data.Dataset, source: str) -> int:
    """Return the number of classes of the user's network. Raises ConfigError where the data know others."""
    try:
        labels = plain(given).needs(dataset.test.x[:1]).labels
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--model {source}: {error}") from error
    if labels < dataset.num_classes:
        raise ConfigError(
            f"--model {source}: knows {labels} classes, and {dataset.name} has labels up to {dataset.num_classes - 1}"
        )
    return labels
