"""A raw connection to one side of the protocol, to say anything over."""

import select
import socket
import time
from typing import Any

from lease_stage import Stage

from aquasim.core.leases import Process
from aquasim.runtime.coordinator import codec, wire
from aquasim.runtime.coordinator.channel import HEADER
from aquasim.runtime.coordinator.codec import encode
from aquasim.runtime.coordinator.wire import Hello, Welcome


class Stranger:
    """A raw connection."""

    def __init__(self, stage: Stage, sock: socket.socket | None = None) -> None:
        self.sock = sock or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(5)
        if sock is None:
            self.sock.connect(str(stage.path))

    def send(self, message: Any, fd: int | None = None) -> None:
        """Send a message or raw bytes as a frame."""
        text = message if isinstance(message, bytes) else encode(message)
        word = len(text) | (0 if fd is None else 1 << 31)
        socket.send_fds(self.sock, [HEADER.pack(word) + text], [] if fd is None else [fd])

    def hear(self) -> Any:
        """Return the next message, or None at the end."""
        try:
            head = self.exactly(HEADER.size)
            return codec.decode(self.exactly(HEADER.unpack(head)[0] & ~(1 << 31)), wire.READERS)
        except (EOFError, ConnectionResetError):
            return None

    def exactly(self, nbytes: int) -> bytes:
        """Receive so many bytes; raises EOFError."""
        data = b""
        while len(data) < nbytes:
            part = self.sock.recv(nbytes - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def await_one(self, kind: type) -> Any:
        """Return the next message of a kind, passing over others."""
        limit = time.monotonic() + 5
        while not isinstance(message := self.hear(), kind):
            assert message is not None, "the connection ended"
            assert time.monotonic() < limit, f"no {kind.__name__}"
        return message

    def quiet(self, kind: type, seconds: float = 0.3) -> bool:
        """Whether no message of a kind comes for so long; a message is never cut in two by the end of it."""
        limit = time.monotonic() + seconds
        while (rest := limit - time.monotonic()) > 0:
            if select.select([self.sock], [], [], rest)[0] and isinstance(self.hear(), kind):
                return False
        return True

    def over(self) -> bool:
        """Whether the coordinator hangs up now."""
        try:
            while self.hear() is not None:
                pass
        except TimeoutError:
            return False
        return True

    def enter(self, role: Any, me: Process) -> "Stranger":
        """Say hello, be welcome."""
        self.send(Hello(wire.VERSION, role, me))
        assert isinstance(self.hear(), Welcome)
        return self

    def __enter__(self) -> "Stranger":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()
