"""A real model pages into memory of other processes: reclaimed, orphaned, unrenewed, and no token changes."""

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from processes import eventually, spawn

from aquasim.core import Limits, Scheduler, Transfer, make_policy
from aquasim.runtime.arenas import create
from aquasim.runtime.copy import HostCopier
from aquasim.runtime.engine import KvPool, LlamaConfig, Runner, random_weights
from aquasim.runtime.executor import Executor
from aquasim.runtime.executor.leased import LeasedTier
from aquasim.runtime.pager import Pager, Window
from aquasim.runtime.pager.pager import Pages
from aquasim.runtime.peers import PeerClient

torch = pytest.importorskip("torch")

CONFIG = LlamaConfig(
    vocab=97, hidden=32, layers=2, heads=4, kv_heads=2, head_dim=64, intermediate=64, max_positions=256
)
WEIGHTS = random_weights(CONFIG, seed=3)
SIZE, BLOCKS, PADDED = 4, 12, 32
MIB = 1 << 20
LEASE_S = 2.0


class Server:
    """A coordinator and two donors of 1 MiB each, as processes; an executor that pages into what they lend."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "c.sock"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.coordinator()
        for name in ("a", "b"):
            words = (
                "--gib",
                f"{1 / 1024}",
                "--extent-mib",
                "1",
                "--name",
                name,
                "--socket",
                str(self.socket),
            )
            self.processes[name] = spawn("donate", *words)
        pool = KvPool.of(CONFIG, BLOCKS, SIZE, fill=float("nan"))
        self.block_bytes = pool.block_bytes
        tiers = (("peer", 0), ("host", 60))
        limits = Limits(
            blocks=BLOCKS, block_size=SIZE, max_num_seqs=8, max_num_batched_tokens=PADDED, tiers=tiers, max_repeat=1
        )  # fmt: skip
        self.copier = HostCopier()
        pager = Pager(self.copier, Window(pool.base, pool.block_bytes), "always")
        self.host = create("memfd", 60 * pool.block_bytes)
        pager.tier("host").add("own", self.host.ptr, 60 * pool.block_bytes)
        pager.tier("host").grow(60)
        runner = Runner(CONFIG, WEIGHTS, pool, padded=PADDED, max_seqs=8)
        scheduler = Scheduler(limits, make_policy("cfs", slice_length=2))
        self.executor = Executor(scheduler, runner, pager)
        self.tier = LeasedTier(self.executor, "peer", lambda size: create("memfd", size))
        self.client = PeerClient(
            self.socket, "engine", usable=self.tier.usable, evacuate=self.tier.evacuate, probe_sizes=(4096,)
        )
        self.tier.client = self.client
        self.output: dict[int, list[int]] = {}

    def coordinator(self) -> None:
        """Start the coordinator, or start it again."""
        self.processes["coordinator"] = spawn(
            "coordinator", "--socket", str(self.socket), "--lease-s", f"{LEASE_S}", "--drain-s", "2"
        )
        eventually(self.socket.exists)

    def borrow(self) -> None:
        """Lease what both donors have."""
        self.client.start()
        self.client.want(2 * MIB)
        self.turns(lambda: self.tier.blocks == 2 * (MIB // self.block_bytes))

    def submit(self, jobs: list[tuple[list[int], int]]) -> None:
        """Send requests; their tokens are kept."""
        for id, (prompt, count) in enumerate(jobs):
            self.output[id] = []
            self.executor.submit(
                id, prompt, count, on_token=lambda id, token, last: self.output[id].append(token)
            )

    def turns(self, until: Callable[[], object], seconds: float = 30.0) -> None:
        """Let the executor work until a condition holds, or nothing is left to do."""
        limit = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < limit, "it never came"
            if not self.executor.turn():
                time.sleep(1e-4)

    def finish(self) -> list[list[int]]:
        """Run to the end and return every request's tokens."""
        self.turns(lambda: not self.executor.busy)
        self.executor.scheduler.check()
        assert self.executor.scheduler.pool.free == BLOCKS
        return [self.output[id] for id in sorted(self.output)]

    def close(self) -> None:
        """End everything."""
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.client.close(0.1)
        self.tier.close()
        self.copier.close()
        self.host.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Give a server whose donors' memory is leased."""
    made = Server(tmp_path)
    try:
        made.borrow()
        yield made
    finally:
        made.close()


def jobs(seed: int) -> list[tuple[list[int], int]]:
    """Return requests whose contexts exceed the cache several times."""
    rng = random.Random(seed)
    return [([rng.randrange(97) for _ in range(rng.randint(4, 14))], rng.randint(12, 24)) for _ in range(8)]


