"""How fast decode attention on the host reads its KV cache, beside a plain read of the same memory.

    python tests/runtime/host/speed.py [--threads 2] [--tokens 16384] [--gib 1] [--rounds 15]

Each round reads one layer's keys and values of all tokens, one layer after the other, so that no cache holds them;
plain reads take as many bytes, in turn with the kernels, since the machine may be shared. Medians over rounds.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault(
    "OMP_WAIT_POLICY", "passive"
)  # torch's threads must not keep a core busy once they are done

import torch

from aquasim.runtime.engine import KvPool
from aquasim.runtime.host import HostAttention, native

SHAPES = {"8B": (32, 8, 128), "7B": (32, 32, 128), "70B": (64, 8, 128), "mini": (6, 2, 64)}
"""(heads, KV heads, head_dim) of Llama models."""
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class Bench:
    """One pool, and the two kernels and the plain read over it."""

    def __init__(self, shape: str, dtype: str, tokens: int, gib: float, threads: int) -> None:
        self.heads, kv_heads, dim = SHAPES[shape]
        self.tokens, self.threads = tokens, threads
        layer = tokens * 2 * kv_heads * dim * DTYPES[dtype].itemsize
        self.layers = max(2, int(gib * 2**30 / layer))
        self.pool = KvPool(tokens // 16, self.layers, 16, kv_heads, dim, dtype=DTYPES[dtype], fill=0.5)
        self.bytes = layer
        self._at = 0
        self._reader = native.Threads(native.library(), threads)

    def next(self) -> int:
        """Return the layer whose turn it is."""
        self._at = (self._at + 1) % self.layers
        return self._at

    def attention(self, kernel: str, requests: int) -> Callable[[], None]:
        """Return a call that attends to all tokens, held by so many requests alike, blocks scattered."""
        each = self.tokens // requests
        order = torch.randperm(self.tokens // 16, generator=torch.Generator().manual_seed(0)).tolist()
        blocks = [order[i * (each // 16) : (i + 1) * (each // 16)] for i in range(requests)]
        made = HostAttention(self.pool, self.heads, threads=self.threads, kernel=kernel)  # type: ignore[arg-type]
        work = made.plan(blocks, [each] * requests)
        queries = torch.randn(requests, self.heads, self.pool.head_dim)
        out = torch.empty_like(queries)
        return lambda: made.attend(work, self.next(), queries, out)

    def read(self) -> None:
        """Read as many bytes as a layer has."""
        pieces = self.bytes >> 20
        last = (self.pool.nbytes >> 20) - pieces
        self._reader.read(self.pool.base, 0)
        self._reader.read(self.pool.base + (((self.next() * pieces) % max(last, 1)) << 20), pieces)

    def sum(self) -> None:
        """Have torch add up as many bytes as a layer has."""
        words = self.pool.data.view(-1).view(torch.int64)
        count = self.bytes // 8
        at = (self.next() * count) % max(len(words) - count, 1)
        words[at : at + count].sum()


def rates(
    bench: Bench,
    calls: dict[str, Callable[[], None]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return GB/s of each call (by `time.process_time`: GB per CPU second), medians of rounds in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            began = clock()
            call()
            if round_:
                times[name].append(clock() - began)
    return {name: bench.bytes / statistics.median(t) / 1e9 for name, t in times.items()}


def main() -> None:
    """Print one line per shape and number of requests."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"{asked.threads} threads, {asked.tokens} tokens a layer")
    for shape, dtype in (
        ("8B", "float16"),
        ("8B", "bfloat16"),
        ("8B", "float32"),
        ("7B", "float16"),
        ("70B", "float16"),
    ):
        bench = Bench(shape, dtype, asked.tokens, asked.gib, asked.threads)
        counts = [1, 8, 64, 256]
        calls = {"read": bench.read, "sum": bench.sum}
        calls |= {f"{n}": bench.attention("native", n) for n in counts}
        calls |= {"torch": bench.attention("torch", 64)}
        found = rates(bench, calls, asked.rounds)
        mine = [found[f"{n}"] for n in counts]
        middle, spread = statistics.median(mine), max(mine) / min(mine) - 1
        by_count = ", ".join(f"{n}: {rate:.1f}" for n, rate in zip(counts, mine, strict=True))
        print(
            f"{shape:3} {dtype:8}: GB/s by requests {by_count} (spread {spread:.0%});"
            f" torch's sum {found['sum']:.1f} (share {middle / found['sum']:.0%}),"
            f" plain read {found['read']:.1f} ({middle / found['read']:.0%});"
            f" in torch {found['torch']:.1f} ({middle / found['torch']:.1f} times as slow)"
        )


if __name__ == "__main__":
    main()
