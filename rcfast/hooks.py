"""Hooks on all modules of the process: ours, which change nothing, and others'."""

from collections.abc import Callable
from typing import Any

from torch.nn.modules import module as torchs

OWN: set[Callable[..., Any]] = set()  # there while a model is looked at


def anybody_listens() -> bool:
    """Whether somebody else has a hook on all modules."""
    kinds = ("forward", "forward_pre", "backward", "backward_pre")
    return any(
        hook not in OWN for kind in kinds for hook in getattr(torchs, f"_global_{kind}_hooks", {}).values()
    )
