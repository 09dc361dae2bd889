"""Weights from files: safetensors, or PyTorch files read with weights_only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def read_weights(path: str) -> dict[str, Tensor]:
    """The tensors of a file: safetensors, or a PyTorch file of tensors and plain values alone; never code."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what pickle, zip and torch make of a file that is none
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: no file of weights that can be read without running code ({reason})"
        ) from error
    for key in ("state_dict", "model", "model_state_dict", "state_dict_ema"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    tensors = (
        {str(k): v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else {}
    )
    if not tensors:
        raise ValueError(f"{path}: holds no tensors by name")
    for prefix in (
        "module.",
        "_orig_mod.",
        "model/",
    ):  # of DataParallel, of torch.compile, of rcfast's own files
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    if all(name.startswith(("network.", "normalise.")) for name in tensors):  # saved from here
        tensors = {
            name.removeprefix("network."): value
            for name, value in tensors.items()
            if name.startswith("network.")
        }
    return tensors


def classes_of(tensors: Mapping[str, Tensor], network: nn.Module) -> int | None:
    """The number of classes of the weights, if that is all in which they differ from the network."""
    own = network.state_dict()
    differ = {
        (tensors[name].shape[0], value.shape[0], value.shape[1:] == tensors[name].shape[1:])
        for name, value in own.items()
        if name in tensors and value.shape != tensors[name].shape and value.ndim and tensors[name].ndim
    }
    if len(differ) != 1:
        return None
    ((theirs, _, alike),) = differ
    return theirs if alike else None


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: str) -> None:
    own = network.state_dict()
    counted = {name for name in own if name.endswith("num_batches_tracked")}
    missing = sorted(set(own) - set(tensors) - counted)
    strange = sorted(set(tensors) - set(own))
    wrong = sorted(name for name in set(own) & set(tensors) if own[name].shape != tensors[name].shape)
    faults = [
        f"{what} {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        for what, names in (
            ("lacks", missing),
            ("has beyond it", strange),
            ("differs in the shape of", wrong),
        )
        if names
    ]
    if faults:
        raise ValueError(f"{path}: is of another network: it {', and '.join(faults)}")
    network.load_state_dict({**{name: own[name] for name in counted}, **tensors})
