"""What lending a cache costs an engine: emptying extents, scrubbing, and getting them back.

    python tests/runtime/donor/speed.py [--extents 8] [--extent-mib 64] [--full 0.5]

A coordinator runs as a process; nobody borrows, so that a reclaim is the donor's part alone. `full` of the cache is
held, spread over all extents, when half of them are to leave.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from aquasim.core.blocks import BlockPool
from aquasim.runtime.copy import Descriptors, HostCopier
from aquasim.runtime.donor import DonorClient
from aquasim.runtime.donor.elastic import ElasticPool
from aquasim.runtime.donor.frames import Frames, Int64s
from aquasim.runtime.engine import LlamaConfig

MIB = 1 << 20


def spread(pool: BlockPool, frames: Frames, full: float) -> list[int]:
    """Hold that share of the blocks, every so many; return them."""
    numbers = pool.take(pool.free)
    frames.places(numbers)
    order = np.random.default_rng(0).permutation(len(numbers))
    kept = [numbers[index] for index in order[: int(full * len(numbers))]]
    pool.give(sorted(set(numbers) - set(kept)))
    return kept


def main() -> None:
    """Print what each part takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--extents", type=int, default=8)
    parser.add_argument("--extent-mib", type=int, default=64)
    parser.add_argument("--full", type=float, default=0.45)
    asked = parser.parse_args()
    config = LlamaConfig(vocab=64, hidden=64, layers=32, heads=8, kv_heads=2, head_dim=64, intermediate=64)
    size = config.layers * 2 * 16 * 2 * 64 * 2
    blocks = asked.extents * (asked.extent_mib * MIB // size)
    elastic = ElasticPool(config, blocks, extent_bytes=asked.extent_mib * MIB, dtype=torch.bfloat16, fill=0.5)
    pool, copier = BlockPool(elastic.blocks), HostCopier()
    frames = Frames(pool, set, elastic.pool.base, elastic.block_bytes, elastic.extents, elastic.per_extent)
    spread(pool, frames, asked.full)
    leaving = elastic.extents // 2
    pool.resize((elastic.extents - leaving) * elastic.per_extent)
    copied = 0

    def move(old: Int64s, new: Int64s) -> None:
        nonlocal copied
        copied = len(old)
        copier.submit(Descriptors(old, new, old * 0 + elastic.block_bytes), copier.outgoing).wait()

    times = [time.perf_counter()]
    gone, _ = frames.vacate(leaving, move)
    times.append(time.perf_counter())
    arenas = [elastic.memory.leave(extent) for extent in gone]
    times.append(time.perf_counter())
    with tempfile.TemporaryDirectory(prefix="aqd") as folder:
        socket = Path(folder) / "c.sock"
        command = [sys.executable, "-m", "aquasim", "coordinator", "--socket", str(socket)]
        coordinator = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
        )
        back: list[object] = []
        client = DonorClient(socket, "engine")
        client.start()
        assert client.wait_connected(20)
        times.append(time.perf_counter())
        client.lend(arenas, back.append)
        while client.donated < leaving * elastic.extent_bytes:
            time.sleep(1e-4)
        times.append(time.perf_counter())
        client.reclaim(client.donated)
        while len(back) < leaving:
            time.sleep(1e-4)
        times.append(time.perf_counter())
        for extent in gone:
            elastic.memory.come(extent)
        times.append(time.perf_counter())
        client.close()
        coordinator.kill()
        coordinator.wait()
    lent = leaving * elastic.extent_bytes
    took = np.diff(times) * 1e3
    moved = copied * elastic.block_bytes
    print(
        f"{leaving} of {elastic.extents} extents, {lent / 1e6:.0f} MB; blocks of {elastic.block_bytes >> 10} KiB"
    )
    print(
        f"emptied   {took[0]:8.2f} ms: {copied} blocks, {moved / 1e6:.0f} MB, {moved / took[0] / 1e6:.1f} GB/s"
    )
    print(f"unmapped  {took[1]:8.2f} ms")
    print(f"scrubbed  {took[3]:8.2f} ms beside the engine, and lent: {lent / took[3] / 1e6:.1f} GB/s")
    print(f"reclaimed {took[4]:8.2f} ms: nobody held it")
    print(f"mapped    {took[5]:8.2f} ms")
    copier.close()


if __name__ == "__main__":
    main()
