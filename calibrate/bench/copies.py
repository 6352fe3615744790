"""Copies as an engine pages: by size, count and path, through the runtime's own arenas and copiers."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from aquasim.calibrate.bench.bench import Bench
from aquasim.calibrate.bench.peer import Peer
from aquasim.calibrate.bench.piece import Measure, Piece, Point
from aquasim.calibrate.bench.sizes import Sizes
from aquasim.calibrate.bench.timing import Timing, settle

_PLUG_BYTES = {
    True: 32 << 20,
    False: 4 << 20,
}  # on a GPU and on a CPU: what the stream is busy with meanwhile
_PATHS = ("loop", "batch", "kernel", "gather", "scatter")


@dataclass(frozen=True, slots=True)
class Route:
    """Copies from one place to another under a link's name, on the copier's `outgoing` or `incoming` stream."""

    link: str
    source: str
    target: str
    stream: str
    paths: tuple[str, ...]
    meaning: str


def routes(bench: Bench) -> list[Route]:
    """Return what can be copied here: host and device in both directions, within each, and to a peer."""
    out, in_ = "outgoing", "incoming"
    if not bench.cuda:
        peer = "memory of another process (memfd) on this CPU, standing in for a peer GPU's"
        host = "host memory to host memory on this CPU, standing in for PCIe"
        return [
            Route("pcie_h2d", "host", "device", in_, _PATHS, host),
            Route("pcie_d2h", "device", "host", out, _PATHS, host),
            Route("nvlink", "device", "peer", out, ("loop", "batch"), peer),
        ]
    several = bench.torch.cuda.device_count() > 1
    name = "nvlink" if several else "peer_same_gpu"
    peer = f"a mapping of another process's memory on {'GPU 1' if several else 'the same GPU'}"
    return [
        Route("pcie_h2d", "host", "device", in_, _PATHS, "pinned host memory to the GPU"),
        Route("pcie_d2h", "device", "host", out, _PATHS, "the GPU to pinned host memory"),
        Route("pageable_h2d", "pageable", "device", in_, ("loop",), "pageable host memory to the GPU"),
        Route("pageable_d2h", "device", "pageable", out, ("loop",), "the GPU to pageable host memory"),
        Route("device", "device", "device", out, ("loop", "batch", "kernel"), "within the GPU's memory"),
        Route(name, "device", "peer", out, ("loop", "batch", "kernel"), peer),
        Route(f"{name}_read", "peer", "device", in_, ("loop", "batch", "kernel"), f"from {peer}"),
    ]


def copy_piece(bench: Bench, sizes: Sizes) -> Piece:
    """Return copies over every route by size, count and path; loops over PCIe also with the other way busy.

    Raises RuntimeError (a CopyError) where the runtime cannot copy on this device.
    """
    from aquasim.runtime.copy import open_copier

    with open_copier(0 if bench.cuda else "cpu") as copier:
        there = copier.paths
    points: list[Point] = []
    for route in routes(bench):
        for size in sizes.copy_bytes:
            for count in sizes.copy_counts:
                if size * count > sizes.copy_most or (size < 65536 and count == 1):
                    continue
                paths = [path for path in route.paths if path in there] if count > 1 else ["loop"]
                points += [_point(route, path, size, count, 0) for path in paths]
                if route.link.startswith("pcie") and count == max(sizes.copy_counts) and size >= 65536:
                    points.append(_point(route, "loop", size, count, 1))
    meanings = {f"link {route.link}": route.meaning for route in routes(bench)}
    return Piece("copy", tuple(points), partial(_open, sizes.copy_most), meanings)


def _point(route: Route, path: str, size: int, count: int, both: int) -> Point:
    return {"bytes": size, "count": count, "both": both, "link": route.link, "method": path}


@contextmanager
def _open(most: int, bench: Bench) -> Iterator[Measure]:
    by_link = {route.link: route for route in routes(bench)}
    with Places(bench, most) as places:

        def measure(point: Point) -> Timing:
            route, path = by_link[str(point["link"])], str(point["method"])
            size, count = int(point["bytes"]), int(point["count"])
            return places.time(route, path, size, count, both=bool(point["both"]))

        yield measure


class Places:
    """Where copies go from and to: room for `most` bytes in each place, made when first needed."""

    def __init__(self, bench: Bench, most: int) -> None:
        from aquasim.runtime.copy import open_copier

        self.bench = bench
        self.most = max(most, _PLUG_BYTES[bench.cuda])
        self._stack = ExitStack()
        self.copier = self._stack.enter_context(open_copier(0 if bench.cuda else "cpu"))
        self._made: dict[str, int] = {}
        self._pageable: list[Any] = []

    def __enter__(self) -> "Places":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def address(self, place: str, side: int) -> int:
        """Return where `side` (0: source, 1: target, 2 and 3: of the other direction) of a place begins."""
        name = f"{place}/{side}"
        if name not in self._made:
            self._made[name] = self._make(place)
        return self._made[name]

    def _make(self, place: str) -> int:
        from aquasim.runtime.arenas import create

        if place == "device":
            return int(self._stack.enter_context(self.copier.scratch(self.most)).ptr)
        if place == "peer":
            backend, index = peer_backend(self.bench)
            peer = self._stack.enter_context(Peer(backend, self.most, index))
            return int(self._stack.enter_context(peer.mapping(0 if self.bench.cuda else None)).ptr)
        if place == "pageable":
            self._pageable.append(np.zeros(self.most, dtype=np.uint8))
            return int(self._pageable[-1].ctypes.data)
        return int(self._stack.enter_context(create("host", self.most)).ptr)

    def descriptors(self, route: Route, size: int, count: int, sides: tuple[int, int] = (0, 1)) -> Any:
        """Return `count` copies of `size` bytes from and to blocks in shuffled order, so that none join up."""
        from aquasim.runtime.copy import Descriptors

        order = np.random.default_rng(count).permutation(count)
        source, target = self.address(route.source, sides[0]), self.address(route.target, sides[1])
        return Descriptors.of_blocks(source, order, target, np.arange(count), size)

    def time(self, route: Route, path: str, size: int, count: int, *, both: bool) -> Timing:
        """Return the seconds from the first byte to the last, the stream being busy before."""
        copies = self.descriptors(route, size, count)
        stream = getattr(self.copier, route.stream)
        plug = self.descriptors(route, _PLUG_BYTES[self.bench.cuda], 1)
        back = Route(route.link, route.target, route.source, "", (), "")
        against = self.descriptors(back, self.most, 1, (2, 3)) if both else None
        other = self.copier.incoming if route.stream == "outgoing" else self.copier.outgoing

        def sample() -> float:
            if against is not None:  # lasts longer than what is timed and the plug before it
                for _ in range(2 + copies.nbytes // self.most):
                    self.copier.submit(against, other, "loop")
            self.copier.submit(plug, stream, "loop")
            start = stream.record()
            end = self.copier.submit(copies, stream, path)
            end.wait()
            seconds = float(end.since(start))
            other.record().wait()
            return seconds

        sample()
        return settle(sample, self.bench.patience)


def peer_backend(bench: Bench) -> tuple[str, int]:
    """Return the back end and place of another process's memory: GPU 1, else the same GPU, else the CPU."""
    from aquasim.runtime.arenas import available

    if not bench.cuda:
        return "memfd", -1
    backend = next((name for name in ("cuda-vmm", "cuda-ipc") if available()[name] is None), "cuda-ipc")
    return backend, 1 if bench.torch.cuda.device_count() > 1 else 0
