"""A pool of tensors on leased extents and on host memory of our own; they move in `respond()` and nowhere else."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aquasim.core.leases import Cause
from aquasim.runtime.arenas import create
from aquasim.runtime.copy import Event, Stream
from aquasim.runtime.peers import Mapped, PeerClient
from aquasim.runtime.tensors.flight import Flight, Part
from aquasim.runtime.tensors.moving import Mover
from aquasim.runtime.tensors.place import Place, Stretch, find, free_bytes
from aquasim.runtime.tensors.ranges import padded
from aquasim.runtime.tensors.tensor import AquaTensor, refuse_viewed
from aquasim.runtime.tensors.words import Client, Moves, PoolFullError

if TYPE_CHECKING:
    import torch


class PeerPool:
    """Keeps tensors in up to `want_bytes` of leased memory, and in `host_bytes` of its own for what does not fit.

    `socket` (None: the usual place) and `name` are the coordinator's and ours; `device` is where copies are made:
    "cpu", or a GPU's UUID or index. Tensors move at most once per `period_s` seconds, except off extents that must be
    left. For one thread. `host_bytes` should hold what is leased: a reclaim waits for room otherwise.

    Tests pass a `client` of their own, call `usable` and `evacuate` as it would, and set the `clock` (seconds).

    Raises:
        ValueError: a size or period below 0.
        UserError: a name that is none.
        ArenaError, CopyError: no host memory of that size, no such GPU.
    """

    def __init__(
        self, socket: Path | None, name: str, want_bytes: int, host_bytes: int, device: str | int = "cpu",
        period_s: float = 4.0, *, client: Client | None = None, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        if min(want_bytes, host_bytes, period_s) < 0:
            raise ValueError(
                f"want_bytes {want_bytes}, host_bytes {host_bytes}, period_s {period_s}: below 0"
            )
        self.period_s = period_s
        self._clock = clock
        self._moved_at = -math.inf
        self._news: deque[tuple[Mapped, Cause | None]] = deque()
        self._peers: dict[Mapped, Stretch] = {}
        self._tensors: dict[int, AquaTensor] = {}
        """By number, the oldest first."""
        self._serial = 0
        self._own: PeerClient | None = None
        if client is None:
            client = self._own = PeerClient(
                socket, name, device=device, usable=self.usable, evacuate=self.evacuate
            )
        self._client = client
        self._mover = Mover(device)
        self._arena = create("memfd" if device == "cpu" else "host", host_bytes) if host_bytes else None
        self._host = [] if self._arena is None else [Stretch(self._arena, host_bytes)]
        if self._own is not None:
            self._own.start()
            self._own.want(want_bytes)

    # --- from the client's thread ----------------------------------------------------------------------------

    def usable(self, mapped: Mapped) -> None:
        """An extent may be used; the next `respond()` takes it up."""
        self._news.append((mapped, None))

    def evacuate(self, mapped: Mapped, cause: Cause) -> None:
        """An extent must be left; the next `respond()` does so."""
        self._news.append((mapped, cause))

    # --- from the owner's ------------------------------------------------------------------------------------

    @property
    def room(self) -> tuple[int, int]:
        """Free bytes of leased memory that may be written to, and of host memory."""
        return free_bytes(self._writable()), free_bytes(self._host)

    def put(self, tensor: "torch.Tensor") -> AquaTensor:
        """Keep a copy of a tensor: in leased memory if there is room, else in host memory.

        Raises PoolFullError, and nothing has changed, if neither has room in one piece; ValueError for tensors that
        are not dense, or are where the pool's copies do not reach.
        """
        self._mover.check(tensor)
        place = self._new(tensor, [*self._writable(), *self._host])
        self._serial += 1
        made = self._tensors[self._serial] = AquaTensor(self, self._serial, place, tensor)
        return made

    def fetch(self, parts: Iterable[Part], after: Event | None = None) -> Flight:
        """Begin to copy parts to their addresses, beside the caller, once `after` is done; raises as `get`."""
        return self._fly(list(parts), True, after)

    def store(self, parts: Iterable[Part], after: Event | None = None) -> Flight:
        """Begin to copy from the addresses to parts of tensors, beside the caller, once `after` is done.

        A tensor whose lease allows no writes has moved to host memory first, whole, before this returns: as for
        `AquaTensor.write`, whose errors these are.
        """
        wanted = list(parts)
        for part in wanted:
            self._make_writable(part.tensor)
        return self._fly(wanted, False, after)

    def compute(self, device: "torch.device") -> Stream:
        """Return torch's current stream on a device: what `after` is recorded on, and what waits for a flight."""
        return self._mover.queued(device)

    def free(self, tensor: AquaTensor) -> None:
        """Let go of a tensor's memory; twice is harmless. Raises BufferError, and keeps it, while views are alive."""
        if tensor._place is None:
            return
        refuse_viewed([tensor])
        for place in (tensor._place, tensor._staged):
            if place is not None:
                place.give()
        tensor._place = tensor._staged = None
        del self._tensors[tensor._serial]

    def respond(self) -> Moves:
        """Take up what came and leave what must be left; between two iterations. Returns when copies are done.

        Tensors on extents that must be left go to the host (or, if that is full, to other extents), and the extents
        are given back. If there were none, and nothing moved within `period_s`, tensors on the host go to leased
        memory, the largest first: that packs best, as no tensor spans two extents and small ones fill what is left;
        of equals the oldest. Tensors with views stay, and are tried again by the next call. Raises CopyError; tensors
        are then where they were.
        """
        self._read_news()
        demoted = self._settle() + self._demote()
        held = self._give_back()
        promoted = 0
        if not demoted and self._clock() - self._moved_at >= self.period_s:
            promoted = self._promote()
        if demoted or promoted:
            self._moved_at = self._clock()
        return Moves(demoted, promoted, held)

    def close(self) -> None:
        """Free all tensors, give everything up; raises BufferError, and changes nothing, while views are alive."""
        refuse_viewed(self._tensors.values())
        for tensor in list(self._tensors.values()):
            self.free(tensor)
        if self._own is not None:
            self._own.close()
        self._read_news()
        for mapped in list(self._peers):
            self._client.emptied(mapped)
            del self._peers[mapped]
        self._mover.close()
        if self._arena is not None:
            self._arena.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check(self) -> None:
        """Assert that every byte is free or of one tensor, and that host memory alone is staged."""
        taken: dict[Stretch, int] = dict.fromkeys([*self._peers.values(), *self._host], 0)
        for tensor in self._tensors.values():
            assert tensor._staged is None or tensor._staged.stretch.kind == "host"
            for place in filter(None, (tensor._place, tensor._staged)):
                assert place.nbytes == tensor.nbytes
                taken[place.stretch] += padded(place.nbytes)
        for stretch, nbytes in taken.items():
            assert nbytes + stretch.ranges.free == stretch.ranges.size

    # --- places ----------------------------------------------------------------------------------------------

    def _may_write(self, stretch: Stretch) -> bool:
        if stretch.mapped is None:
            return True
        return not stretch.leaving and self._client.may_write(stretch.mapped)

    def _writable(self) -> list[Stretch]:
        """Return the extents that may be written to now."""
        return [stretch for stretch in self._peers.values() if self._may_write(stretch)]

    def _new(self, contents: "torch.Tensor", stretches: list[Stretch]) -> Place:
        """Copy a tensor to a new place; raises PoolFullError."""
        place = find(contents.nbytes, stretches)
        if place is None:
            peer, host = self.room
            most = max((stretch.ranges.largest for stretch in stretches), default=0)
            raise PoolFullError(
                f"{contents.nbytes} bytes asked for; free are {peer} leased and {host} host bytes, "
                f"where it may go at most {most} in one piece"
            )
        try:
            self._mover.fill(place, contents)
        except Exception:
            place.give()
            raise
        return place

    def _write(self, tensor: AquaTensor, place: Place, contents: "torch.Tensor") -> None:
        """Write to a tensor's place, or, where that is not allowed, to host memory that `respond` makes its place."""
        if self._may_write(place.stretch):
            self._mover.fill(place, contents)
        else:
            refuse_viewed([tensor])
            tensor._staged = self._new(contents, self._host)

    def _make_writable(self, tensor: AquaTensor) -> None:
        """Copy a tensor to host memory if its place may not be written to; `respond` makes that its place."""
        place = tensor._current()
        if self._may_write(place.stretch):
            return
        tensor._land()
        refuse_viewed([tensor])
        staged = find(place.nbytes, self._host)
        if staged is None:
            raise PoolFullError(f"{place.nbytes} bytes must go to the host; free are {self.room[1]}")
        try:
            self._mover.copy([(place.ptr, staged.ptr, place.nbytes)])
        except Exception:
            staged.give()
            raise
        tensor._staged = staged

    def _fly(self, parts: list[Part], inward: bool, after: Event | None) -> Flight:
        event = self._mover.begin((part.row(inward) for part in parts), inward=inward, after=after)
        peer = sum(p.nbytes for p in parts if p.tensor._current().stretch.kind == "peer")
        flight = Flight(event, peer, sum(p.nbytes for p in parts) - peer)
        for tensor in {id(p.tensor): p.tensor for p in parts}.values():
            tensor._flights = [*(each for each in tensor._flights if not each.done()), flight]
        return flight

    # --- the steps of `respond` ------------------------------------------------------------------------------

    def _read_news(self) -> None:
        while self._news:
            mapped, cause = self._news.popleft()
            if cause is None:
                self._peers[mapped] = Stretch(mapped.mapping, mapped.bytes, mapped)
            elif mapped in self._peers:
                self._peers[mapped].leaving = True

    def _settle(self) -> int:
        """Let tensors follow what was written to the host; return their bytes."""
        settled = 0
        for tensor in self._tensors.values():
            if tensor._staged is not None and not tensor.viewed:
                tensor._held().give()
                tensor._place, tensor._staged = tensor._staged, None
                settled += tensor.nbytes
        return settled

    def _demote(self) -> int:
        """Move tensors off the extents that must be left."""
        leaving = [tensor for tensor in self._tensors.values() if tensor._held().stretch.leaving]
        return self._move(leaving, [*self._host, *self._writable()]) if leaving else 0

    def _give_back(self) -> int:
        """Give back the extents that are empty and must be left; return the bytes that keep others."""
        held = 0
        for mapped, stretch in list(self._peers.items()):
            left = [tensor for tensor in self._tensors.values() if tensor._held().stretch is stretch]
            held += sum(tensor.nbytes for tensor in left) if stretch.leaving else 0
            if stretch.leaving and not left:
                self._client.emptied(mapped)
                del self._peers[mapped]
        return held

    def _promote(self) -> int:
        """Move tensors from the host to leased memory, the largest first."""
        stretches = self._writable()
        waiting = [tensor for tensor in self._tensors.values() if tensor.where == "host"]
        waiting.sort(key=lambda tensor: -tensor.nbytes)  # stable: of equals the oldest
        return self._move(waiting, stretches) if stretches else 0

    def _move(self, tensors: Iterable[AquaTensor], stretches: list[Stretch]) -> int:
        """Move what has no views and finds room; return its bytes. Raises CopyError, and then nothing has moved."""
        found = [(tensor, find(tensor.nbytes, stretches)) for tensor in tensors if not tensor.viewed]
        moves = [(tensor, place) for tensor, place in found if place is not None]
        try:
            self._mover.copy((tensor._held().ptr, place.ptr, place.nbytes) for tensor, place in moves)
        except Exception:
            for _, place in moves:
                place.give()
            raise
        for tensor, place in moves:
            tensor._held().give()
            tensor._place = place
        return sum(tensor.nbytes for tensor, _ in moves)
