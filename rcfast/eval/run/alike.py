"""What all processes of a run, and all runs into one folder, must do alike: parts would differ in their last bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from rcfast import info
from rcfast.cores import cores
from rcfast.eval.run.begun import threads_of
from rcfast.eval.run.config import TRAINED, Config, ConfigError
from rcfast.eval.run.inputs import find_device
from rcfast.eval.run.store import Store
from rcfast.eval.run.team import Team
from rcfast.hardware import auto_means, automatic_dtype

PRECISION = "precision that `auto` means"


@contextmanager
def alike(team: Team, store: Store, config: Config) -> Iterator[tuple[Config, list[str]]]:
    """Settle the numbers of threads and what `auto` precision means, see that the hardware rounds alike.

    Threads and precision are given back afterwards. `auto` is what it is for the first process.

    Threads are those of `config.threads`, else those with which the folder was begun, else this process's share of the
    cores; where fewer networks are to be trained than processes are there, those that train take the others' too.
    Yields the configuration with the threads filled in, and what a report must say of the hardware.
    Raises ConfigError for hardware that differs, unless `config.mixed_hardware` allows it.
    """
    own, training = team.settle("threads", lambda: _threads(team, store, config))
    facts = hardware(find_device(config.device, team))
    auto = team.settle("precision", lambda: facts[PRECISION])
    differences = _differences(team.gather("hardware", facts))
    if differences and not config.mixed_hardware:
        raise ConfigError(
            f"{differences[0]}, so that results would depend on who did what; use like machines, or "
            "--set mixed_hardware=true, which the report says"
        )
    said = [f"Parts were computed on hardware that may round differently: {d}." for d in differences]
    with threads(own), auto_means(getattr(torch, auto)):
        yield dataclasses.replace(config, threads=own, training_threads=training), said


def hardware(device: torch.device) -> dict[str, str]:
    """Return what decides how a process computes on its device, beside its threads."""
    facts = info.environment()
    return {
        "instruction set": str(facts["native"].get("instruction_set")),
        "instruction set of torch": facts["torch_cpu_capability"],
        "torch": str(torch.__version__),
        "rcfast": facts["rcfast"],
        PRECISION: str(automatic_dtype(device)).removeprefix("torch."),
        "GPU": ", ".join(sorted(set(facts["cuda_devices"]))) or "none",
    }


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads for a while; 0 changes nothing."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


def threads_each(store: Store, config: Config, processes: int) -> int:
    """Return how many threads each of so many processes of this host takes."""
    share = torch.get_num_threads() if processes == 1 else max(1, cores() // processes)
    return config.threads or threads_of(store.root)[0] or share


def _threads(team: Team, store: Store, config: Config) -> tuple[int, int]:
    own, (begun, begun_training) = threads_each(store, config, team.here[1]), threads_of(store.root)
    idle = own * max(1, team.here[1] // max(1, sum(name in TRAINED for name in config.defences)))
    settled = bool(config.threads or begun)  # bytes are then those of any number of processes
    return own, config.training_threads or (begun_training if own == begun else own if settled else idle)


def _differences(every: Sequence[dict[str, str]]) -> list[str]:
    """Return in which respects processes differ from the first one."""
    return [
        f"process {rank} has another {name} than process 0 ({value} and {every[0][name]})"
        for rank, own in enumerate(every)
        for name, value in own.items()
        if value != every[0][name]
    ]
