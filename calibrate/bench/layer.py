"""A whole decoder layer with random weights: a check on the sum of its parts, and what copies beside it cost."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from aquasim.calibrate.bench.bench import Bench
from aquasim.calibrate.bench.kernels import Kernel, pick_kernel
from aquasim.calibrate.bench.piece import Measure, Piece, Point
from aquasim.calibrate.bench.sizes import Sizes
from aquasim.calibrate.bench.timing import Call, Timing
from aquasim.models import Model


def layer_piece(bench: Bench, sizes: Sizes) -> Piece:
    """Return decodes and chunks through one layer of the first model on one GPU."""
    model, _ = sizes.models[0]
    decodes = [(0, 0, batch, length) for batch in sizes.batches[::2] for length in sizes.lengths[1:-1:2]]
    chunks = [(new, cached, 0, 0) for new in sizes.new[::2] for cached in sizes.cached[:2]]
    points = tuple(
        {"new": new, "cached": cached, "batch": batch, "length": length, "tp": 1, "model": model.name}
        for new, cached, batch, length in (*decodes, *chunks)
        if 4 * model.kv_heads * model.head_dim * (batch * length + cached + new) <= bench.room
    )
    return Piece("layer", points, partial(_open, model))


@contextmanager
def _open(model: Model, bench: Bench) -> Iterator[Measure]:
    decoder = Layer(bench, model, pick_kernel(bench)[1])

    def measure(point: Point) -> Timing:
        new, cached, batch, length = (int(point[name]) for name in ("new", "cached", "batch", "length"))
        call = decoder.call(1, new, cached + new) if new else decoder.call(batch, 1, length)
        return bench.time([call])

    yield measure
    bench.free()


class Layer:
    """One Llama decoder layer: norms, products, rotary embedding, attention, gated feed-forward network.

    Every call goes through several sets of weights, so that none stays in the cache; its time is of one layer.
    """

    def __init__(self, bench: Bench, model: Model, kernel: Kernel) -> None:
        self.bench = bench
        self.model = model
        self.kernel = kernel
        weights = sum(gemm.n * gemm.k for gemm in model.gemms(1)) * model.dtype_bytes
        names = [(gemm.name, gemm.n, gemm.k) for gemm in model.gemms(1)]
        self.sets = [
            {name: bench.tensor(n, k).mul_(k**-0.5) for name, n, k in names}
            for _ in range(bench.turns(weights))
        ]
        self.scale = bench.tensor(model.hidden)
        self._turn = 0

    def call(self, batch: int, new: int, tokens: int) -> Call:
        """Return a call that runs `batch` sequences of `new` tokens, `tokens` in their caches."""
        bench, model = self.bench, self.model
        hidden = bench.tensor(batch * new, model.hidden)
        cache = [bench.tensor(batch, tokens, model.kv_heads, model.head_dim) for _ in range(2)]
        queries = bench.tensor(batch, new, model.heads, model.head_dim)
        attend = self.kernel(bench, queries, *cache)
        angles = [bench.tensor(batch * new, 1, model.head_dim // 2) for _ in range(2)]
        turns = [partial(self._run, weights, hidden, attend, angles) for weights in self.sets]

        def run() -> Any:
            self._turn += 1
            return turns[self._turn % len(turns)]()

        return run

    def _run(self, weights: dict[str, Any], hidden: Any, attend: Call, angles: list[Any]) -> Any:
        functions, model = self.bench.torch.nn.functional, self.model
        normed = functions.rms_norm(hidden, hidden.shape[-1:], self.scale)
        mixed = functions.linear(normed, weights["qkv"])
        queries_keys = mixed[:, : (model.heads + model.kv_heads) * model.head_dim]
        self._rotate(queries_keys.reshape(len(hidden), -1, model.head_dim), *angles)
        attended: Any = attend()
        flat = attended.reshape(len(hidden), model.heads * model.head_dim)
        hidden = hidden + functions.linear(flat, weights["output"])
        normed = functions.rms_norm(hidden, hidden.shape[-1:], self.scale)
        gate, up = functions.linear(normed, weights["gate_up"]).chunk(2, dim=-1)
        return hidden + functions.linear(functions.silu(gate).mul_(up), weights["down"])

    def _rotate(self, rotated: Any, cos: Any, sin: Any) -> Any:
        first, second = rotated.chunk(2, dim=-1)
        return self.bench.torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def overlap_piece(bench: Bench, sizes: Sizes, traffic: Callable[[Bench], Any]) -> Piece:
    """Return a decode through one layer alone, and beside copies in both directions that `traffic` keeps up.

    `traffic` gives a context in which pages move all the time, or raises RuntimeError where they cannot.
    """
    model, _ = sizes.models[0]
    batch, length = sizes.batches[-2], sizes.lengths[-3]
    points = tuple(
        {"batch": batch, "length": length, "traffic": busy, "link": "pcie", "model": model.name}
        for busy in (0, 1)
    )

    @contextmanager
    def open_(bench: Bench) -> Iterator[Measure]:
        decoder = Layer(bench, model, pick_kernel(bench)[1])
        call = decoder.call(batch, 1, length)

        def measure(point: Point) -> Timing:
            if not point["traffic"]:
                return bench.time([call])
            with traffic(bench):
                return bench.time([call])

        yield measure
        bench.free()

    return Piece("overlap", points, open_)
