"""An engine that pages into leased memory: `SOCKET BYTES JOBS`. Says "leased" and how many more bytes are resident.

On a line of stdin it serves. It says "paged" once much of what it holds is elsewhere, "left" when it holds no lease
any more, and at the end "tokens [...]".
"""

import json
import sys
import threading
import time
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[2] / "common"))
from lending_stage import CONFIG, PADDED, SIZE, WEIGHTS

from aquasim.core import Limits, Scheduler, make_policy
from aquasim.runtime.arenas import create
from aquasim.runtime.copy import HostCopier
from aquasim.runtime.engine import KvPool, Runner
from aquasim.runtime.executor import Executor
from aquasim.runtime.executor.leased import LeasedTier
from aquasim.runtime.pager import Pager, Window
from aquasim.runtime.peers import PeerClient

BLOCKS, HOST = 12, 60


def resident() -> int:
    """Return the bytes of shared memory that this process has mapped and present."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssShmem:"))


def main() -> None:
    """Lease, serve, say so, until killed."""
    torch.set_num_threads(1)
    socket, want, wanted = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    pool = KvPool.of(CONFIG, BLOCKS, SIZE, fill=float("nan"))
    limits = Limits(
        blocks=BLOCKS, block_size=SIZE, max_num_seqs=8, max_num_batched_tokens=PADDED,
        tiers=(("peer", 0), ("host", HOST)), max_repeat=1,
    )  # fmt: skip
    pager = Pager(HostCopier(), Window(pool.base, pool.block_bytes), "always")
    host = create("memfd", HOST * pool.block_bytes)
    pager.tier("host").add("own", host.ptr, HOST * pool.block_bytes)
    pager.tier("host").grow(HOST)
    runner = Runner(CONFIG, WEIGHTS, pool, padded=PADDED, max_seqs=8)
    executor = Executor(Scheduler(limits, make_policy("cfs", slice_length=2)), runner, pager)
    tier = LeasedTier(executor, "peer", lambda size: create("memfd", size))
    client = PeerClient(socket, "borrower", usable=tier.usable, evacuate=tier.evacuate, probe_sizes=(4096,))
    tier.client = client
    before = resident()
    client.start()
    client.want(want)
    go = threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        go.set()

    threading.Thread(target=listen, daemon=True).start()
    told: dict[int, list[int]] = {}
    said: set[str] = set()

    def say(word: str, now: bool, more: str = "") -> None:
        if now and word not in said:
            said.add(word)
            print(word, more, flush=True)

    while True:
        if not executor.turn():
            time.sleep(1e-4)
        held = sum(mapped.bytes for mapped in client.extents())
        say("leased", held >= want, str(resident() - before))
        say("left", "leased" in said and not client.extents() and not tier.blocks)
        say("paged", executor.scheduler.pager.tiers["peer"].held >= 8)
        if go.is_set() and not told:
            for id, (prompt, count) in enumerate(wanted):
                told[id] = []
                executor.submit(id, prompt, count, on_token=lambda id, token, last: told[id].append(token))
        if told and not executor.busy:
            say("tokens", True, json.dumps([told[id] for id in range(len(wanted))]))


if __name__ == "__main__":
    main()
