"""A leased extent as a stretch of memory that was written and read back before anybody used it."""

import ctypes
from dataclasses import dataclass

from aquasim.core.leases import Extent, Lease
from aquasim.runtime.arenas import ArenaError, Handle, Mapping, Rate, open_handle, probe
from aquasim.runtime.copy import Copier

PROBE_SIZES = (4 << 10, 16 << 20)
"""Bytes that a probe writes and reads back; the last that fits gives the rates that are shown."""
_DONTFORK = 10  # madvise(2)


@dataclass(frozen=True, slots=True, eq=False)
class Mapped:
    """A lease under one epoch and its memory here. `rates` are what the probe saw, by size; never empty."""

    extent: Extent
    epoch: int
    bytes: int
    mapping: Mapping
    transport: str
    rates: tuple[Rate, ...]

    @property
    def rate(self) -> Rate:
        """The rate of the largest copies that were tried."""
        return self.rates[-1]


def map_extent(lease: Lease, handle: Handle, copier: Copier, sizes: tuple[int, ...] = PROBE_SIZES) -> Mapped:
    """Map a handle for copies by `copier` and probe it over that very path.

    Raises ArenaError where it cannot be mapped, is smaller than leased, or does not keep what is written.
    """
    device = None if copier.device == "cpu" else copier.device
    if device is None and handle.device != "cpu":
        raise ArenaError(f"this is memory of {handle.device}, and copies are made by the CPU here")
    mapping = open_handle(handle, device=device)
    try:
        if mapping.nbytes < lease.bytes:
            raise ArenaError(f"{mapping!r} is smaller than the {lease.bytes} bytes that are leased")
        _keep_from_children(mapping)
        rates = probe(mapping, copier, tuple(size for size in sizes if size <= lease.bytes) or (lease.bytes,))
    except BaseException:
        mapping.close()
        raise
    return Mapped(
        lease.extent, lease.epoch, lease.bytes, mapping, _transport(mapping, copier.device), tuple(rates)
    )


def _transport(mapping: Mapping, device: str) -> str:
    if mapping.device == "cpu":
        place = "pinned host memory" if mapping.pinned else "host memory"
    else:
        place = "same GPU" if mapping.device == device else "peer GPU"
    return f"{mapping.backend}: {place}"


def _keep_from_children(mapping: Mapping) -> None:
    """A child that outlives us could go on writing after our death was taken for the end of the lease."""
    if mapping.device != "cpu":
        return  # CUDA does not work in forked children
    libc = ctypes.CDLL(None, use_errno=True)
    words = (ctypes.c_void_p(mapping.ptr), ctypes.c_size_t(mapping.nbytes), ctypes.c_int(_DONTFORK))
    if libc.madvise(*words):
        raise ArenaError(f"{mapping!r} cannot be kept from children: errno {ctypes.get_errno()}")
