"""The consumer's side of lending: `aquasim.core.leases.Consumer` with mapped memory, in a thread of its own."""

import logging
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aquasim.core.leases import (
    Cause,
    Consumer,
    Emptied,
    Evacuate,
    Extent,
    Lease,
    Message,
    Usable,
    Want,
)
from aquasim.runtime.arenas import ArenaError, Handle, decode
from aquasim.runtime.coordinator import codec, default_socket, identity
from aquasim.runtime.coordinator import wire as words
from aquasim.runtime.coordinator.link import Link
from aquasim.runtime.coordinator.party import Party
from aquasim.runtime.copy import Copier, open_copier
from aquasim.runtime.peers.mapped import PROBE_SIZES, Mapped, map_extent

LOG = logging.getLogger("aquasim.peers")


class PeerClient(Party[Consumer]):
    """Leases extents through the coordinator at `socket` (None: the usual place), maps and probes them.

    `usable(mapped)` is told of each extent once it may be used, `evacuate(mapped, cause)` when it must be left: start
    no more writes, move the pages, wait for copies, then `emptied(mapped)`. Without an `evacuate`, extents are given
    up at once. Both are called in the client's thread and should only pass the word on, to a queue for instance.
    `device` is where copies are made: "cpu", or a GPU's UUID or index. Call from any thread.

    Raises:
        UserError: a name that is none.
    """

    def __init__(
        self,
        socket: Path | None,
        name: str,
        *,
        device: str | int = "cpu",
        usable: Callable[[Mapped], object] | None = None,
        evacuate: Callable[[Mapped, Cause], object] | None = None,
        probe_sizes: tuple[int, ...] = PROBE_SIZES,
        uids: Collection[int] = (),
    ) -> None:
        self.failure: str | None = None
        """Why the last extent could not be mapped; it is logged too, and no more are asked for until `want`."""
        self._device = device
        self._usable = usable
        self._evacuate = evacuate
        self._sizes = probe_sizes
        self._machine = Consumer(identity.own(codec.checked_name(name)))
        self._link = Link(socket or default_socket(), "consumer", self._machine, self, uids=uids)
        self._copier: Copier | None = None
        self._leases: dict[Extent, Lease] = {}
        """Granted and not mapped yet. Of the link's thread."""
        self._busy: set[Extent] = set()
        """Being mapped. Of the link's thread."""
        self._closing = False
        self._mapped: dict[Extent, Mapped] = {}
        """Changed under the link's lock."""

    # --- from any thread -------------------------------------------------------------------------------------

    def want(self, nbytes: int) -> None:
        """Say how many bytes to lease in all; what is missing stays asked for. Less takes nothing away."""
        if nbytes < 0:
            raise ValueError(f"{nbytes} bytes wanted")
        self._link.post(Want(nbytes))

    def extents(self) -> list[Mapped]:
        """Return what is mapped, draining or not."""
        with self._link.lock:
            return list(self._mapped.values())

    def may_write(self, mapped: Mapped) -> bool:
        """Say whether a write may be started now: leased, mapped, not draining, and not about to expire.

        Local and immediate. False is for good once the extent drains, else until the lease is renewed.
        """
        with self._link.lock:
            now = time.monotonic_ns()
            return self._current(mapped) and self._machine.may_write(now, mapped.extent, mapped.epoch)

    def may_read(self, mapped: Mapped) -> bool:
        """Say whether what was written is still there: until `emptied`, whatever becomes of lease and donor."""
        with self._link.lock:
            return self._current(mapped) and self._machine.may_read(mapped.extent, mapped.epoch)

    def emptied(self, mapped: Mapped) -> None:
        """Give an extent up, told to or not: nothing refers to it any more, no copy is under way. Unmaps it first.

        Raises ArenaError, and nothing has changed, while views of it are alive. Twice is harmless.
        """
        with self._link.lock:
            if not self._current(mapped):
                return
            mapped.mapping.close()
            del self._mapped[mapped.extent]
        self._link.post(Emptied(mapped.extent, mapped.epoch))

    def close(self, timeout: float = 5.0) -> None:
        """Give everything up and stop; no extent may be in use. Raises ArenaError while views are alive: try again.

        Waits for a `usable` or `evacuate` that is being called; none is called of an extent that comes later. The
        coordinator is told if it is there within `timeout` seconds; else it learns when this process ends.
        """
        if not self._link.running:
            return
        self._link.post(Want(0))
        self._link.call(self._drop)
        self._link.settle()
        for mapped in self.extents():
            self.emptied(mapped)
        self._link.stop(timeout)
        if self._copier is not None:
            self._copier.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _current(self, mapped: Mapped) -> bool:
        return self._mapped.get(mapped.extent) is mapped

    # --- in the link's thread --------------------------------------------------------------------------------

    def welcomed(self, welcome: words.Welcome) -> None:
        """Fit heartbeat and margin to this coordinator's leases, and report."""
        with self._link.lock:
            self._machine.heartbeat_ns = max(1, min(1_000_000_000, welcome.lease // 4))
            self._machine.margin_ns = min(500_000_000, welcome.lease // 4)
        self._link.tell(Want(self._machine.want))
        for mapped in self.extents():
            self._show(mapped)

    def local(self, message: Message) -> None:
        """The machine has gained an extent or must leave one."""
        match message:
            case Usable(lease=lease):
                self._leases[lease.extent] = lease
                self._ask(lease)
            case Evacuate(extent=extent, cause=cause):
                self._leave(extent, cause)

    def _ask(self, lease: Lease) -> None:
        """Ask for a lease's handle, now and with every heartbeat until it comes: either word may be lost."""
        if self._leases.get(lease.extent) is lease and lease.extent not in self._busy:
            self._link.say(words.Ask(lease.extent, lease.epoch))
            self._link.later(self._machine.heartbeat_ns, self._ask, lease)

    def wire(self, message: Any, fd: int | None) -> None:
        """A handle has come: map it beside the heartbeats, if it is still of use."""
        assert isinstance(message, words.Handed)
        lease = self._leases.get(message.extent)
        if lease is None or lease.epoch != message.epoch or lease.extent in self._busy:
            if fd is not None:
                os.close(fd)
            return
        self._busy.add(lease.extent)
        self._link.work(
            lambda: self._map(lease, message.handle, fd),
            self._mapped_one,
            lambda error: self._not_mapped(lease, error),
        )

    def _map(self, lease: Lease, text: str, fd: int | None) -> Mapped:
        """Map and probe, in the worker's thread, whose copier it is."""
        with _handle(text, fd) as handle:
            if self._copier is None:
                self._copier = open_copier(self._device)
            return map_extent(lease, handle, self._copier, self._sizes)

    def _mapped_one(self, mapped: Mapped) -> None:
        self._busy.discard(mapped.extent)
        hold = self._machine.holds[mapped.extent]
        if hold.draining or self._closing:
            mapped.mapping.close()
            self._give_up(mapped.extent)
            return
        del self._leases[mapped.extent]
        with self._link.lock:
            self._mapped[mapped.extent] = mapped
        self._show(mapped)
        if self._usable is not None:
            self._usable(mapped)

    def _not_mapped(self, lease: Lease, error: Exception) -> None:
        """Do without it, and ask for nothing in its place: the next would most likely fail as well."""
        self.failure = f"extent {lease.extent.number} of {lease.extent.donor.name}: {error}"
        LOG.error("%s: %s", self.me.name, self.failure)
        self._busy.discard(lease.extent)
        self._link.tell(Want(max(0, self._machine.leased - lease.bytes)))
        self._give_up(lease.extent)

    def _leave(self, extent: Extent, cause: Cause) -> None:
        mapped = self._mapped.get(extent)
        if mapped is not None and self._evacuate is not None:
            self._evacuate(mapped, cause)
        elif mapped is not None:
            self.emptied(mapped)
        elif extent in self._leases and extent not in self._busy:  # else it is given up once it is mapped
            self._give_up(extent)

    def _give_up(self, extent: Extent) -> None:
        """Close a lease that has no mapping."""
        lease = self._leases.pop(extent)
        self._link.tell(Emptied(extent, lease.epoch))

    def _drop(self) -> None:
        """Close what is not mapped; what is being mapped follows when it is."""
        self._closing = True
        for extent in self._leases.keys() - self._busy:
            self._give_up(extent)

    def _show(self, mapped: Mapped) -> None:
        """Let the coordinator's status page say by what we reach this extent, and how fast."""
        rate = mapped.rate
        path = words.Path(mapped.extent, mapped.epoch, mapped.transport, int(rate.write), int(rate.read))
        self._link.say(path)


def _handle(text: str, fd: int | None) -> Handle:
    """Return the handle of a message, which owns `fd` from now on; raises ArenaError."""
    try:
        return decode(text.encode(), fd)
    except ArenaError:
        if fd is not None:
            os.close(fd)
        raise
