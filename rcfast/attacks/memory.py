"""How many rows of a model fit into the memory that is free now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

# Rows beyond which a larger batch was not faster any more: caches on a CPU, occupancy on a GPU.
ROWS_CPU, ROWS_CUDA = 256, 4096


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    available = 2 << 30  # where the system does not tell
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        available = int(lines.get("MemAvailable", "2097152 kB").split()[0]) << 10
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()).isdigit():
        available = min(available, int(text) - int(used.read_text()))
    return max(available, 0)


def saved_bytes(model: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass of model(x)."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x.detach().requires_grad_(True))
    return sum(storages.values())


def rows_that_fit(model: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Rows of x [N,...], N >= 1, that one forward and backward pass can take on half of the free memory.

    The difference between two rows and one leaves the weights out of the account. Gradients and work space
    are taken as twice what autograd saves, and an attack's own state as 16 inputs.
    """
    cap = ROWS_CUDA if x.device.type == "cuda" else ROWS_CPU
    if len(x) == 1:
        return cap
    model = getattr(model, "_orig_mod", model)  # a compiled model would compile anew for the two sizes
    row = max(saved_bytes(model, x[:2]) - saved_bytes(model, x[:1]), 0)
    row = 3 * row + 16 * x[0].numel() * x.element_size()
    return max(1, min(cap, free_bytes(x.device) // (2 * max(row, 1))))
