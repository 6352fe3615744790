"""Memory that a donor lends and a consumer maps, behind one interface.

| back end   | memory                         | crosses a socket as | may the donor free it while it is mapped |
|------------|--------------------------------|---------------------|------------------------------------------|
| `memfd`    | host, sealed memfd             | file descriptor     | yes: the last mapping frees it           |
| `host`     | the same, pinned where CUDA is | file descriptor     | yes                                      |
| `cuda-ipc` | GPU, cudaMalloc                | 64 bytes            | no: `Arena.close` refuses                |
| `cuda-vmm` | GPU, cuMemCreate               | file descriptor     | yes                                      |

Everywhere the memory outlives a donor that dies, until its last consumer closes. Importing needs numpy only.

    with create("memfd", 64 << 20) as arena, arena.export() as handle:   # the donor
        send_handle(sock, handle)

    with recv_handle(sock) as handle:                                    # the consumer
        mapping = open_handle(handle)
"""

from aquasim.runtime.arenas.backends import BACKENDS, available, create, open_handle
from aquasim.runtime.arenas.errors import ArenaError
from aquasim.runtime.arenas.handle import Handle, decode, encode, recv_handle, send_handle
from aquasim.runtime.arenas.probe import Rate, probe
from aquasim.runtime.arenas.region import Arena, Extent, Mapping

__all__ = [
    "BACKENDS",
    "Arena",
    "ArenaError",
    "Extent",
    "Handle",
    "Mapping",
    "Rate",
    "available",
    "create",
    "decode",
    "encode",
    "open_handle",
    "probe",
    "recv_handle",
    "send_handle",
]
