"""One connection to the coordinator: who is there, and whether what it says is its to say."""

import asyncio
import os
import socket
from typing import Any, Protocol

from aquasim.core.leases import Closed, ConsumerReport, DonorReport, Process
from aquasim.runtime.coordinator import codec, identity
from aquasim.runtime.coordinator.channel import Channel
from aquasim.runtime.coordinator.errors import ProtocolError
from aquasim.runtime.coordinator.wire import (
    FIRST,
    PART,
    READERS,
    SAYS,
    VERSION,
    Answer,
    Handed,
    Hello,
    Query,
    Refused,
    Role,
)

HELLO_S = 10.0
"""Seconds within which a connection has to say who it is."""


class House(Protocol):
    """What a session needs of the server."""

    def enter(self, session: "Session", process: Process, role: Role) -> None:
        """A donor or consumer has said who it is, and it is true."""

    def hear(self, session: "Session", message: Any, fd: int | None) -> None:
        """It said something that is its to say; `fd` is the server's from now on."""

    def leave(self, session: "Session", reason: str) -> None:
        """The connection has ended."""

    def look(self, what: str) -> str:
        """Somebody wants to see status or metrics."""

    def refuse(self, peer: identity.Peer, reason: str) -> None:
        """Somebody was sent away."""


class Session:
    """A connection, from the moment it was accepted."""

    def __init__(self, house: House, sock: socket.socket, uids: frozenset[int]) -> None:
        self._house = house
        self.peer = identity.peer(sock)
        self.role: Role | None = None
        self.process: Process | None = None
        self.channel = Channel(sock, self._frame, self._ended)
        self._timer = asyncio.get_running_loop().call_later(HELLO_S, self._late)
        if self.peer.uid not in uids:
            self.refuse(f"uid {self.peer.uid} may not connect here (--allow-uid)")

    def send(self, message: Any, fd: int | None = None) -> None:
        """Send a message; owns `fd`."""
        self.channel.send(codec.encode(message), fd)

    def refuse(self, reason: str) -> None:
        """Send the other side away, and tell both why."""
        self._house.refuse(self.peer, reason)
        self.send(Refused(reason))
        self.channel.close(f"refused: {reason}")

    def _late(self) -> None:
        self.channel.close(f"did not say who it is within {HELLO_S:g} s")

    def _ended(self, reason: str) -> None:
        self._timer.cancel()
        self._house.leave(self, reason)

    def _frame(self, text: bytes, fd: int | None) -> None:
        try:
            message = codec.decode(text, READERS, FIRST if self.role is None else SAYS[self.role])
            if (fd is not None) and not isinstance(message, Handed):
                raise ProtocolError(f"a file descriptor with {type(message).__name__}")
            self._own(message)
        except ProtocolError:
            if fd is not None:
                os.close(fd)
            raise
        self._take(message, fd)

    def _own(self, message: Any) -> None:
        """Check that a message speaks of nobody else as if it were the sender; the machine relies on it."""
        match message:
            case DonorReport(donor=donor, rows=rows):
                extents = {row.extent for row in rows}
                mine = donor == self.process and all(e.donor == donor for e in extents)
                if not mine or len(extents) < len(rows):
                    raise ProtocolError("a report of other than one's own extents, once each")
            case ConsumerReport(consumer=consumer, holds=holds):
                if consumer != self.process or len({hold[0] for hold in holds}) < len(holds):
                    raise ProtocolError("a report of other than one's own leases, once each")
            case Closed(consumer=consumer) if consumer != self.process:
                raise ProtocolError("a lease closed by other than its consumer")
            case Handed(extent=extent) if extent.donor != self.process:
                raise ProtocolError("a handle from other than its donor")

    def _take(self, message: Any, fd: int | None) -> None:
        match message:
            case Hello():
                self._hello(message)
            case Query(what=what):
                self._answer(self._house.look(what))
            case _:
                self._house.hear(self, message, fd)

    def _answer(self, text: str) -> None:
        """Send a text of any length."""
        parts = [text[start : start + PART] for start in range(0, len(text), PART)]
        for number, part in enumerate(parts, 1):
            self.send(Answer(part, number < len(parts)))

    def _hello(self, hello: Hello) -> None:
        """Let a process in if it is who it says."""
        self._timer.cancel()
        if hello.version != VERSION:
            self.refuse(f"protocol version {hello.version}, the coordinator speaks {VERSION}")
            return
        doubt = identity.doubt(hello.process, self.peer)
        if hello.process.name in codec.RESERVED:
            doubt = f"the name {hello.process.name} is taken"
        if doubt is not None:
            self.refuse(doubt)
            return
        self.role, self.process = hello.role, hello.process
        self._house.enter(self, hello.process, hello.role)
