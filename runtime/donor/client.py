"""The donor's side of lending: `aquasim.core.leases.Donor` with real memory, in a thread of its own."""

import logging
import os
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from aquasim.core.leases import Donate, Donor, Extent, Message, Process, Reclaim, Regained, Scrub, Scrubbed
from aquasim.runtime.arenas import Arena, Handle, encode
from aquasim.runtime.coordinator import LeaseError, codec, default_socket, identity
from aquasim.runtime.coordinator.link import Link
from aquasim.runtime.coordinator.party import Party
from aquasim.runtime.coordinator.wire import Handed, Share, Welcome
from aquasim.runtime.donor.slabs import Slabs, allocate, split

LOG = logging.getLogger("aquasim.donor")
MIB = 1 << 20
MOST_EXTENTS = 8192
"""Of one donor: its report has to fit a frame (`channel.LIMIT`)."""


class Loan(NamedTuple):
    """One extent as the donor's table has it: bytes, and who holds it under which epoch (None: nobody)."""

    extent: Extent
    bytes: int
    owner: Process | None
    epoch: int


class DonorClient(Party[Donor]):
    """Lends memory through the coordinator at `socket` (None: the usual place), whenever one is there.

    Each extent is an arena of its own (`backend`, `place`: see `aquasim.runtime.arenas.create`), `extent_bytes` long.
    `regained(bytes)` is called in the client's thread for each extent that came back and was given to the system.
    Call from any thread.

    Raises:
        UserError: a name that is none.
    """

    def __init__(
        self,
        socket: Path | None,
        name: str,
        *,
        backend: str = "memfd",
        extent_bytes: int = 256 * MIB,
        place: int | str | None = None,
        regained: Callable[[int], object] | None = None,
        uids: Collection[int] = (),
    ) -> None:
        if extent_bytes <= 0:
            raise ValueError(f"extent_bytes is {extent_bytes}; it must be positive")
        self.backend = backend
        self.extent_bytes = extent_bytes
        self.failure: str | None = None
        """The last thing that went wrong with memory; it is logged too."""
        self._place = place
        self._regained = regained
        self._machine = Donor(identity.own(codec.checked_name(name)))
        self._link = Link(socket or default_socket(), "donor", self._machine, self, uids=uids)
        self._slabs = Slabs()
        self._memory = threading.Lock()
        """Guards `_slabs` and the order of extent numbers; never taken by the loop's thread."""
        self._next = 0

    # --- from any thread -------------------------------------------------------------------------------------

    def donate(self, nbytes: int) -> int:
        """Allocate extents for `nbytes` bytes and lend them; returns their bytes, which a back end may round up.

        Raises ArenaError where that much memory is not there, LeaseError for too many extents and before `start` or
        after `close`; then nothing is lent.
        """
        if nbytes <= 0:
            raise ValueError(f"{nbytes} bytes to donate")
        self._link.require()
        self._room_for(-(-nbytes // self.extent_bytes))
        arenas = allocate(self.backend, self._place, split(nbytes, self.extent_bytes))
        with self._memory:
            extents = []
            for arena in arenas:
                self._slabs.add(Extent(self.me, self._next), arena)
                extents.append((self._next, arena.nbytes))
                self._next += 1
            self._link.post(Donate(tuple(extents)))
        return sum(size for _, size in extents)

    def lend(self, arenas: Sequence[Arena], back: Callable[[Arena], object]) -> None:
        """Lend memory of somebody else's, an extent per arena, that its owner has no mapping of and no use for.

        It is scrubbed first, in the client's thread, and then counts as donated. `back(arena)` is called there too,
        once it was reclaimed, nobody else maps it, and it was scrubbed again; before `regained`. Raises LeaseError
        for too many extents and before `start` or after `close`.
        """
        self._link.require()
        self._room_for(len(arenas))
        self._link.call(self._work, lambda: self._offer(arenas, back), lambda _: None)

    def _offer(self, arenas: Sequence[Arena], back: Callable[[Arena], object]) -> None:
        try:
            for arena in arenas:
                arena.scrub()
        except BaseException:  # nobody gets what was not scrubbed
            for arena in arenas:
                back(arena)
            raise
        extents = []
        for arena in arenas:
            self._slabs.add(Extent(self.me, self._next), arena, back)
            extents.append((self._next, arena.nbytes))
            self._next += 1
        self._link.post(Donate(tuple(extents)))

    def _room_for(self, more: int) -> None:
        with self._memory:
            have = len(self._slabs)
        if have + more > MOST_EXTENTS:
            raise LeaseError(
                f"{have} extents and {more} more; {MOST_EXTENTS} is the limit of a donor: make them larger"
            )

    def reclaim(self, nbytes: int) -> None:
        """Ask for bytes back, rounded up to whole extents, at most what is lent; `regained` tells when they are.

        Consumers move their pages away first; one that is alive and does not keeps its extents.
        """
        self._link.post(Reclaim(nbytes))

    def loans(self) -> list[Loan]:
        """Return the table: every extent that is not back yet."""
        with self._link.lock:
            return [Loan(e, slab.bytes, slab.owner, slab.epoch) for e, slab in self._machine.slabs.items()]

    @property
    def donated(self) -> int:
        """Bytes that are lent or may be."""
        return sum(loan.bytes for loan in self.loans())

    @property
    def lent(self) -> int:
        """Bytes that somebody holds."""
        return sum(loan.bytes for loan in self.loans() if loan.owner is not None)

    @property
    def owed(self) -> int:
        """Bytes that were reclaimed and are not back."""
        return self._machine.owed

    def close(self, *, force: bool = False, timeout: float = 1.0) -> None:
        """Stop lending and free what nobody holds. Raises LeaseError while somebody holds something.

        `force` is for holders that are proven dead while no coordinator is there to say so (`holders_dead`). A
        coordinator that is not there within `timeout` seconds learns of it when this process ends.
        """
        if self.lent and not force:
            raise LeaseError(f"{self.me.name} cannot leave: {self.lent} bytes are lent; reclaim them first")
        self._link.stop(timeout)
        with self._memory:
            self._slabs.close(force=force)

    def holders_dead(self) -> bool:
        """Tell whether everybody who holds an extent is proven dead, by this process itself."""
        return all(
            identity.dead(owner) for owner in {loan.owner for loan in self.loans()} if owner is not None
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:  # what is lent goes with the process
            self._link.stop(0)

    # --- in the link's thread --------------------------------------------------------------------------------

    def welcomed(self, welcome: Welcome) -> None:
        """Beat often enough for this coordinator's leases, and report."""
        self._machine.heartbeat_ns = max(1, min(1_000_000_000, welcome.lease // 4))
        self._link.tell(Donate(()))  # nothing new, but answered by a report

    def local(self, message: Message) -> None:
        """The table has decided something about memory."""
        match message:
            case Scrub(extent=extent):
                self._work(lambda: self._slabs.scrub(extent), lambda _: self._link.tell(Scrubbed(extent)))
            case Regained(extent=extent):
                self._work(lambda: self._slabs.release(extent), self._back)

    def _back(self, nbytes: int) -> None:
        if self._regained is not None:
            self._regained(nbytes)

    def wire(self, message: Any, fd: int | None) -> None:
        """A consumer asks for a handle."""
        if isinstance(message, Share) and self._holds(message):
            self._work(lambda: self._hand(message), lambda handle: self._send(message, handle))

    def _holds(self, share: Share) -> bool:
        """Tell whether the table says what is asserted; it alone decides who gets a handle."""
        slab = self._machine.slabs.get(share.extent)
        return slab is not None and slab.owner == share.consumer and slab.epoch == share.epoch

    def _hand(self, share: Share) -> Handle | None:
        """Make a handle, in the worker's thread, if its time has not passed while it waited there."""
        with self._link.lock:
            if not self._holds(share):
                return None
        return self._slabs.hand(share.extent, share.epoch)

    def _send(self, share: Share, handle: Handle | None) -> None:
        if handle is None:
            return
        with handle:
            if self._holds(share):
                text = encode(handle)[4:].decode()
                fd = None if handle.fd is None else os.dup(handle.fd)
                self._link.say(Handed(share.extent, share.epoch, share.consumer, text), fd)

    def _work(self, job: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Do what takes long beside the heartbeats."""

        def guarded() -> Any:
            with self._memory:
                return job()

        self._link.work(guarded, then, self._failed)

    def _failed(self, error: Exception) -> None:
        """An extent that cannot be scrubbed, shared or freed stays as it is: nobody else gets it."""
        self.failure = str(error)
        LOG.error("%s: %s", self.me.name, error)
