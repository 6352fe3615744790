"""What forged processes do: one method per command."""

import os
import signal
import struct
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from aquasim.core.leases import Coordinator as Machine
from aquasim.core.leases import Extent
from aquasim.runtime.arenas import Extent as Stretch
from aquasim.runtime.coordinator import Settings, serve
from aquasim.runtime.coordinator.folder import Listener
from aquasim.runtime.copy import HostCopier
from aquasim.runtime.donor import DonorClient
from aquasim.runtime.peers import Mapped, PeerClient
from aquasim.runtime.peers import client as peers

PROBED = 4096  # bytes that a probe overwrites and scrubs


class Coordinator:
    """Serves in this process's main thread; obeys nothing but signals."""

    def __init__(self, path: str, only: list[int] | None = None, **options: Any) -> None:
        self.path = Path(path)
        self.options = options
        self.only = only

    def begin(self) -> None:
        """Serve until a signal."""
        if self.only is None:
            serve(Settings(self.path, **self.options), lambda: None)
        else:
            self._strict()
        os._exit(0)

    def _strict(self) -> None:
        """Serve exactly these users."""
        import asyncio

        from aquasim.runtime.coordinator.server import Server

        async def run() -> None:
            Server(Machine(), listener.sock, uids=self.only or ())
            await asyncio.sleep(60)

        listener = Listener(self.path)
        asyncio.run(run())


class Donor:
    """A donor client, and what came back to its engine."""

    def __init__(self, path: str, name: str, **options: Any) -> None:
        self.back = 0
        self.client = DonorClient(Path(path), name, regained=self._regained, **options)

    def begin(self) -> None:
        """Start."""
        self.client.start()

    def _regained(self, nbytes: int) -> None:
        self.back += nbytes

    def donate(self, nbytes: int) -> int:
        """Lend."""
        return self.client.donate(nbytes)

    def reclaim(self, nbytes: int) -> None:
        """Ask for it back."""
        self.client.reclaim(nbytes)

    def regained(self) -> int:
        """Bytes that came back."""
        return self.back

    def loans(self) -> list[Any]:
        """The table: (number, bytes, holder's name, epoch)."""
        return [
            (loan.extent.number, loan.bytes, loan.owner and loan.owner.name, loan.epoch)
            for loan in self.client.loans()
        ]

    def connected(self) -> bool:
        """Whether a coordinator is there."""
        return self.client.connected

    def refusal(self, timeout: float = 5) -> str:
        """Wait for a coordinator; return why it will not have us."""
        try:
            return f"connected: {self.client.wait_connected(timeout)}"
        except Exception as error:
            return str(error)

    def peek(self, number: int, offset: int, nbytes: int) -> list[int]:
        """Bytes of an extent, as its donor sees them."""
        arena = self.client._slabs._slabs[Extent(self.client.me, number)].arena
        return list(arena.view(Stretch(offset, nbytes)))

    def poke(self, number: int, value: int) -> None:
        """Fill an extent behind everybody's back."""
        arena = self.client._slabs._slabs[Extent(self.client.me, number)].arena
        np.frombuffer(arena.view(), dtype=np.uint8)[:] = value

    def dead(self) -> bool:
        """Whether all holders are proven dead."""
        return self.client.holders_dead()

    def fds(self) -> int:
        """Open descriptors."""
        return len(os.listdir("/proc/self/fd"))

    def close(self) -> None:
        """Leave."""
        self.client.close()


class Dropping(HostCopier):
    """Copies nothing and reports success, as some PCIe peers do."""

    def submit(self, copies: Any, stream: Any, path: str = "auto", *, stable: bool = False) -> Any:
        """Do nothing."""
        return stream.record()


