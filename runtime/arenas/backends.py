"""The back ends by name: what each needs, how it allocates and how it maps."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from aquasim.runtime.arenas import ipc, memfd, vmm
from aquasim.runtime.arenas.errors import ArenaError
from aquasim.runtime.arenas.handle import Handle
from aquasim.runtime.arenas.region import Arena, Mapping, Memory
from aquasim.runtime.copy import cuda

Place: TypeAlias = int | str | None


@dataclass(frozen=True, slots=True)
class Backend:
    """Three functions: why not here (or None), make memory at a place, map a handle for use from a GPU."""

    reason: Callable[[], str | None]
    allocate: Callable[[int, Place], Memory]
    attach: Callable[[Handle, Place], Memory]


def _memfd_reason() -> str | None:
    return None if hasattr(os, "memfd_create") else "needs Linux: there is no memfd_create"


def _node(place: Place) -> int | None:
    if isinstance(place, str):
        raise ArenaError(f"host memory is placed on a NUMA node, not on {place!r}")
    return place


def _pin() -> bool:
    return cuda.reason() is None


BACKENDS = {
    "memfd": Backend(
        _memfd_reason,
        lambda nbytes, place: memfd.allocate(nbytes, node=_node(place)),
        lambda handle, device: memfd.attach(handle),
    ),
    "host": Backend(
        _memfd_reason,
        lambda nbytes, place: memfd.allocate(nbytes, node=_node(place), pin=_pin()),
        lambda handle, device: memfd.attach(handle, pin=_pin()),
    ),
    "cuda-ipc": Backend(cuda.reason, ipc.allocate, ipc.attach),
    "cuda-vmm": Backend(vmm.reason, vmm.allocate, vmm.attach),
}


def available() -> dict[str, str | None]:
    """Return, for each back end, None where it works in this process, or the reason why it does not."""
    return {name: backend.reason() for name, backend in BACKENDS.items()}


def create(backend: str, nbytes: int, *, place: Place = None) -> Arena:
    """Make an arena of at least `nbytes` bytes (rounded up to whole pages; 2 MiB on GPUs), filled with zeros.

    `place` is a NUMA node for host memory, a GPU's UUID or visible index for CUDA (0 when left out). Raises
    ArenaError where the back end or that much memory is missing.
    """
    if nbytes <= 0:
        raise ArenaError(f"an arena of {nbytes} bytes")
    return Arena(backend, _usable(backend).allocate(nbytes, place))


def open_handle(handle: Handle, *, device: int | str | None = None) -> Mapping:
    """Map what another process exported; the handle stays the caller's to close.

    `device` is the GPU (UUID or visible index, 0 when left out) that will issue copies, for GPU memory. Raises
    ArenaError for an unknown back end, and with the reason when the driver refuses.
    """
    return Mapping(handle.backend, _usable(handle.backend).attach(handle, device))


def _usable(name: str) -> Backend:
    if name not in BACKENDS:
        raise ArenaError(f"no back end {name!r}; there are {', '.join(BACKENDS)}")
    reason = BACKENDS[name].reason()
    if reason is not None:
        raise ArenaError(f"{name} is not available here: {reason}")
    return BACKENDS[name]
