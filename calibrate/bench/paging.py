"""What surrounds paging: mapping another process's memory, copies that never stop, host memory by threads."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aquasim.calibrate.bench.attention import thread_counts
from aquasim.calibrate.bench.bench import Bench
from aquasim.calibrate.bench.copies import Places, Route, peer_backend
from aquasim.calibrate.bench.peer import Peer
from aquasim.calibrate.bench.piece import Measure, Piece, Point
from aquasim.calibrate.bench.timing import Timing, settle

_PAGE = 2 << 20
_QUEUED = 4  # lists of pages that wait on each stream while copies are to go on


def ipc_piece(bench: Bench) -> Piece:
    """Return opening and closing a mapping of another process's memory, by its size."""
    extents = (1 << 20, 16 << 20) if bench.quick else (2 << 20, 64 << 20, 256 << 20)
    points = tuple({"bytes": size, "method": method} for size in extents for method in ("open", "close"))
    return Piece("ipc", points, _open_ipc, {"ipc": peer_backend(bench)[0]})


@contextmanager
def _open_ipc(bench: Bench) -> Iterator[Measure]:
    def measure(point: Point) -> Timing:
        backend, index = peer_backend(bench)
        with Peer(backend, int(point["bytes"]), index) as peer:
            return settle(lambda: _map_once(bench, peer)[point["method"] == "close"], bench.patience)

    yield measure


def _map_once(bench: Bench, peer: Peer) -> tuple[float, float]:
    """Return the seconds that opening and closing one mapping took; the handle is there already."""
    from aquasim.runtime.arenas import open_handle

    with peer.handle() as handle:
        started = time.perf_counter()
        mapping = open_handle(handle, device=0 if bench.cuda else None)
        opened = time.perf_counter()
        mapping.close()
        return opened - started, time.perf_counter() - opened


@contextmanager
def traffic(bench: Bench) -> Iterator[None]:
    """Keep pages of 2 MiB moving between host and device in both directions until the context ends."""
    pages = 4 if bench.quick else 32
    with Places(bench, pages * _PAGE) as places:
        ways = [
            (Route("pcie_h2d", "host", "device", "incoming", (), ""), places.copier.incoming, (0, 1)),
            (Route("pcie_d2h", "device", "host", "outgoing", (), ""), places.copier.outgoing, (2, 3)),
        ]
        lists = [(places.descriptors(route, _PAGE, pages, sides), stream) for route, stream, sides in ways]
        path = "batch" if "batch" in places.copier.paths else "loop"
        stop = threading.Event()
        thread = threading.Thread(target=_feed, args=(places.copier, lists, path, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _feed(copier: Any, lists: list[tuple[Any, Any]], path: str, stop: threading.Event) -> None:
    """Keep a few lists of copies waiting on each stream. This thread alone uses the copier meanwhile."""
    waiting: list[Any] = []
    while not stop.is_set():
        waiting += [copier.submit(copies, stream, path) for copies, stream in lists]
        if len(waiting) > _QUEUED * len(lists):
            for event in waiting[: len(lists)]:
                event.wait()
            del waiting[: len(lists)]
    for event in waiting:
        event.wait()


def host_memory_piece(bench: Bench) -> Piece:
    """Return reading and copying host memory by number of threads; a copy counts its bytes twice."""
    size = (1 << 25) if bench.quick else (1 << 29)
    points = tuple(
        {"threads": threads, "bytes": size, "method": method}
        for threads in thread_counts(bench)
        for method in ("read", "copy")
    )
    return Piece("host_memory", points, _open_host)


@contextmanager
def _open_host(bench: Bench) -> Iterator[Measure]:
    torch, before = bench.torch, bench.torch.get_num_threads()

    def call(point: Point) -> Callable[[], object]:
        data = torch.ones(int(point["bytes"]) // (4 if point["method"] == "read" else 8), dtype=torch.float32)
        target = torch.empty_like(data)
        return data.sum if point["method"] == "read" else lambda: target.copy_(data)

    def measure(point: Point) -> Timing:
        torch.set_num_threads(int(point["threads"]))
        run = call(point)
        run()

        def sample() -> float:
            started = time.perf_counter()
            run()
            return time.perf_counter() - started

        return settle(sample, bench.patience)

    try:
        yield measure
    finally:
        torch.set_num_threads(before)
