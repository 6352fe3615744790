"""Tensor-parallel ranks: processes that add up partial results through torch.distributed."""

from typing import TYPE_CHECKING

import torch
import torch.distributed as distributed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Ranks:
    """One rank's way to the others: gloo between CPUs, NCCL between GPUs.

    `torch.distributed` is initialised by the caller; `group` is its default one if not given. A single rank needs
    neither. Raises RuntimeError where the group has another size or this rank another number.
    """

    def __init__(self, rank: int = 0, world: int = 1, group: "ProcessGroup | None" = None) -> None:
        self.rank, self.world, self._group = rank, world, group
        if world == 1:
            return
        if not distributed.is_available() or not distributed.is_initialized():
            raise RuntimeError(f"{world} ranks need torch.distributed.init_process_group in each first")
        found = (distributed.get_rank(group), distributed.get_world_size(group))
        if found != (rank, world):
            raise RuntimeError(f"torch.distributed says (rank, world) is {found}, not {(rank, world)}")

    def add(self, partial: torch.Tensor) -> torch.Tensor:
        """Return the sum over all ranks, in place; every rank gets the same bits."""
        if self.world > 1:
            distributed.all_reduce(partial, group=self._group)
        return partial

    def join(self, part: torch.Tensor) -> torch.Tensor:
        """Return the parts `[rows, columns]` of all ranks side by side: `[rows, world * columns]`."""
        if self.world == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.world)]
        distributed.all_gather(parts, part.contiguous(), group=self._group)
        return torch.cat(parts, dim=-1)
