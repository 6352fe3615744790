"""A Unix stream socket as frames, each with at most one file descriptor; for an event loop, never blocking.

A frame is four bytes of length, big-endian, and as many bytes; the top bit says that a descriptor comes with it.
The kernel hands a descriptor over no later than the first byte it was sent with (unix(7)), and in order, so that
descriptors wait in a queue for their frames.
"""

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable

from aquasim.runtime.coordinator.errors import ProtocolError

LIMIT = 4 << 20
"""Bytes of a frame at most: a report of 25,000 extents."""
BACKLOG = 4 * LIMIT
"""Bytes that may wait for somebody who does not read."""
GONE = "closed by the other side"
"""Why a connection ended, if neither side did anything wrong."""
HEADER = struct.Struct("!I")
_WITH = 1 << 31
_CHUNK = 1 << 16

Frame = Callable[[bytes, int | None], None]


class Channel:
    """One connection. `frame` is given each frame and owns its descriptor; `closed` is told once why it ended.

    `frame` may raise ProtocolError, which ends the connection like any other violation.
    """

    def __init__(self, sock: socket.socket, frame: Frame, closed: Callable[[str], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._frame = frame
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._in = bytearray()
        self._fds: deque[int] = deque()
        self._out: deque[tuple[memoryview, int | None]] = deque()
        self._waiting = 0
        self.open = True
        self._heard = True
        """Whether the other side still takes what is sent."""
        self._loop.add_reader(sock, self._readable)

    def send(self, text: bytes, fd: int | None = None) -> None:
        """Queue a frame; owns `fd` from now on. Said to a closed connection, it is lost."""
        if len(text) > LIMIT:
            self.close(f"a frame of {len(text)} bytes was to be sent; {LIMIT} is the limit")
        if not self.open or not self._heard:
            _close(fd)
            return
        word = len(text) | (_WITH if fd is not None else 0)
        self._out.append((memoryview(HEADER.pack(word) + text), fd))
        self._waiting += len(text)
        if len(self._out) == 1:
            self._writable()
        if self._waiting > BACKLOG:
            self.close("does not read")

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._out

    def close(self, reason: str) -> None:
        """End the connection and say why; the second time nothing happens."""
        if not self.open:
            return
        self.open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        for fd in self._fds:
            _close(fd)
        self._fds.clear()
        self._drop()
        self._closed(reason)

    def _writable(self) -> None:
        try:
            while self._out:
                if not self._write(*self._out[0]):
                    self._loop.add_writer(self._sock, self._writable)
                    return
            self._loop.remove_writer(self._sock)
        except (BrokenPipeError, ConnectionResetError):
            self._deaf()
        except OSError as error:
            self.close(error.strerror or str(error))

    def _deaf(self) -> None:
        """The other side is gone; what it said before (that it closed a lease, say) is still read, up to its end."""
        self._loop.remove_writer(self._sock)
        self._heard = False
        self._drop()

    def _drop(self) -> None:
        """Forget what was to be sent."""
        for _, fd in self._out:
            _close(fd)
        self._out.clear()

    def _write(self, data: memoryview, fd: int | None) -> bool:
        """Send some of the first frame; return False if the socket takes no more."""
        try:
            sent = socket.send_fds(self._sock, [data], [] if fd is None else [fd], socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        _close(fd)
        self._waiting -= min(sent, self._waiting)
        if sent == len(data):
            self._out.popleft()
        else:
            self._out[0] = (data[sent:], None)
        return True

    def _readable(self) -> None:
        try:
            data, fds, flags, _ = socket.recv_fds(self._sock, _CHUNK, 4, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(error.strerror or str(error))
            return
        self._fds.extend(fds)
        if not data:
            self.close(GONE if not self._in else "closed in the middle of a frame")
            return
        self._in += data
        try:
            if flags & socket.MSG_CTRUNC:
                raise ProtocolError("more file descriptors than were taken")
            self._frames()
        except ProtocolError as error:
            self.close(str(error))

    def _frames(self) -> None:
        """Hand over all frames that are complete."""
        while self.open and (cut := self._cut()) is not None:
            text, fd = cut
            self._frame(text, fd)
        if len(self._fds) > (1 if self._in else 0):
            raise ProtocolError("file descriptors that no frame speaks of")

    def _cut(self) -> tuple[bytes, int | None] | None:
        """Take the first frame off, if it is complete."""
        if len(self._in) < HEADER.size:
            return None
        (word,) = HEADER.unpack_from(self._in)
        size = HEADER.size + (word & ~_WITH)
        if size > HEADER.size + LIMIT:
            raise ProtocolError(f"a frame of {size - HEADER.size} bytes; {LIMIT} is the limit")
        if len(self._in) < size:
            return None
        if word & _WITH and not self._fds:
            raise ProtocolError("a frame whose file descriptor did not come along")
        text = bytes(self._in[HEADER.size : size])
        del self._in[:size]
        return text, self._fds.popleft() if word & _WITH else None


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
