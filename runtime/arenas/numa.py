"""Binding host memory to the NUMA node that is nearest to a GPU."""

import ctypes
import os
import platform
from pathlib import Path

from aquasim.runtime.arenas.errors import ArenaError

_MBIND = {"x86_64": 237, "aarch64": 235}
_MPOL_BIND = 2
_BITS = 1024  # nodes that a mask can name


def node_of(bus_id: str) -> int | None:
    """Return the NUMA node of a PCI device such as "0000:19:00.0", or None where the machine does not say."""
    try:
        node = int(Path(f"/sys/bus/pci/devices/{bus_id.lower()}/numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def bind(ptr: int, nbytes: int, node: int) -> None:
    """Let the pages of a mapping come from `node` alone; do so before they are touched. Raises ArenaError."""
    number = _MBIND.get(platform.machine())
    if number is None:
        raise ArenaError(f"binding to a NUMA node is not known for {platform.machine()}")
    mask = (ctypes.c_ulong * (_BITS // 64))()
    if not 0 <= node < _BITS:
        raise ArenaError(f"NUMA node {node} does not exist")
    mask[node // 64] = 1 << (node % 64)
    libc = ctypes.CDLL(None, use_errno=True)
    words = (
        ctypes.c_void_p(ptr),
        ctypes.c_size_t(nbytes),
        ctypes.c_int(_MPOL_BIND),
        mask,
        ctypes.c_ulong(_BITS),
    )
    if libc.syscall(ctypes.c_long(number), *words, ctypes.c_uint(0)):
        error = os.strerror(ctypes.get_errno())
        raise ArenaError(f"cannot bind {nbytes} bytes to NUMA node {node}: {error}")
