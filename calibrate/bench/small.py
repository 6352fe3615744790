"""Small kernels: norm, rotary embedding, activation, a layer's worth of them; sampling; memory itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from aquasim.calibrate.bench.bench import DTYPE_BYTES, Bench
from aquasim.calibrate.bench.piece import Measure, Piece, Point
from aquasim.calibrate.bench.sizes import Sizes
from aquasim.calibrate.bench.timing import Call, Timing
from aquasim.hardware.linear import elementwise
from aquasim.models import Model

Operands = dict[str, Any]
Step = Callable[[Any, Operands], Any]


def norm(torch: Any, o: Operands) -> Any:
    """RMS norm behind the addition of the residual."""
    o["residual"].add_(o["x"])
    return torch.nn.functional.rms_norm(o["residual"], o["x"].shape[-1:], o["weight"])


def rotary(torch: Any, o: Operands) -> Any:
    """Rotate queries and keys by their positions, in halves."""
    half = o["rotated"].shape[-1] // 2
    first, second = o["rotated"][..., :half], o["rotated"][..., half:]
    return torch.cat((first * o["cos"] - second * o["sin"], second * o["cos"] + first * o["sin"]), dim=-1)


def activation(torch: Any, o: Operands) -> Any:
    """SiLU of one half times the other."""
    gate, up = o["wide"].chunk(2, dim=-1)
    return torch.nn.functional.silu(gate).mul_(up)


def layer(torch: Any, o: Operands) -> Any:
    """All of one decoder layer's small kernels: two norms, rotary embedding, activation."""
    norm(torch, o)
    rotary(torch, o)
    norm(torch, o)
    return activation(torch, o)


STEPS: dict[str, Step] = {"norm": norm, "rotary": rotary, "activation": activation, "layer": layer}


def elementwise_piece(sizes: Sizes) -> Piece:
    """Return each small kernel by tokens, and a layer's worth of them, for the first model."""
    model, tp = sizes.models[0]
    points = tuple(
        {"bytes": tokens * moved, "kernels": kernels, "tokens": tokens, "kernel": name}
        for name, (moved, kernels) in _moved(model, tp).items()
        for tokens in sizes.tokens
    )

    @contextmanager
    def open_(bench: Bench) -> Iterator[Measure]:
        steps = {name: _compiled(bench, step) for name, step in STEPS.items()}

        def measure(point: Point) -> Timing:
            tokens, step = int(point["tokens"]), steps[str(point["kernel"])]
            sets = [_operands(bench, model, tp, tokens) for _ in range(bench.turns(float(point["bytes"])))]
            return bench.time([partial(step, bench.torch, operands) for operands in sets])

        yield measure
        bench.free()

    return Piece("elementwise", points, open_)


def _compiled(bench: Bench, step: Step) -> Step:
    """Fuse a step's operations as engines do, where a compiler for the GPU is at hand; on the CPU leave them."""
    if not bench.cuda:
        return step
    try:
        fused: Step = bench.torch.compile(step, dynamic=True)
        fused(bench.torch, _operands(bench, _PROBE, 1, 1))
    except Exception:  # no Triton, or no compiler for it
        return step
    return fused


_PROBE = Model("probe", 1, 256, 4, 2, 64, 512, 256)


def _moved(model: Model, tp: int) -> dict[str, tuple[int, int]]:
    """Return bytes per token and number of kernels of each step, as the cost model counts them."""
    rotated = (model.heads // tp + model.kv_heads_gpu(tp)) * model.head_dim
    return {
        "norm": (4 * model.hidden * DTYPE_BYTES, 1),
        "rotary": (2 * rotated * DTYPE_BYTES, 1),
        "activation": (3 * (model.intermediate // tp) * DTYPE_BYTES, 1),
        "layer": elementwise(model, tp),
    }


def _operands(bench: Bench, model: Model, tp: int, tokens: int) -> Operands:
    rotated = model.heads // tp + model.kv_heads_gpu(tp)
    return {
        "x": bench.tensor(tokens, model.hidden),
        "residual": bench.torch.zeros(tokens, model.hidden, dtype=bench.dtype, device=bench.device),
        "weight": bench.tensor(model.hidden),
        "rotated": bench.tensor(tokens, rotated, model.head_dim),
        "cos": bench.tensor(tokens, 1, model.head_dim // 2),
        "sin": bench.tensor(tokens, 1, model.head_dim // 2),
        "wide": bench.tensor(tokens, 2 * (model.intermediate // tp)),
    }


def sampling_piece(sizes: Sizes) -> Piece:
    """Return random sampling from logits by number of sequences."""
    model, tp = sizes.models[0]
    points = tuple(
        {"sequences": sequences, "vocab": model.vocab // tp, "kernel": "random"}
        for sequences in sizes.sequences
    )
    return Piece("sampling", points, _open_sampling)


@contextmanager
def _open_sampling(bench: Bench) -> Iterator[Measure]:
    def sample(logits: Any) -> Any:
        chances = logits.float().softmax(dim=-1)
        return (chances / bench.torch.empty_like(chances).exponential_()).argmax(dim=-1)

    def measure(point: Point) -> Timing:
        rows, vocab = int(point["sequences"]), int(point["vocab"])
        sets = [bench.tensor(rows, vocab) for _ in range(bench.turns(rows * vocab * DTYPE_BYTES))]
        return bench.time([partial(sample, logits) for logits in sets])

    yield measure
    bench.free()


def memory_piece(bench: Bench, sizes: Sizes) -> Piece:
    """Return reading and copying large stretches of the device's memory; a copy counts its bytes twice."""
    points = tuple(
        {"bytes": size, "method": method}
        for method in ("read", "copy")
        for size in sizes.memory
        if size <= bench.room
    )
    return Piece("memory", points, _open_memory)


@contextmanager
def _open_memory(bench: Bench) -> Iterator[Measure]:
    def measure(point: Point) -> Timing:
        size, call = int(point["bytes"]), _memory_call(bench, str(point["method"]))
        return bench.time([call(size) for _ in range(min(2, bench.turns(size)))])

    yield measure
    bench.free()


def _memory_call(bench: Bench, method: str) -> Callable[[int], Call]:
    def read(size: int) -> Call:
        data = bench.torch.ones(size // 4, dtype=bench.torch.float32, device=bench.device)
        return partial(bench.torch.sum, data)

    def copy(size: int) -> Call:
        source = bench.tensor(size // 4)
        return partial(bench.torch.empty_like(source).copy_, source)

    return read if method == "read" else copy
