"""Points of a vote shared by the processes of a torch.distributed group: each labels a part, the votes are added."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Group = Any  # torch.distributed.ProcessGroup; importing it takes a while, and few need it


class Sharing:
    """What one process has to do with the others of its group; without a group it is alone.

    Every process makes the same calls in the same order, as with all collective operations.
    """

    def __init__(self, group: Group | None = None) -> None:
        self._group: Any = group
        self.rank, self.size = 0, 1
        if group is None:
            return
        import torch.distributed as dist

        if not dist.is_available() or not dist.is_initialized():
            raise ValueError("group needs torch.distributed: call torch.distributed.init_process_group first")
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                "group must be a process group such as torch.distributed.group.WORLD or None, got "
                f"{type(group).__name__}"
            )
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    @property
    def alone(self) -> bool:
        return self.size == 1

    def part(self, count: int) -> tuple[int, int]:
        """Start and stop of this process's part of ``count`` things; the parts differ by one at most."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size

    def first(self, number: int) -> int:
        """``number`` as the first process has it, below 2^63 in size: what timing decides must be one decision."""
        if self.alone:
            return number
        import torch.distributed as dist

        told = torch.tensor([number], dtype=torch.int64, device=self._device())
        dist.broadcast(told, dist.get_global_rank(self._group, 0), group=self._group)
        return int(told)

    def add_(self, votes: Tensor) -> Tensor:
        """``votes``, summed over all processes in place."""
        if not self.alone:
            import torch.distributed as dist

            dist.all_reduce(votes, group=self._group)
        return votes

    def check_same(self, ids: Tensor) -> None:
        """All processes vote on the same examples. Raises ValueError, on all of them."""
        if self.alone:
            return
        import torch.distributed as dist

        place = torch.arange(1, len(ids) + 1, device=ids.device)
        own = (ids * place).sum() ^ len(ids)  # int64 wraps
        ends = torch.stack([own, -own]).to(self._device())
        dist.all_reduce(ends, dist.ReduceOp.MAX, group=self._group)
        if int(ends[0]) != -int(ends[1]):
            raise ValueError(
                f"x and example_ids must be the same in all {self.size} processes of the group, got others"
            )

    def _device(self) -> torch.device:
        import torch.distributed as dist

        if dist.get_backend(self._group) != "nccl":
            return torch.device("cpu")
        bound = getattr(self._group, "bound_device_id", None)
        return bound or torch.device("cuda", torch.cuda.current_device())
