"""How many rows of a model fit into the memory that is free now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from rcfast.running import eager

# Rows beyond which a larger batch was not faster any more: caches on a CPU, occupancy on a GPU.
ROWS_CPU, ROWS_CUDA = 256, 4096
# What attacks hold beside autograd, in inputs: by counting the storages that live at once.
HELD = 24  # a row in a pass; CW-L0, the most
WHOLE = 6  # an example, wherever it stands
ASSUMED = 150  # saved by autograd for a row, where it cannot be asked; a ResNet-20 saves 124, a ResNet-50 142


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
        if tensor.layout == torch.strided:  # sparse weights have no storage, and are no part of a row
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x.detach().requires_grad_(True))
    return sum(storages.values())


def rows_that_fit(model: Callable[[Tensor], Tensor], x: Tensor, held: int = HELD) -> int:
    """Rows of x [N,...], N >= 1, that one forward and backward pass can take, so that half of the free memory suffices.

    The difference between two rows and one leaves the weights out of the account. Gradients and work space
    are taken as twice what autograd saves; an attack's own state is `held` inputs a row, and WHOLE ones for each
    example that it was given.
    """
    cap = ROWS_CUDA if x.device.type == "cuda" else ROWS_CPU
    if len(x) == 1:
        return cap
    input_bytes = x[0].numel() * x.element_size()
    free = free_bytes(x.device)
    budget = max(free // 2 - WHOLE * len(x) * input_bytes, free // 16)
    row = 3 * _saved_by_a_row(model, x) + held * input_bytes
    return max(1, min(cap, budget // max(row, 1)))


def _saved_by_a_row(model: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Bytes that autograd keeps for one row of x [N,...], N >= 2; a guess where that cannot be found out."""
    model = eager(model)  # a compiled model would compile anew for the two sizes
    try:
        return max(saved_bytes(model, x[:2]) - saved_bytes(model, x[:1]), 0)
    except Exception:  # function transforms forbid the hooks; what is wrong with the model itself shows later
        return ASSUMED * x[0].numel() * x.element_size()
