"""All-reduce: NCCL between the GPUs of this machine, gloo between processes on a CPU."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

from aquasim.calibrate.bench.bench import DTYPE_BYTES, Bench, load_torch
from aquasim.calibrate.bench.piece import Measure, Piece, Point
from aquasim.calibrate.bench.sizes import Sizes
from aquasim.calibrate.bench.timing import Timing
from aquasim.models import TP_DEGREES

_ROUNDS = 20
_WARM_UP = 5
_TIMEOUT_S = 300


def all_reduce_piece(bench: Bench, sizes: Sizes) -> Piece | None:
    """Return all-reduces by bytes over 2, 4, 8 GPUs as far as there are; on a CPU over 2 processes, in full only."""
    there = int(bench.torch.cuda.device_count()) if bench.cuda else 2
    if there < 2 or not sizes.all_reduce:
        return None
    kernel = "nccl" if bench.cuda else "gloo"
    points = tuple(
        {"gpus": gpus, "bytes": size, "kernel": kernel}
        for gpus in TP_DEGREES
        if 1 < gpus <= there
        for size in sizes.all_reduce
    )
    return Piece("all_reduce", points, partial(_open, list(sizes.all_reduce)), {"all-reduce": kernel})


@contextmanager
def _open(sizes: list[int], bench: Bench) -> Iterator[Measure]:
    """Measure all sizes of a number of GPUs at once, when the first is asked for: processes take seconds to start."""
    known: dict[int, dict[int, Timing]] = {}

    def measure(point: Point) -> Timing:
        gpus, size = int(point["gpus"]), int(point["bytes"])
        if gpus not in known:
            known[gpus] = _measure(bench.kind, gpus, sizes)
        return known[gpus][size]

    yield measure


def _measure(kind: str, gpus: int, sizes: list[int]) -> dict[int, Timing]:
    """Run `gpus` processes and return what the first one timed, by bytes."""
    context = import_module("torch.multiprocessing").get_context("spawn")
    results = context.SimpleQueue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    work = partial(_rank, kind, gpus, sizes, port, results)
    processes = [context.Process(target=work, args=(rank,), daemon=True) for rank in range(gpus)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(_TIMEOUT_S)
    failed = [process.exitcode for process in processes if process.exitcode != 0]
    for process in processes:
        process.kill()
    if failed:
        raise RuntimeError(f"all-reduce over {gpus} processes failed (exit codes {failed})")
    return {size: Timing(*values) for size, values in results.get().items()}


def _rank(kind: str, gpus: int, sizes: list[int], port: int, results: Any, rank: int) -> None:
    """Be one of the processes: join, reduce each size many times, and let the first one report."""
    torch = load_torch()
    distributed = import_module("torch.distributed")
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    if kind == "cuda":
        torch.cuda.set_device(rank)
    distributed.init_process_group("nccl" if kind == "cuda" else "gloo", rank=rank, world_size=gpus)
    try:
        found = {size: _time(torch, distributed, kind, size) for size in sizes}
        if rank == 0:
            results.put({size: (t.seconds, t.q25, t.q75, t.repeats) for size, t in found.items()})
    finally:
        distributed.destroy_process_group()


def _time(torch: Any, distributed: Any, kind: str, size: int) -> Timing:
    """Return the time of one all-reduce: of `_ROUNDS` in a row, since a single one waits for the slowest starter."""
    data = torch.zeros(max(1, size // DTYPE_BYTES), dtype=torch.bfloat16, device=kind)
    wait = torch.cuda.synchronize if kind == "cuda" else (lambda: None)
    times = []
    for turn in range(_WARM_UP + _ROUNDS // 2):
        distributed.barrier()
        wait()
        started = time.perf_counter()
        for _ in range(_ROUNDS):
            distributed.all_reduce(data)
        wait()
        if turn >= _WARM_UP:
            times.append((time.perf_counter() - started) / _ROUNDS)
    return Timing.of(times)
