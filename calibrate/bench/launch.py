"""What starting work costs: kernels one by one, inside a graph, a whole graph, and reading tokens back."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from aquasim.calibrate.bench.bench import Bench
from aquasim.calibrate.bench.piece import Measure, Piece, Point
from aquasim.calibrate.bench.timing import Timing, settle

_KERNELS = 200
_SEQUENCES = 256


def launch_piece(bench: Bench) -> Piece:
    """Return host time per kernel launched (`eager`), of a replay with its wait, and of reading tokens back.

    On a GPU also the GPU's time per kernel inside a graph (`node`).
    """
    methods = {"eager": _KERNELS, "readback": 1, **({"replay": 1, "node": _KERNELS} if bench.cuda else {})}
    points = tuple({"kernels": kernels, "method": method} for method, kernels in methods.items())
    return Piece("launch", points, _open)


@contextmanager
def _open(bench: Bench) -> Iterator[Measure]:
    ways: dict[str, Callable[[Bench], Timing]] = {
        "eager": _eager,
        "readback": _readback,
        "replay": _replay,
        "node": _node,
    }

    def measure(point: Point) -> Timing:
        return ways[str(point["method"])](bench)

    yield measure


def _wall(bench: Bench, run: Callable[[], object], *, wait: bool) -> Timing:
    """Return the host's time in `run`, with the wait for the device or without."""

    def sample() -> float:
        bench.synchronize()
        started = time.perf_counter()
        run()
        if wait:
            bench.synchronize()
        return time.perf_counter() - started

    sample()
    return settle(sample, bench.patience)


def _eager(bench: Bench) -> Timing:
    one = bench.torch.zeros(1, device=bench.device)
    return _wall(bench, lambda: [one.add_(1) for _ in range(_KERNELS)], wait=False)


def _readback(bench: Bench) -> Timing:
    tokens = bench.torch.zeros(_SEQUENCES, dtype=bench.torch.int64, device=bench.device)
    return _wall(bench, lambda: tokens.to("cpu", copy=True), wait=True)


def _replay(bench: Bench) -> Timing:
    """Return the wall time of a graph of one kernel: its start, and that its end is seen."""
    one = bench.torch.zeros(1, device=bench.device)
    one.add_(1)
    bench.synchronize()
    graph = bench.torch.cuda.CUDAGraph()
    with bench.torch.cuda.graph(graph):
        one.add_(1)
    return _wall(bench, graph.replay, wait=True)


def _node(bench: Bench) -> Timing:
    """Return the GPU's time of `_KERNELS` kernels in a graph, each as short as can be."""
    one = bench.torch.zeros(1, device=bench.device)
    timing = bench.time([partial(one.add_, 1)])
    return Timing(timing.seconds * _KERNELS, timing.q25 * _KERNELS, timing.q75 * _KERNELS, timing.repeats)
