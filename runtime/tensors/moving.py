"""Copies between places and torch tensors, done when they return."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from aquasim.runtime.copy import Descriptors, Event, Stream, open_copier
from aquasim.runtime.tensors.place import Place

if TYPE_CHECKING:
    import torch


class Mover:
    """Copies by `device`: "cpu", or a GPU's UUID or index; for one thread. Raises CopyError without that GPU."""

    def __init__(self, device: str | int) -> None:
        self._copier = open_copier(device)
        self._on_cpu = device == "cpu"

    def check(self, tensor: "torch.Tensor") -> None:
        """Raise ValueError for a tensor that is not dense memory within reach."""
        import torch

        if tensor.layout != torch.strided or tensor.is_quantized:
            raise ValueError(f"only dense tensors can be copied as bytes, not {tensor.layout} {tensor.dtype}")
        if tensor.device.type != "cpu" and (self._on_cpu or tensor.device.type != "cuda"):
            raise ValueError(f"a tensor on {tensor.device}, and copies are made by {self._copier.device}")

    def fill(self, place: Place, tensor: "torch.Tensor") -> None:
        """Copy a tensor's elements, in their order, to a place of its size."""
        plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
        self._follow(plain)
        self.copy([(plain.data_ptr(), place.ptr, place.nbytes)])

    def read(self, place: Place, out: "torch.Tensor") -> None:
        """Copy a place's bytes to a contiguous tensor of its size."""
        self._follow(out)
        self.copy([(place.ptr, out.data_ptr(), place.nbytes)])

    def copy(self, rows: Iterable[tuple[int, int, int]]) -> None:
        """Copy (source, destination, bytes), together; raises CopyError.

        One call each (`loop`): tensors are large, and it is the one path that takes host memory that is not pinned.
        """
        real = [row for row in rows if row[2] and row[0] != row[1]]
        if real:
            columns = (np.array(column, dtype=np.int64) for column in zip(*real, strict=True))
            self._copier.submit(Descriptors(*columns), self._copier.outgoing, "loop").wait()

    def begin(
        self, rows: Iterable[tuple[int, int, int]], *, inward: bool, after: Event | None = None
    ) -> Event:
        """Begin to copy (source, destination, bytes) once `after` is done; return the event of the end.

        `inward` copies go on the incoming stream, others on the outgoing one, each in order.
        """
        stream = self._copier.incoming if inward else self._copier.outgoing
        if after is not None:
            stream.wait(after)
        real = list(rows)
        if not real:
            return stream.record()
        columns = (np.array(column, dtype=np.int64) for column in zip(*real, strict=True))
        return self._copier.submit(Descriptors(*columns), stream)

    def queued(self, device: "torch.device") -> Stream:
        """Return torch's current stream on a device, to record events on it and to let it wait for ours."""
        if device.type != "cuda":
            return self._copier.compute()
        import torch

        return self._copier.compute(torch.cuda.current_stream(device).cuda_stream)

    def close(self) -> None:
        """Free the copier's streams."""
        self._copier.close()

    def _follow(self, tensor: "torch.Tensor") -> None:
        """Let our copies wait for what torch has queued for a tensor of a GPU."""
        if tensor.is_cuda:
            import torch

            queued = self._copier.compute(torch.cuda.current_stream(tensor.device).cuda_stream)
            self._copier.outgoing.wait(queued.record())
