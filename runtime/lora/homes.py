"""Where adapters are kept while no slot holds them: leased memory, host memory, files."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol

import torch

from aquasim.runtime.copy import Descriptors, open_copier
from aquasim.runtime.lora.adapter import Adapter, pack, read_adapter
from aquasim.runtime.lora.layout import LoraLayout
from aquasim.runtime.tensors import AquaTensor, Part, PeerPool

Source = Literal["peer", "host", "file"]


class Loading(Protocol):
    """An adapter on its way to a slot."""

    def done(self) -> bool:
        """Whether it is there, without waiting; raises what went wrong."""


class Home(Protocol):
    """Keeps adapters by name and brings them to slots, beside the caller."""

    def load(self, name: str, slot: torch.Tensor) -> tuple[Loading, Source]:
        """Begin to copy an adapter to a slot's row `[elements]`; say where it comes from."""

    def respond(self) -> None:
        """Let what is kept move, where others want their memory back; called often, between steps."""


class PeerHome:
    """Keeps adapters in AQUA tensors: in memory that others lend, else in the pool's host memory.

    One contiguous tensor each, so that a miss is one large copy (AQUA flattens adapters as it starts); with `small`,
    a tensor for each A and B, which is what that saves.
    """

    def __init__(
        self, pool: PeerPool, layout: LoraLayout, dtype: torch.dtype, *, small: bool = False
    ) -> None:
        self.pool, self.layout, self.dtype, self.small = pool, layout, dtype, small
        self.kept: dict[str, list[AquaTensor]] = {}
        """Tensors by adapter, in the order of the row."""

    def add(self, adapter: Adapter) -> None:
        """Keep an adapter. Raises UserError as `pack`, PoolFullError, ValueError for a name that is there."""
        if adapter.name in self.kept:
            raise ValueError(f"adapter {adapter.name} is kept already")
        row = pack(adapter, self.layout, self.dtype)
        parts = [view for *_, view in self.layout.pieces(row)] if self.small else [row]
        tensors: list[AquaTensor] = []
        try:
            tensors += (self.pool.put(part) for part in parts)
        except BaseException:
            for tensor in tensors:
                tensor.free()
            raise
        self.kept[adapter.name] = tensors

    def load(self, name: str, slot: torch.Tensor) -> tuple[Loading, Source]:
        """See Home."""
        parts, at = [], slot.data_ptr()
        for tensor in self.kept[name]:
            parts.append(Part(tensor, 0, tensor.nbytes, at))
            at += tensor.nbytes
        flight = self.pool.fetch(parts)
        return flight, "peer" if flight.peer_bytes else "host"

    def respond(self) -> None:
        """See Home."""
        self.pool.respond()


class HostHome:
    """Keeps adapters in host memory of this process, pinned where there is a GPU."""

    def __init__(self, layout: LoraLayout, dtype: torch.dtype, device: str | int = "cpu") -> None:
        self.layout, self.dtype = layout, dtype
        self.kept: dict[str, torch.Tensor] = {}
        self._pin = device != "cpu"
        self._copier = open_copier(device)

    def add(self, adapter: Adapter) -> None:
        """Keep an adapter. Raises UserError as `pack`."""
        row = pack(adapter, self.layout, self.dtype)
        self.kept[adapter.name] = row.pin_memory() if self._pin else row

    def load(self, name: str, slot: torch.Tensor) -> tuple[Loading, Source]:
        """See Home."""
        row = self.kept[name]
        copies = Descriptors.of_blocks(row.data_ptr(), [0], slot.data_ptr(), [0], row.nbytes)
        return self._copier.submit(copies, self._copier.incoming, "loop"), "host"

    def respond(self) -> None:
        """See Home; nothing moves."""

    def close(self) -> None:
        """End the copier."""
        self._copier.close()


class _Reading:
    """A file that a thread reads."""

    def __init__(self, future: "Future[None]") -> None:
        self._future = future

    def done(self) -> bool:
        """See Loading."""
        if self._future.done():
            self._future.result()
        return self._future.done()


class FileHome:
    """Reads an adapter's file anew for each miss, tensor by tensor: what serving engines do with a small cache."""

    def __init__(self, layout: LoraLayout, dtype: torch.dtype, folders: Sequence[Path] = ()) -> None:
        self.layout, self.dtype = layout, dtype
        self.kept = {folder.name: folder for folder in folders}
        self._reader = ThreadPoolExecutor(1, "adapters")

    def load(self, name: str, slot: torch.Tensor) -> tuple[Loading, Source]:
        """See Home. The copy ends before the thread says so, on a stream of the thread's own."""
        return _Reading(self._reader.submit(self._read, name, slot)), "file"

    def respond(self) -> None:
        """See Home; nothing moves."""

    def close(self) -> None:
        """End the thread once what it reads is there."""
        self._reader.shutdown()

    def _read(self, name: str, slot: torch.Tensor) -> None:
        row = pack(read_adapter(self.kept[name], self.layout.config, name), self.layout, self.dtype)
        with torch.inference_mode():
            if not slot.is_cuda:
                slot.copy_(row)
                return
            stream = torch.cuda.Stream(slot.device)  # type: ignore[no-untyped-call]
            with torch.cuda.stream(stream):
                slot.copy_(row.pin_memory(), non_blocking=True)
            stream.synchronize()
