"""One sequence's keys and values, split along heads: some stay on the device, the others come layer by layer."""

from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from aquasim.runtime.engine import LlamaConfig
from aquasim.runtime.engine.attention.sdpa import causal_options
from aquasim.runtime.tensors import AquaTensor, Flight, Part, PeerPool

BUFFERS = 2


class Traffic(NamedTuple):
    """Bytes of one iteration: read from leased memory and from the host, and written to either."""

    peer_read: int
    host_read: int
    written: int


class SplitKv:
    """Keeps the first KV heads of every layer on the device and the others, `remote` of them, in AQUA tensors.

    The schedule is FlexGen's (Sheng et al., ICML 2023, section 4): while a layer computes, the next one's remote
    share is on its way to the other of two buffers, and what this one added on its way out. A layer's remote share is
    in tensors of `segment` tokens each, `[segment, 2, remote, head_dim]`, keys before values: as long as few tokens
    are cached few bytes are kept, moved and read, and what is read of a segment is one copy.

    Between `begin` and `end` it stands for a pool, for the layers in order; the tensors move only outside of that.
    """

    def __init__(
        self, config: LlamaConfig, remote: int, tokens: int, segment: int, pool: PeerPool, *,
        dtype: torch.dtype, device: torch.device,
    ) -> None:  # fmt: skip
        self.pool, self.remote, self.tokens, self.segment = pool, remote, tokens, min(segment, tokens)
        self.cached = 0
        self._local_heads = config.kv_heads - remote
        self._layers, self._group = config.layers, config.heads // config.kv_heads
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        self._local = torch.empty(config.layers, tokens, 2, self._local_heads, config.head_dim, **options)
        shape = (2, remote, config.head_dim)
        self._buffers = [torch.empty(tokens, *shape, **options) for _ in range(BUFFERS if remote else 0)]
        self._blank = torch.zeros(self.segment, *shape, **options)
        self._row_bytes = 2 * remote * config.head_dim * dtype.itemsize
        self._kept: list[list[AquaTensor]] = [[] for _ in range(config.layers)]
        self._stream = pool.compute(device)
        self._new = 0
        self._reads: dict[int, Flight] = {}
        self._writes: dict[int, Flight] = {}

    @property
    def remote_bytes(self) -> tuple[int, int]:
        """Bytes of the tensors that are in leased memory, and in host memory."""
        kept = [tensor for layer in self._kept for tensor in layer]
        peer = sum(tensor.nbytes for tensor in kept if tensor.where == "peer")
        return peer, sum(tensor.nbytes for tensor in kept) - peer

    # --- one iteration ---------------------------------------------------------------------------------------

    def begin(self, new: int) -> None:
        """Make room for `new` tokens and begin to fetch the first layers. Raises PoolFullError."""
        assert 0 < new <= self.tokens - self.cached, (new, self.cached, self.tokens)
        self._new = new
        if self.remote:
            segments = -(-(self.cached + new) // self.segment)
            for kept in self._kept:
                while len(kept) < segments:
                    kept.append(self.pool.put(self._blank))
        self._reads, self._writes = {}, {}
        for layer in range(min(BUFFERS, self._layers)):
            self._prefetch(layer)

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep keys and values `[new, kv_heads, head_dim]`: on the device now, the remote share's copy soon."""
        split, first, last = self._local_heads, self.cached, self.cached + self._new
        local = self._local[layer, first:last]
        local[:, 0], local[:, 1] = keys[:, :split], values[:, :split]
        if not self.remote:
            return
        self._stream.wait(self._reads[layer].event)
        if layer >= BUFFERS:
            self._stream.wait(self._writes[layer - BUFFERS].event)  # its new tokens were in this buffer too
        here = self._buffers[layer % BUFFERS][first:last]
        here[:, 0], here[:, 1] = keys[:, split:], values[:, split:]
        self._writes[layer] = self.pool.store(self._parts(layer, first, last), self._stream.record())

    def attend(self, layer: int, queries: torch.Tensor) -> torch.Tensor:
        """Return attention of the first `new` rows of `queries` `[rows, heads, head_dim]`; other rows give zeros."""
        attended = torch.zeros_like(queries, memory_format=torch.contiguous_format)
        split, end = self._local_heads * self._group, self.cached + self._new
        if split:
            attended[: self._new, :split] = self._attend(queries[:, :split], self._local[layer, :end])
        if self.remote:
            buffer = self._buffers[layer % BUFFERS]
            attended[: self._new, split:] = self._attend(queries[:, split:], buffer[:end])
            self._prefetch(layer + BUFFERS)
        return attended.flatten(1)

    def end(self) -> Traffic:
        """Wait until every copy has ended; return what was copied. Raises CopyError."""
        flights = [*self._reads.values(), *self._writes.values()]
        for flight in flights:
            flight.wait()
        self.cached += self._new
        reads = self._reads.values()
        written = sum(flight.peer_bytes + flight.host_bytes for flight in self._writes.values())
        return Traffic(sum(f.peer_bytes for f in reads), sum(f.host_bytes for f in reads), written)

    def clear(self) -> None:
        """Forget the sequence and free its tensors, once copies that are under way have ended."""
        for flight in (*self._reads.values(), *self._writes.values()):
            flight.wait()
        for kept in self._kept:
            while kept:
                kept.pop().free()
        self.cached = self._new = 0

    # --- its parts -------------------------------------------------------------------------------------------

    def _attend(self, queries: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        """Attend from queries `[rows, heads, head_dim]` to keys and values `[tokens, 2, kv_heads, head_dim]`."""
        new = queries[: self._new].transpose(0, 1).clone(memory_format=torch.contiguous_format).unsqueeze(0)
        keys, values = (held[:, which].unsqueeze(0).transpose(1, 2) for which in (0, 1))
        options = causal_options(self._new, len(held), held.device, held.dtype)
        found = scaled_dot_product_attention(new, keys, values, enable_gqa=self._group > 1, **options)
        return found[0].transpose(0, 1)

    def _prefetch(self, layer: int) -> None:
        """Begin to fetch what is cached of a layer, once its buffer has been read."""
        if self.remote and layer < self._layers:
            parts = self._parts(layer, 0, self.cached)
            self._reads[layer] = self.pool.fetch(parts, self._stream.record())

    def _parts(self, layer: int, first: int, last: int) -> list[Part]:
        """Return tokens `first` up to `last` of a layer: where they are kept, and where in its buffer."""
        parts, address = [], self._buffers[layer % BUFFERS].data_ptr()
        for number in range(first // self.segment, -(-last // self.segment)):
            start = number * self.segment
            begin, end = max(first, start), min(last, start + self.segment)
            size, at = (end - begin) * self._row_bytes, (begin - start) * self._row_bytes
            parts.append(Part(self._kept[layer][number], at, size, address + begin * self._row_bytes))
        return parts
