"""Who listens to the passes of modules: hooks on one of them, and on all of the process."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules import module as torchs

KINDS = ("forward", "forward_pre", "backward", "backward_pre")
OWN: set[Callable[..., Any]] = set()  # ours on all modules, while a model is looked at: they change nothing


def heard(module: nn.Module) -> bool:
    """Whether a module has hooks."""
    return any(vars(module).get(f"_{kind}_hooks") for kind in KINDS)


def anybody_listens() -> bool:
    """Whether somebody else has a hook on all modules."""
    every = (getattr(torchs, f"_global_{kind}_hooks", {}) for kind in KINDS)
    return any(hook not in OWN for hooks in every for hook in hooks.values())
