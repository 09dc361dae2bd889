"""How many bytes of tensors live at once, counted by their storages: no clock, no allocator, no other process."""

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Inside `with Live() as live:` the storages made there; `live.peak` is the most that lived at once, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id_of(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (
                id_of(tensor) not in given or id_of(tensor) in self._made
            ):
                storage = tensor.untyped_storage()
                self._made[id_of(tensor)] = (StorageWeakRef(storage), storage.nbytes())
        self._made = {k: v for k, v in self._made.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._made.values()))
        return out


def id_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
