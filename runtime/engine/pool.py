"""The paged KV cache: one tensor, one contiguous stretch of bytes per block, so that a block is one copy."""

from typing import Any, Self

import torch

from aquasim.runtime.engine.config import LlamaConfig


class KvPool:
    """Keys and values of `blocks` blocks: `[blocks, layers, 2, block_size, kv_heads, head_dim]`.

    Block n is `block_bytes` bytes at address `base + n * block_bytes`, on the CPU or a GPU, for a copier to move.
    One more block, `idle`, follows: rows that only fill up a batch write there, and nothing of it is ever used.

    A token's *slot* is the row of its keys in layer 0, when all rows of kv_heads * head_dim elements are counted
    through (`slots`); its rows in other layers are at fixed distances, so one list of slots serves every layer.
    """

    def __init__(
        self, blocks: int, layers: int, block_size: int, kv_heads: int, head_dim: int, *,
        dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu",
        memory: torch.Tensor | None = None, fill: float | None = None,
    ) -> None:  # fmt: skip
        """Take memory for the pool, or use `memory`: contiguous uint8 on `device`, `nbytes` of it or more.

        `fill` is written everywhere (NaN shows in tests what is read without having been written); without it
        memory stays as it comes. Raises ValueError for sizes below 1 and for memory that does not fit.
        """
        shape = (blocks + 1, layers, 2, block_size, kv_heads, head_dim)
        if min(blocks, *shape) < 1:
            raise ValueError(f"a pool's sizes must be at least 1, not {(blocks, *shape[1:])}")
        self.blocks, self.layers, self.block_size = blocks, layers, block_size
        self.kv_heads, self.head_dim = kv_heads, head_dim
        self.idle = blocks
        """Number of the block that nothing reads from."""
        self.stride = layers * 2 * block_size
        """Slots from one block to the next."""
        self.block_bytes = self.stride * kv_heads * head_dim * dtype.itemsize
        self._all = _place(shape, dtype, torch.device(device), memory, self.block_bytes * (blocks + 1))
        if fill is not None:
            self._all.fill_(fill)
        flat = self._all.view(-1, kv_heads * head_dim)
        self._keys = [flat[layer * 2 * block_size :] for layer in range(layers)]
        self._values = [flat[(layer * 2 + 1) * block_size :] for layer in range(layers)]

    @classmethod
    def of(
        cls, config: LlamaConfig, blocks: int, block_size: int = 16, *, world: int = 1, **options: Any
    ) -> Self:
        """Make the pool of one of `world` ranks for a model; options as for the class."""
        heads = config.shard(0, world).kv_heads
        return cls(blocks, config.layers, block_size, heads, config.head_dim, **options)

    @property
    def data(self) -> torch.Tensor:
        """The tensor `[blocks, layers, 2, block_size, kv_heads, head_dim]`; keys are 0, values are 1."""
        return self._all[: self.blocks]

    @property
    def base(self) -> int:
        """Address of block 0 in this process."""
        return self._all.data_ptr()

    @property
    def nbytes(self) -> int:
        """Bytes of memory, the idle block included."""
        return self.block_bytes * (self.blocks + 1)

    @property
    def dtype(self) -> torch.dtype:
        """What keys and values are stored as."""
        return self._all.dtype

    @property
    def device(self) -> torch.device:
        """Where the memory is."""
        return self._all.device

    def keys(self, layer: int) -> torch.Tensor:
        """A layer's keys by block, a strided view `[blocks + 1, block_size, kv_heads, head_dim]`."""
        return self._all[:, layer, 0]

    def values(self, layer: int) -> torch.Tensor:
        """A layer's values by block, a strided view `[blocks + 1, block_size, kv_heads, head_dim]`."""
        return self._all[:, layer, 1]

    def slots(self, blocks: Any, positions: Any) -> Any:
        """Return the slots of tokens at `positions` whose blocks are `blocks`: integer arrays or tensors, 64 bits."""
        return blocks * self.stride + positions % self.block_size

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put keys and values `[tokens, kv_heads, head_dim]` of one layer at `slots` `[tokens]` (int64)."""
        self._keys[layer].index_copy_(0, slots, keys.flatten(1))
        self._values[layer].index_copy_(0, slots, values.flatten(1))

    def read(self, layer: int, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return copies of keys and values at `slots` `[...]`: `[..., kv_heads, head_dim]` each."""
        gather = torch.nn.functional.embedding  # on the CPU twice as fast as index_select
        shape = (*slots.shape, self.kv_heads, self.head_dim)
        return gather(slots, self._keys[layer]).view(shape), gather(slots, self._values[layer]).view(shape)


def _place(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, memory: torch.Tensor | None, nbytes: int
) -> torch.Tensor:
    if memory is None:
        return torch.empty(shape, dtype=dtype, device=device)
    if memory.dtype != torch.uint8 or memory.ndim != 1 or not memory.is_contiguous():
        raise ValueError("a pool's memory must be one contiguous row of bytes (uint8)")
    if memory.device.type != device.type or memory.numel() < nbytes:
        found = f"{memory.numel()} bytes on {memory.device}"
        raise ValueError(f"a pool of this size needs {nbytes} bytes on {device}, not {found}")
    return memory[:nbytes].view(dtype).view(shape)
