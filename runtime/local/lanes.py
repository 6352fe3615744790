"""A host that attends, for policies whose iterations have lanes: its pool, its cores, and their tables."""

import os
from typing import TYPE_CHECKING

from aquasim.core import Limits
from aquasim.core.hosts import HOST
from aquasim.core.lanes import check
from aquasim.core.policies.base import Policy
from aquasim.runtime.arenas import Arena, create
from aquasim.runtime.copy import Copier, open_copier

if TYPE_CHECKING:
    from aquasim.runtime.engine import Runner


class Host:
    """A runner's host while it runs one policy; `close` takes it away again and frees its memory.

    The pool is the tier "host" itself: pages that are swapped out lie where the host attends to them. Tables are
    measured where none are kept for this machine and engine.

    Raises ValueError where limits and lanes do not go together, ArenaError without the memory, UserError where
    tables cannot be kept.
    """

    def __init__(self, runner: "Runner", policy: Policy, limits: Limits, device: str) -> None:
        from aquasim.calibrate.engine.lanes import ensure
        from aquasim.runtime.engine import HostLanes, KvPool

        check(limits, policy)
        blocks = dict(limits.tiers).get(HOST, 0)
        if not blocks:
            raise ValueError("this policy decodes on the host, and the system's tiers name no host")
        self.arena: Arena = create("host", (blocks + 1) * runner.pool.block_bytes)
        self.arena.scrub()  # touched now, not when the first pages come
        memory = self.arena.tensor()[: (blocks + 1) * runner.pool.block_bytes]
        shape = (runner.pool.layers, limits.block_size, runner.pool.kv_heads, runner.pool.head_dim)
        pool = KvPool(blocks, *shape, dtype=runner.pool.dtype, memory=memory)
        self._copier: Copier | None = None if device == "cpu" else open_copier(0)
        self._runner = runner
        runner.host = HostLanes(
            pool, runner.model.heads, max_seqs=limits.max_num_seqs, device=device, threads=cores(device),
            copier=self._copier,
        )  # fmt: skip
        policy.predictor, self.measured = ensure(runner, limits)

    def close(self) -> None:
        """End its threads and free its memory; closing twice is harmless."""
        if self._runner.host is not None:
            self._runner.host.close()
            self._runner.host = None
        if self._copier is not None:
            self._copier.close()
        self.arena.close()


def cores(device: str) -> int:
    """Return how many cores attend: those that do not compute, and on a GPU's host all but the one that feeds it."""
    import torch

    busy = torch.get_num_threads() if device == "cpu" else 1
    return max(1, (os.cpu_count() or 1) - busy)
