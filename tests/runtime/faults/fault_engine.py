"""An engine as a process that obeys: it serves requests while it is asked, held up, stopped or killed."""

import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from aquasim.runtime.arenas import create
from aquasim.runtime.copy import HostCopier
from aquasim.runtime.copy.host import HostEvent
from aquasim.runtime.executor import Executor
from aquasim.runtime.executor.leased import LeasedTier
from aquasim.runtime.executor.ranks import Follower, Leader
from aquasim.runtime.pager import Pager, Window
from aquasim.runtime.peers import PeerClient

NAP_S = 1e-4


class Gated(HostCopier):
    """Copies that can be held up once they are submitted, in one direction."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: HostEvent | None = None
        self.held = ""
        """The direction to hold up: in or out."""
        self.caught = 0
        """Copies that were held up."""

    def submit(self, copies: Any, stream: Any, path: str = "auto", *, stable: bool = False) -> Any:
        """Queue copies, behind the gate if there is one."""
        if self.gate is not None and len(copies) and stream is self._stream():
            stream.wait(self.gate)
            self.caught += 1
        return super().submit(copies, stream, path, stable=stable)

    def _stream(self) -> Any:
        return self.outgoing if self.held == "out" else self.incoming


class Engine:
    """A model whose cache is paged to peers and to the host; rank 0, or another one that follows it at `meet`."""

    def __init__(
        self, path: str, name: str, host: int = 60, check: str = "always", policy: str = "cfs",
        options: dict[str, Any] | None = None, rank: int = 0, world: int = 1, meet: str = "",
    ) -> None:  # fmt: skip
        self.fds_before = len(os.listdir("/proc/self/fd"))
        self.rank, self.world, self.meet = rank, world, meet
        self.links: list[Connection] = []
        self.output: dict[int, list[int]] = {}
        self.done: list[int] = []
        self.most_held = 0
        self.error = ""
        self.lock = threading.Lock()
        self.asked = threading.Event()
        self.paused = self.ended = False
        self._build: Callable[[], None]
        self._build = lambda: self._make(path, name, host, check, policy, options or {"slice_length": 2})

    def _make(
        self, path: str, name: str, host: int, check: str, policy: str, options: dict[str, Any]
    ) -> None:
        """Build the engine; ranks wait for each other here."""
        from fault_model import make_runner, make_scheduler

        runner = make_runner(self.rank, self.world)
        self.block_bytes = runner.pool.block_bytes
        self.copier = Gated()
        pager = Pager(self.copier, Window(runner.pool.base, self.block_bytes), check)  # type: ignore[arg-type]
        self.host = create("memfd", max(1, host) * self.block_bytes)
        if host:
            pager.tier("host").add("own", self.host.ptr, host * self.block_bytes)
            pager.tier("host").grow(host)
        scheduler = make_scheduler(policy, (("peer", 0), ("host", host)), **options)
        self.executor = Executor(scheduler, runner, pager, record_events=True)
        self.tier = LeasedTier(self.executor, "peer", lambda size: create("memfd", size))
        self.client = PeerClient(
            Path(path), name, usable=self.tier.usable, evacuate=self.tier.evacuate, probe_sizes=(4096,)
        )
        self.tier.client = self.client

    def _join_ranks(self) -> None:
        if self.world > 1:
            import torch.distributed as distributed

            where = f"file://{self.meet}.gloo"
            distributed.init_process_group("gloo", init_method=where, rank=self.rank, world_size=self.world)
            self.fds_before = len(os.listdir("/proc/self/fd"))
            self.links = self._connect()

    # --- the serving thread ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Serve from now on."""
        self._join_ranks()
        self._build()
        lead = self.world > 1 and not self.rank
        self.leader = Leader(self.executor, self.links, [self.tier]) if lead else None
        self.follower = Follower(self.executor, self.links[0], [self.tier]) if self.rank else None
        self.client.start()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _connect(self) -> list[Connection]:
        if not self.rank:
            with Listener(self.meet, "AF_UNIX") as listener:
                return [listener.accept() for _ in range(self.world - 1)]
        limit = time.monotonic() + 20
        while not Path(self.meet).exists() and time.monotonic() < limit:
            time.sleep(0.01)
        return [Client(self.meet, "AF_UNIX")]

    def _serve(self) -> None:
        try:
            while not self.ended:
                if self.asked.is_set():
                    time.sleep(NAP_S)
                with self.lock:
                    moved = not self._still() and self._turn()
                if not moved:
                    time.sleep(NAP_S)
        except BaseException as error:
            self.error = f"{type(error).__name__}: {error}"

    def _still(self) -> bool:
        return self.paused and not self.executor.transfers.moving

    def _turn(self) -> bool:
        if self.follower is None:
            moved = self.executor.turn()
        else:
            moved = self.follower.turn()
            self.ended = self.ended or not moved
        self.most_held = max(self.most_held, self.executor.scheduler.pager.tiers["peer"].held)
        return moved

    def _locked(self) -> Any:
        """Take the engine from its thread: it lets go when asked, or it would hardly ever."""
        self.asked.set()
        self.lock.acquire()
        self.asked.clear()
        if self.error:
            self.lock.release()
            raise RuntimeError(self.error)

    # --- what it is asked ------------------------------------------------------------------------------------

    def want(self, nbytes: int) -> None:
        """Lease so much."""
        self.client.want(nbytes)

    def submit(self, requests: list[Any]) -> None:
        """Take requests: (id, prompt, tokens to generate, hashes of shared blocks)."""
        self._locked()
        for id, prompt, count, prefix in requests:
            self.output[id] = []
            self.executor.submit(id, prompt, count, prefix=tuple(prefix), on_token=self._token)
        self.lock.release()

    def _token(self, id: int, token: int, last: bool) -> None:
        self.output[id].append(token)
        if last:
            self.done.append(id)

    def take(self) -> list[Any]:
        """Hand over who has finished, with all tokens."""
        self._locked()
        done, self.done = self.done, []
        self.lock.release()
        return [(id, self.output.pop(id)) for id in done]

    def pause(self) -> int:
        """Stop before the next decision, once nothing is on its way; return the peer blocks of paged requests."""
        self._locked()
        self.paused = True
        self.lock.release()
        while self.executor.transfers.moving:
            time.sleep(NAP_S)
        self._locked()
        requests = self.executor.scheduler.requests.values()
        parked = [len(r.copy) for r in requests if r.copy_tier == "peer" and r.state.name == "PAGED"]
        self.lock.release()
        return sum(parked)

    def resume(self) -> None:
        """Go on."""
        self.paused = False

    def hold(self, direction: str) -> None:
        """Hold up the next copies in a direction, until `free`."""
        self.copier.held, self.copier.caught = direction, 0
        self.copier.gate = HostEvent()

    def caught(self) -> int:
        """Copies that wait."""
        return self.copier.caught

    def free(self) -> None:
        """Let copies go on."""
        gate, self.copier.gate = self.copier.gate, None
        assert gate is not None
        gate.set()

    def leases(self) -> list[Any]:
        """Each extent that is mapped: (donor, number, epoch, whether it may be written)."""
        return [
            (m.extent.donor.name, m.extent.number, m.epoch, self.client.may_write(m))
            for m in self.client.extents()
        ]

    def state(self) -> dict[str, Any]:
        """Return what it has done so far, and what it holds."""
        self._locked()
        pager, scheduler = self.executor.pager, self.executor.scheduler
        assert pager is not None
        found = {
            "busy": self.executor.busy,
            "steps": len(self.executor.tables.rows["steps"]),
            "commands": hash(tuple(self.executor.commands)),
            "moved": pager.moved_bytes,
            "repaired": self.executor.repaired,
            "spoilt": pager.spoilt_blocks,
            "spilt": self.tier.spilt,
            "held": scheduler.pager.tiers["peer"].held,
            "most_held": self.most_held,
            "peer": scheduler.pager.tiers["peer"].capacity,
            "own": self.tier.blocks,
            "transports": sorted({m.transport for m in self.client.extents()}),
            "failure": self.client.failure,
        }
        self.lock.release()
        return found

    def limit_address_space(self, spare: int) -> None:
        """Leave room for so many more bytes in this process."""
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + spare
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    def end(self) -> dict[str, Any]:
        """Give everything up, and say what is left of it in this process."""
        self._locked()
        self.ended = True
        self.executor.scheduler.check()
        assert self.executor.pager is not None
        for name in ("peer", "host"):
            self.executor.pager.tier(name).check()
        scheduler = self.executor.scheduler
        found = {"free": scheduler.pool.free, "held": [t.held for t in scheduler.pager.tiers.values()]}
        if self.leader is not None:
            self.leader.close()
        for link in self.links:
            link.close()
        self.lock.release()
        self.thread.join(10)
        self.client.close()
        self.tier.close()
        self.copier.close()
        self.host.close()
        maps = Path("/proc/self/maps").read_text()
        fds = len(os.listdir("/proc/self/fd")) - self.fds_before
        return found | {"mapped": maps.count("/memfd:"), "fds": fds, "threads": threading.active_count()}
