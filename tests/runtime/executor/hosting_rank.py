"""Run as a program: one rank of an engine whose host attends. Prints what it said and did as JSON.

python hosting_rank.py RANK WORLD FOLDER    (FOLDER: where the ranks meet)
"""

import hashlib
import json
import math
import random
import sys
import time
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed

sys.path.append(str(Path(__file__).parents[2] / "core"))

from tables import predictor

from aquasim.core import Limits, Scheduler, make_policy
from aquasim.core.predictor import Copying
from aquasim.runtime.copy import HostCopier
from aquasim.runtime.engine import HostLanes, KvPool, LlamaConfig, Runner, random_weights
from aquasim.runtime.executor import Executor
from aquasim.runtime.executor.ranks import Follower, Leader
from aquasim.runtime.pager import Pager, Window

CONFIG = LlamaConfig(
    vocab=97, hidden=64, layers=2, heads=8, kv_heads=4, head_dim=8, intermediate=64, max_positions=256
)
LIMITS = Limits(
    blocks=12, block_size=4, max_num_seqs=24, max_num_batched_tokens=64, max_model_len=40, tiers=(("host", 200),),
    max_repeat=1,
)  # fmt: skip
LANED = ("neo", "hybrid", "fastdecode")
HOST, SLOWER = 0.01, 1e6
"""How slow the host is in rank 0's tables, and in the others' own, which would never have it decode."""


class Engine:
    """One rank of an engine whose cache holds a few requests, with its part of both pools."""

    def __init__(self, name: str, rank: int, world: int) -> None:
        tier = dict(LIMITS.tiers)["host"]
        pool = KvPool.of(CONFIG, LIMITS.blocks, LIMITS.block_size, world=world, fill=math.nan)
        self.memory = torch.zeros((tier + 1) * pool.block_bytes, dtype=torch.uint8)
        there = KvPool.of(CONFIG, tier, LIMITS.block_size, memory=self.memory, world=world, fill=math.nan)
        shard = CONFIG.shard(rank, world)
        self.host = HostLanes(there, shard.heads, threads=1)
        weights = random_weights(CONFIG, seed=3, rank=rank, world=world)
        runner = Runner(CONFIG, weights, pool, max_seqs=24, rank=rank, world=world, host=self.host)
        self.copier = HostCopier()
        self.pager = Pager(self.copier, Window(pool.base, pool.block_bytes), "always")
        self.pager.tier("host").add("own", there.base, tier * pool.block_bytes)
        self.pager.tier("host").grow(tier)
        policy = make_policy(name)
        policy.predictor = predictor(
            host=SLOWER if rank else HOST, launch=0.0, copies={"host": Copying(10.0, 10.0)}
        )
        self.executor = Executor(Scheduler(LIMITS, policy), runner, self.pager, record_events=True)
        self.output: dict[int, list[int]] = {}

    def serve(self) -> None:
        """Take more requests than the cache holds, one per turn, and run until the last is done."""
        rng, turn = random.Random(5), 0
        load = [
            ([rng.randrange(97) for _ in range(rng.randint(2, 14))], rng.randint(3, 14)) for _ in range(14)
        ]
        while turn < len(load) or self.executor.busy:
            if turn < len(load):
                self.output[turn] = []
                self.executor.submit(
                    turn, *load[turn], on_token=lambda id, token, _: self.output[id].append(token)
                )
            self.executor.turn()
            turn += 1

    def close(self) -> dict[str, Any]:
        """Check that nothing is left, free memory, and say what was done."""
        self.executor.scheduler.check()
        assert self.executor.scheduler.pager.tiers["host"].held == 0
        assert self.executor.repaired == 0
        self.host.close()
        self.copier.close()
        commands = hashlib.sha256(repr(self.executor.commands).encode()).hexdigest()
        return {
            "output": list(self.output.values()), "commands": commands, "computed": self.host.computed,
            "staged": self.host.staged, "moved": self.pager.moved_bytes, "kv_heads": self.host.pool.kv_heads,
        }  # fmt: skip


def play(name: str, rank: int = 0, world: int = 1, link: Connection | None = None) -> dict[str, Any]:
    """Serve the load under a policy, as one rank or as the only one."""
    engine = Engine(name, rank, world)
    if link is None:
        engine.serve()
    elif rank:
        Follower(engine.executor, link).run()
    else:
        leader = Leader(engine.executor, [link])
        engine.serve()
        leader.close()
    return engine.close()


def meet(rank: int, address: str) -> Connection:
    """Return a connection to the other one of two ranks."""
    if not rank:
        with Listener(address, "AF_UNIX") as listener:
            return listener.accept()
    limit = time.monotonic() + 30
    while not Path(address).exists() and time.monotonic() < limit:
        time.sleep(0.01)
    return Client(address, "AF_UNIX")


def main() -> None:
    """Meet the other rank and play each policy."""
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/gloo", rank=rank, world_size=world)
    print(json.dumps({name: play(name, rank, world, meet(rank, f"{folder}/{name}")) for name in LANED}))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
