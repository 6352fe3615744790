"""A KV cache whose memory can be lent, extent by extent, while an engine serves from the rest."""

import math
from typing import TYPE_CHECKING, Any

from aquasim.runtime.arenas import ArenaError
from aquasim.runtime.arenas.reserve import Reserved, granularity
from aquasim.runtime.donor.room import host_room
from aquasim.runtime.engine import LlamaConfig

if TYPE_CHECKING:
    import torch

MIB = 1 << 20


class ElasticPool:
    """A `KvPool` over reserved addresses: `extents` extents that hold `per_extent` whole blocks each.

    An extent that is lent is unmapped here and mapped by whoever leases it; it is the same memory. Block n is at the
    same address for ever, so that tables, strides and CUDA graphs hold whatever comes and goes; blocks in
    extents that are away must not be used. The idle block has memory of its own that never leaves.
    """

    def __init__(
        self, config: LlamaConfig, blocks: int, block_size: int = 16, *, extent_bytes: int = 256 * MIB,
        backend: str = "memfd", place: int | str | None = None, dtype: "torch.dtype | None" = None,
        device: "str | torch.device" = "cpu", fill: float | None = None,
    ) -> None:  # fmt: skip
        """Take memory for `blocks` blocks, rounded down to whole extents of about `extent_bytes` bytes.

        Extents are multiples of a block and of the back end's pages (4 KiB of host memory, 2 MiB of a GPU's). Raises
        ArenaError without that much memory, ValueError where not one extent comes out.
        """
        import torch

        from aquasim.runtime.engine import KvPool

        dtype = torch.float32 if dtype is None else dtype
        step = granularity(backend, place)
        self.block_bytes = _block_bytes(config, block_size, dtype)
        unit = math.lcm(self.block_bytes, step)
        self.extent_bytes = unit * max(1, extent_bytes // unit)
        self.per_extent = self.extent_bytes // self.block_bytes
        self.extents = blocks // self.per_extent
        if not self.extents:
            small = f"{blocks} blocks of {self.block_bytes} bytes"
            raise ValueError(f"{small} fill no extent; the smallest is {unit} bytes")
        idle = -(-self.block_bytes // step) * step
        sizes = [self.extent_bytes] * self.extents + [idle]
        _check_room(backend, sum(sizes))
        self.memory = Reserved(backend, sizes, place=place)
        options: dict[str, Any] = {"dtype": dtype, "device": device, "fill": fill}
        self.pool = KvPool.of(config, self.blocks, block_size, memory=self.memory.tensor(), **options)
        """For the runner."""

    @property
    def blocks(self) -> int:
        """Blocks of all extents."""
        return self.extents * self.per_extent

    def close(self) -> None:
        """Let go of the memory; the pool must not be used any more."""
        self.memory.close()


def _block_bytes(config: LlamaConfig, block_size: int, dtype: "torch.dtype") -> int:
    heads = config.shard().kv_heads
    return config.layers * 2 * block_size * heads * config.head_dim * dtype.itemsize


def _check_room(backend: str, nbytes: int) -> None:
    """Raise ArenaError where host memory would not do: the kernel does not refuse, it kills somebody later."""
    room = host_room() if backend == "memfd" else None
    if room is not None and nbytes > room:
        raise ArenaError(f"a cache of {nbytes} bytes is wanted, and {room} can still be taken here")
