"""Models and training states as safetensors: never code, written whole or not at all, verified when read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .. import models
from ..files import write_atomically

PathLike = str | os.PathLike[str]


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(path: PathLike, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Tensors and a JSON description, with a SHA-256 over both."""
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    text = json.dumps(description, sort_keys=True)
    write_atomically(path, save(plain, {"rcfast": text, "sha256": _digest(plain, text)}))


def read_tensors(path: PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What write_tensors wrote. Raises FileNotFoundError, or ValueError that names the file and its fault."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(os.fspath(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: truncated or damaged, or not a safetensors file ({error})") from error
    if "rcfast" not in metadata or "sha256" not in metadata:
        raise ValueError(f"{path}: a safetensors file, but not one that rcfast wrote")
    if _digest(tensors, metadata["rcfast"]) != metadata["sha256"]:
        raise ValueError(f"{path}: damaged: its content does not have the SHA-256 it was written with")
    return tensors, json.loads(metadata["rcfast"])


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def below_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")
    }


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], path: PathLike) -> None:
    try:
        model.load_state_dict(below_prefix("model", tensors))
    except RuntimeError as error:
        raise ValueError(f"{path}: its tensors do not fit this model ({error})") from error


def architecture_of(model: nn.Module) -> dict[str, Any] | None:
    """What `rcfast.models.build` makes such a network from; None for a network of one's own."""
    own = getattr(model, "architecture", None)
    name = own.get("name") if isinstance(own, Mapping) else None
    known = isinstance(name, str) and (name in models.ARCHITECTURES or models.is_source(name))
    return dict(own) if own is not None and known else None


def described(model: nn.Module) -> dict[str, Any]:
    """What a file says of a model beside its tensors."""
    told = model.described() if isinstance(model, models.Prepared) else None
    return {"architecture": architecture_of(model), "metadata": told}


def save_model(model: nn.Module, path: PathLike, config: Mapping[str, Any] | None = None) -> None:
    """Write the model to one safetensors file, atomically; missing folders are made.

    The file holds its tensors, its architecture (networks of `rcfast.models`) and `config`, anything that
    JSON can say.

    Raises TypeError where `config` is not JSON.
    """
    description = {"kind": "model", **described(model), "config": dict(config or {})}
    write_tensors(path, with_prefix("model", model.state_dict()), description)


def load_model(
    path: PathLike, *, model: nn.Module | None = None, device: torch.device | str = "cpu"
) -> tuple[nn.Module, dict[str, Any]]:
    """(model in evaluation mode, config) of a file of `save_model`, or of a finished training's checkpoint.

    model: needed where the file is of a network of your own; it receives the weights.

    Raises FileNotFoundError; ValueError for a damaged file, one of another kind or model, an unfinished
    training.
    """
    tensors, description = read_tensors(path)
    if description.get("kind") not in ("model", "training"):
        raise ValueError(f"{path}: holds no model")
    if description["kind"] == "training" and description["epoch"] < description["config"]["recipe"]["epochs"]:
        done, all_epochs = description["epoch"], description["config"]["recipe"]["epochs"]
        raise ValueError(
            f"{path}: an unfinished training, {done} of {all_epochs} epochs; resume it by the same call"
        )
    if model is None:
        if description["architecture"] is None:
            raise ValueError(f"{path}: holds a network that is not of rcfast.models; give it as `model`")
        model = models.build(**description["architecture"])
        if isinstance(model, models.Prepared) and description.get("metadata"):
            model.take(description["metadata"])
    load_weights(model, tensors, path)
    return model.to(device).eval(), description["config"]
