"""Matrix products: weights read from memory as an engine reads them, one layer after another."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from aquasim.calibrate.bench.bench import DTYPE_BYTES, Bench
from aquasim.calibrate.bench.piece import Measure, Piece, Point
from aquasim.calibrate.bench.sizes import Sizes
from aquasim.calibrate.bench.timing import Timing


def gemm_piece(sizes: Sizes) -> Piece:
    """Return the products of the models' layers and output heads by tokens, and those of a grid."""
    tokens, outputs, inputs = sizes.grid
    named = {(m, n, k) for n, k in sizes.shapes for m in sizes.tokens}
    filled = {(m, n, k) for m in tokens for n in outputs for k in inputs}
    ordered = sorted(named | filled, key=lambda shape: (shape[1], shape[2], shape[0]))
    points = tuple({"tokens": m, "outputs": n, "inputs": k, "kernel": "linear"} for m, n, k in ordered)
    return Piece("gemm", points, _open)


@contextmanager
def _open(bench: Bench) -> Iterator[Measure]:
    """Keep the weights while points of one shape follow each other."""
    held: dict[tuple[int, int], list[Any]] = {}
    linear = bench.torch.nn.functional.linear

    def measure(point: Point) -> Timing:
        m, n, k = (int(point[name]) for name in ("tokens", "outputs", "inputs"))
        if (n, k) not in held:
            held.clear()
            bench.free()
            held[n, k] = [bench.tensor(n, k) for _ in range(bench.turns(n * k * DTYPE_BYTES))]
        weights = held[n, k]
        inputs = [bench.tensor(m, k) for _ in weights]
        return bench.time([partial(linear, x, w) for x, w in zip(inputs, weights, strict=True)])

    yield measure
    held.clear()
    bench.free()
