"""Ranges of a GPU's addresses: reserved once, pieces mapped and unmapped, so that graphs keep their addresses."""

from typing import TYPE_CHECKING, Any

from aquasim.runtime.arenas import cuda, vmm
from aquasim.runtime.arenas.errors import ArenaError
from aquasim.runtime.arenas.reserve import Piece, Space
from aquasim.runtime.copy import cuda as base

if TYPE_CHECKING:
    import torch


class _Bytes:
    """What torch makes a tensor of without a copy."""

    def __init__(self, ptr: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,), "typestr": "|u1", "data": (ptr, False), "strides": None, "version": 3,
        }  # fmt: skip


class DeviceSpace(Space):
    """Addresses from cuMemAddressReserve."""

    def __init__(self, nbytes: int, place: int | str | None) -> None:
        self.nbytes, self._index = nbytes, cuda.index_of(0 if place is None else place)
        with cuda.on(self._index, "reserving addresses"):
            self.ptr = int(vmm.call("cuMemAddressReserve", nbytes, 0, 0, 0))

    def piece(self, offset: int, nbytes: int) -> Piece:
        """See Space."""
        return DevicePiece(self.ptr + offset, nbytes, self._index)

    def tensor(self) -> "torch.Tensor":
        """See Space; all pieces are at home when it is made."""
        import torch

        found: torch.Tensor = torch.as_tensor(_Bytes(self.ptr, self.nbytes), device=f"cuda:{self._index}")
        return found

    def close(self) -> None:
        """See Space."""
        if self.ptr:
            with cuda.on(self._index, "freeing addresses"):
                vmm.call("cuMemAddressFree", self.ptr, self.nbytes)
            self.ptr = 0


class DevicePiece(Piece):
    """An allocation of cuMemCreate that can be shared by file descriptor."""

    def __init__(self, address: int, nbytes: int, index: int) -> None:
        self.nbytes, self.ptr, self._address, self._index = nbytes, 0, address, index
        self.device = base.uuid_of(index)
        with cuda.on(index, f"allocating {nbytes} bytes"):
            self._allocation: Any = vmm.call("cuMemCreate", nbytes, vmm.wanted(index), 0)
        try:
            self.come()
            self.zero(0, nbytes)
        except BaseException:
            self.release()
            raise

    def come(self) -> None:
        """See Piece."""
        with cuda.on(self._index, "mapping memory"):
            self._map(self._address)
        self.ptr = self._address

    def leave(self) -> None:
        """See Piece."""
        with cuda.on(self._index, "unmapping memory"):
            vmm.call("cuMemUnmap", self._address, self.nbytes)
        self.ptr = 0

    def share(self) -> tuple[str, int | None]:
        """See Memory."""
        return "", vmm.export(self._allocation, self._index)

    def zero(self, offset: int, nbytes: int) -> None:
        """See Memory; away, through addresses of its own for as long as it takes."""
        if self.ptr:
            cuda.zero(self._index, self.ptr + offset, nbytes)
            return
        with cuda.on(self._index, "mapping memory"):
            ptr = int(vmm.call("cuMemAddressReserve", self.nbytes, 0, 0, 0))
            try:
                self._map(ptr)
                try:
                    cuda.zero(self._index, ptr + offset, nbytes)
                finally:
                    vmm.call("cuMemUnmap", ptr, self.nbytes)
            finally:
                vmm.call("cuMemAddressFree", ptr, self.nbytes)

    def release(self) -> None:
        """See Memory; the memory returns once nobody maps it."""
        if self.ptr:
            self.leave()
        if self._allocation is not None:
            with cuda.on(self._index, "freeing memory"):
                vmm.call("cuMemRelease", self._allocation)
            self._allocation = None

    def _map(self, ptr: int) -> None:
        vmm.call("cuMemMap", ptr, self.nbytes, 0, self._allocation, 0)
        try:
            vmm.call("cuMemSetAccess", ptr, self.nbytes, [vmm.access(self._index)], 1)
        except ArenaError:
            vmm.call("cuMemUnmap", ptr, self.nbytes)
            raise