class Consumer:
    """A consumer client that writes its mark over what it gets, and looks whether it stays."""

    def __init__(self, path: str, name: str, obey: bool = True, drop: bool = False, **options: Any) -> None:
        if drop:
            peers.open_copier = lambda *words: Dropping()  # type: ignore[attr-defined]
        self.obey = obey
        self.dirty: list[str] = []
        self.lost: list[str] = []
        self.evacuating: list[tuple[Mapped, str]] = []
        self.marks: dict[Mapped, int] = {}
        self.lock = threading.Lock()
        self.views: list[Any] = []
        self.client = PeerClient(
            Path(path),
            name,
            usable=self._usable,
            evacuate=self._evacuate,
            **{"probe_sizes": (PROBED,)} | options,
        )

    def begin(self) -> None:
        """Start."""
        self.client.start()

    def _mark(self, mapped: Mapped) -> int:
        return (self.client.me.run * 31 + mapped.epoch * 7 + mapped.extent.number) % 251 + 1

    def _usable(self, mapped: Mapped) -> None:
        """An extent must be all zeros; fill it with a mark that is most likely nobody else's."""
        with self.lock:
            self.marks[mapped] = self._mark(mapped)
            if mapped.mapping.device != "cpu":
                return
            data = np.frombuffer(mapped.mapping.view(), dtype=np.uint8)
            if data.any():
                self.dirty.append(f"{mapped.extent} {mapped.epoch}")
            if self.client.may_write(mapped):
                data[:] = self.marks[mapped]
            else:
                self.marks[mapped] = 0

    def _evacuate(self, mapped: Mapped, cause: str) -> None:
        with self.lock:
            self._verify(mapped)
            self.evacuating.append((mapped, cause))
        if self.obey:
            self.leave()

    def _verify(self, mapped: Mapped) -> None:
        if mapped.mapping.device == "cpu" and self.client.may_read(mapped):
            data = np.frombuffer(mapped.mapping.view(), dtype=np.uint8)
            if (data[64:] != self.marks[mapped]).any():
                self.lost.append(f"{mapped.extent} {mapped.epoch}")

    def want(self, nbytes: int) -> None:
        """Ask for bytes in all."""
        self.client.want(nbytes)

    def extents(self) -> list[Any]:
        """What is mapped: (donor, number, epoch, bytes, may be written, the donor's run)."""
        return [
            (d.name, m.extent.number, m.epoch, m.bytes, self.client.may_write(m), d.run)
            for m in self.client.extents()
            for d in (m.extent.donor,)
        ]

    def transports(self) -> list[Any]:
        """Each mapped extent's transport, and the probe's rates in bytes per second."""
        return [(m.transport, m.rate.write, m.rate.read) for m in self.client.extents()]

    def verify(self) -> list[str]:
        """Look at all extents: return those that were not clean at first, and those whose bytes changed."""
        with self.lock:
            for mapped in self.client.extents():
                if mapped in self.marks:
                    self._verify(mapped)
        return self.dirty + self.lost

    def causes(self) -> list[str]:
        """Why extents have to be left that are not."""
        with self.lock:
            return [cause for _, cause in self.evacuating]

    def leave(self) -> int:
        """Leave what has to be left."""
        with self.lock:
            todo, self.evacuating = self.evacuating, []
        for mapped, _ in todo:
            self.client.emptied(mapped)
        return len(todo)

    def give(self) -> None:
        """Give one extent up without being told."""
        self.client.emptied(self.client.extents()[0])

    def hold_view(self) -> None:
        """Keep a view of the first extent alive."""
        self.views.append(self.client.extents()[0].mapping.view())

    def drop_views(self) -> None:
        """Let go of all views."""
        while self.views:
            self.views.pop().release()

    def stamp(self) -> None:
        """From now on write the time into the first bytes of every extent, whenever that is allowed."""

        def loop() -> None:
            while True:
                for mapped in self.client.extents():
                    now = time.monotonic_ns()
                    if self.client.may_write(mapped):
                        mapped.mapping.view()[:8] = struct.pack("!Q", now)
                time.sleep(0.0005)

        threading.Thread(target=loop, daemon=True).start()

    def failure(self) -> str | None:
        """Why an extent could not be mapped."""
        return self.client.failure

    def connected(self) -> bool:
        """Whether a coordinator is there."""
        return self.client.connected

    def refusal(self, timeout: float = 5) -> str:
        """Wait for a coordinator; return why it will not have us."""
        try:
            return f"connected: {self.client.wait_connected(timeout)}"
        except Exception as error:
            return str(error)

    def fork(self) -> str:
        """Try to read an extent in a child."""
        ptr = self.client.extents()[0].mapping.view()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            try:
                ptr[0] = 1
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        ptr.release()
        return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "no signal"

    def fds(self) -> int:
        """Open descriptors."""
        return len(os.listdir("/proc/self/fd"))

    def close(self) -> None:
        """Leave."""
        self.client.close()


ACTORS: dict[str, Any] = {"coordinator": Coordinator, "donor": Donor, "consumer": Consumer}
