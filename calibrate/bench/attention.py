"""Attention of one layer: prefill by new and cached tokens, decoding by batch and length, on GPU or CPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

from aquasim.calibrate.bench.bench import DTYPE_BYTES, Bench
from aquasim.calibrate.bench.kernels import Kernel, pick_kernel, sdpa
from aquasim.calibrate.bench.piece import Measure, Piece, Point
from aquasim.calibrate.bench.sizes import Heads, Sizes
from aquasim.calibrate.bench.timing import Timing

_MOST_PAIRS = {True: 1 << 28, False: 1 << 36}  # of query and key times heads, quick and in full


def decode_piece(bench: Bench, sizes: Sizes) -> Piece:
    """Return decodes of every head shape by batch and length, as far as their caches fit."""
    name, kernel = pick_kernel(bench)
    points = tuple(
        {**_columns(heads), "batch": batch, "length": length, "kernel": name}
        for heads, batch, length in product(sizes.heads, sizes.batches, sizes.lengths)
        if _cache_bytes(heads, batch * length) <= bench.room
    )
    return Piece("decode_attention", points, _opener(kernel), {"decode attention": name})


def prefill_piece(bench: Bench, sizes: Sizes) -> Piece:
    """Return chunks of every head shape by new and cached tokens; short ones four at a time as well."""
    name, kernel = pick_kernel(bench)
    points = tuple(
        {**_columns(heads), "batch": batch, "new": new, "cached": cached, "kernel": name}
        for heads, new, cached in product(sizes.heads, sizes.new, sizes.cached)
        for batch in ((1, 4) if new <= 256 else (1,))
        if _cache_bytes(heads, batch * (new + cached)) <= bench.room
        and heads[0] * batch * new * (new + cached) <= _MOST_PAIRS[bench.quick]
    )
    return Piece("prefill_attention", points, _opener(kernel), {"prefill attention": name})


def host_piece(bench: Bench, sizes: Sizes) -> Piece:
    """Return decode attention on the CPU by number of threads, for engines that leave some of it there."""
    heads = sizes.heads[0]
    threads = thread_counts(bench)
    lengths = sizes.lengths[1:-1] if bench.quick else (128, 1024, 4096)
    points = tuple(
        {"threads": count, **_columns(heads), "batch": batch, "length": length, "kernel": "sdpa"}
        for count, batch, length in product(threads, (1, 8), lengths)
    )
    return Piece("cpu_attention", points, _open_host)


def thread_counts(bench: Bench) -> list[int]:
    """Return 1, 2, 4, ... threads up to the cores there are; in quick mode on the CPU only 1."""
    if bench.quick and not bench.cuda:
        return [1]
    most = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return sorted({1, *(2**i for i in range(1, 9) if 2**i < most), most})


def _columns(heads: Heads) -> dict[str, int]:
    return dict(zip(("heads", "kv_heads", "head_dim"), heads, strict=True))


def _cache_bytes(heads: Heads, tokens: int) -> int:
    return 2 * heads[1] * heads[2] * tokens * DTYPE_BYTES


def _opener(kernel: Kernel):  # type: ignore[no-untyped-def]
    @contextmanager
    def open_(bench: Bench) -> Iterator[Measure]:
        yield lambda point: _measure(bench, kernel, point)
        bench.free()

    return open_


def _measure(bench: Bench, kernel: Kernel, point: Point) -> Timing:
    """Measure one point, on as many caches in turn as keep them out of the processor's cache."""
    heads, kv_heads, dim, batch = (int(point[name]) for name in ("heads", "kv_heads", "head_dim", "batch"))
    new = int(point.get("new", 1))
    tokens = int(point["cached"]) + new if "new" in point else int(point["length"])
    turns = bench.turns(_cache_bytes((heads, kv_heads, dim), batch * tokens))
    calls = []
    for _ in range(turns):
        queries = bench.tensor(batch, new, heads, dim)
        calls.append(kernel(bench, queries, *(bench.tensor(batch, tokens, kv_heads, dim) for _ in range(2))))
    return bench.time(calls)


@contextmanager
def _open_host(bench: Bench) -> Iterator[Measure]:
    """Measure on the CPU whatever the device is, and give the threads back afterwards."""
    host = Bench("cpu", quick=bench.quick) if bench.cuda else bench
    before = bench.torch.get_num_threads()

    def measure(point: Point) -> Timing:
        bench.torch.set_num_threads(int(point["threads"]))
        return _measure(host, sdpa, point)

    try:
        yield measure
    finally:
        bench.torch.set_num_threads(before)
