"""How many rows of a model fit into the memory that is free now."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rcfast.running import eager, unwrapped

# Rows beyond which a larger batch was not faster any more: caches on a CPU, occupancy on a GPU.
ROWS_CPU, ROWS_CUDA = 256, 4096
# What attacks hold beside autograd, in inputs: by counting the storages that live at once.
HELD = 27  # a row in a pass; CW-L0, the most
WHOLE = 6  # an example, wherever it stands
COPIES = (
    9  # of the weights of 3×3 convolutions, where they run on our kernel: what a process grew by on ResNet-18
)
ASSUMED = 150  # saved by autograd for a row, where it cannot be asked; a ResNet-20 saves 124, a ResNet-50 142


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free_of_system(Path("/"))


def free_of_system(root: Path) -> int:
    """Bytes of memory that this process can still take: those free, and left by the limits that it runs under.

    root: where the file system begins.
    """
    meminfo = _numbers(root / "proc/meminfo")
    available = meminfo.get("MemAvailable:", 2 << 20) << 10  # 2 GiB where the system does not tell
    return max(0, min([available, *_left_by_groups(root), *_left_of_addresses(root)]))


def _left_by_groups(root: Path) -> Iterator[int]:
    """Bytes left by every control group with a limit that holds this process, of version 2 and 1.

    Pages of files that the kernel drops before it refuses memory count as free.
    """
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, most, used, cached = "", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, most, used = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        top_folder, inside = root / "sys/fs/cgroup" / top, Path(path.lstrip("/"))
        for folder in (top_folder / inside, *(top_folder / parent for parent in inside.parents)):
            limit, taken = _first(folder / most), _first(folder / used)
            if limit.isdigit() and taken.isdigit():  # "max" where there is none; in a container the top alone
                yield int(limit) - int(taken) + _numbers(folder / "memory.stat").get(cached, 0)


def _left_of_addresses(root: Path) -> Iterator[int]:
    """Bytes that ``ulimit -v`` leaves."""
    limits, pages = _lines(root / "proc/self/limits"), _first(root / "proc/self/statm").split()
    soft = next((line.split()[3] for line in limits if line.startswith("Max address space")), "")
    if soft.isdigit() and pages:
        yield int(soft) - int(pages[0]) * mmap.PAGESIZE


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _first(path: Path) -> str:
    return next(iter(_lines(path)), "")


def _numbers(path: Path) -> dict[str, int]:
    """The first number of every line, by the word before it."""
    words = (line.split() for line in _lines(path))
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdigit()}


def saved_bytes(model: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass of model(x)."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided:  # sparse weights have no storage, and are no part of a row
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # A copy: some models change what they are given, and what is kept of a view is all that it is a view of.
        model(x.detach().clone().requires_grad_(True))
    return sum(storages.values())


def rows_that_fit(model: Callable[[Tensor], Tensor], x: Tensor, held: int = HELD) -> int:
    """Rows of x [N,...], N >= 1, that one forward and backward pass can take, so that half of the free memory suffices.

    The difference between two rows and one leaves the weights out of the account. Gradients and work space
    are taken as twice what autograd saves; an attack's own state is `held` inputs a row, and WHOLE ones for each
    example that it was given.
    """
    cap = ROWS_CUDA if x.device.type == "cuda" else ROWS_CPU
    input_bytes = x[0].numel() * x.element_size()
    free = free_bytes(x.device)
    copies = copied_bytes(model) if copies_fit(model, x, free) else 0
    budget = max(free // 2 - copies - WHOLE * len(x) * input_bytes, free // 16)
    row = 3 * _saved_by_a_row(model, x) + held * input_bytes
    return max(1, min(cap, budget // max(row, 1)))


def copied_bytes(model: Callable[[Tensor], Tensor]) -> int:
    """Bytes that faster convolutions take beside the weights of a module."""
    module = unwrapped(model)
    parts = module.modules() if isinstance(module, nn.Module) else ()
    found = [part for part in parts if isinstance(part, nn.Conv2d) and not is_lazy(part.weight)]
    return sum(part.weight.nbytes * (COPIES if part.kernel_size == (3, 3) else 1) for part in found)


def copies_fit(model: Callable[[Tensor], Tensor], x: Tensor, free: int | None = None) -> bool:
    """Whether x [N,...] are images on a CPU, and faster convolutions take little of the free memory: an eighth."""
    if x.device.type != "cpu" or x.dim() != 4:
        return False
    return 8 * copied_bytes(model) <= (free_bytes(x.device) if free is None else free)


def _saved_by_a_row(model: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Bytes that autograd keeps for one row of x [N,...]; a guess where that cannot be found out."""
    model = eager(model)  # a compiled model would compile anew for the two sizes
    try:
        return max(saved_bytes(model, x[[0, -1]]) - saved_bytes(model, x[:1]), 0)
    except Exception:  # function transforms forbid the hooks; what is wrong with the model itself shows later
        return ASSUMED * x[0].numel() * x.element_size()