def alone(prompt: list[int], count: int) -> list[int]:
    """Return what a request generates by itself, never interrupted."""
    pool = KvPool.of(CONFIG, BLOCKS, SIZE, fill=float("nan"))
    limits = Limits(
        blocks=BLOCKS, block_size=SIZE, max_num_seqs=8, max_num_batched_tokens=PADDED, max_repeat=1
    )
    scheduler = Scheduler(limits, make_policy("fcfs"))
    executor = Executor(scheduler, Runner(CONFIG, WEIGHTS, pool, padded=PADDED, max_seqs=8))
    executor.submit(0, prompt, count)
    sequence = executor.sequences[0]
    executor.run()
    return sequence.generated


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    """Return the tokens of every request alone."""
    return [alone(*job) for job in jobs(1)]


def paged(server: Server) -> bool:
    """Whether much has been paged into the leased tier."""
    return server.executor.scheduler.pager.tiers["peer"].held >= 8


def test_pages_go_to_other_processes_and_come_back(server: Server, expected: list[list[int]]) -> None:
    """Slices page into leased memory: the tokens are those of uninterrupted requests, and bytes really moved."""
    server.submit(jobs(1))
    assert server.finish() == expected
    assert server.executor.pager is not None
    assert server.executor.pager.moved_bytes > 20 * server.block_bytes
    assert server.executor.repaired == 0
    assert {mapped.transport for mapped in server.client.extents()} == {"memfd: host memory"}


def test_a_reclaim_in_the_middle(server: Server, expected: list[list[int]]) -> None:
    """A donor is asked to stop: it ends once its memory is free; the pages move on, and no token changes."""
    server.submit(jobs(1))
    server.turns(lambda: paged(server))
    server.processes["a"].send_signal(signal.SIGTERM)
    server.turns(lambda: len(server.client.extents()) == 1)
    eventually(lambda: server.processes["a"].poll() is not None)
    assert server.finish() == expected
    assert server.processes["a"].poll() == 0
    assert server.tier.blocks == MIB // server.block_bytes


def test_both_donors_leave_and_pages_go_to_the_host(server: Server, expected: list[list[int]]) -> None:
    """With no leased memory left, pages are on the host or computed again; the tier is empty."""
    server.submit(jobs(1))
    server.turns(lambda: paged(server))
    for name in ("a", "b"):
        server.processes[name].send_signal(signal.SIGTERM)
    server.turns(lambda: not server.client.extents())
    assert server.finish() == expected
    assert server.executor.scheduler.pager.tiers["peer"].capacity == 0


def test_a_donor_is_killed(server: Server, expected: list[list[int]]) -> None:
    """kill -9: pages in its memory are still readable, are moved away, and no token changes."""
    server.submit(jobs(1))
    server.turns(lambda: paged(server))
    server.processes["b"].kill()
    server.turns(lambda: len(server.client.extents()) == 1)
    assert server.finish() == expected
    assert server.executor.repaired == 0


def test_a_page_out_whose_extents_must_be_left_before_it_starts(
    server: Server, expected: list[list[int]]
) -> None:
    """Nowhere else to write: it goes to memory of our own, and the extents are given back; nothing waits forever."""
    tier = server.tier
    late: list[Transfer] = []

    def hesitant(transfer: Transfer, pages: Sequence[Pages]) -> bool:
        if transfer.kind == "out" and paged(server) and not late:
            late.append(transfer)
            server.client.want(0)
            for mapped in server.client.extents():
                tier.evacuate(mapped, "reclaim")
            return False
        return tier.may_start(transfer, pages)

    server.executor.transfers.may_start = hesitant
    server.submit(jobs(1))
    assert server.finish() == expected
    assert [transfer.tier for transfer in late] == ["peer"]
    server.turns(lambda: not server.client.extents())
    assert tier.blocks == 0
    assert not tier.spilling


def test_the_coordinator_is_killed_and_comes_back(server: Server, expected: list[list[int]]) -> None:
    """Without a coordinator leases lapse: pages move to memory of our own before anything is written again.

    Serving never stops; a new coordinator's grants are taken up, and our own memory is free again.
    """
    server.submit(jobs(1))
    server.turns(lambda: paged(server))
    server.processes["coordinator"].kill()
    server.processes["coordinator"].wait()
    time.sleep(LEASE_S)
    assert not any(server.client.may_write(mapped) for mapped in server.client.extents())
    server.turns(lambda: server.tier.spilt == 2)
    assert not server.client.extents()
    server.coordinator()
    assert server.finish() == expected
    eventually(lambda: len(server.client.extents()) == 2)
    server.executor.turn()
    server.turns(lambda: not server.tier.spilling)
    assert server.tier.blocks == 2 * (MIB // server.block_bytes)
