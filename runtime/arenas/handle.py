"""What one process gives another so that it can map an arena, and how it travels over a Unix socket."""

import json
import os
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aquasim.runtime.arenas.errors import ArenaError

SCHEMA = "aquasim.arena/1"
LIMIT = 65536  # bytes of a message; a real one has a few hundred
_LENGTH = struct.Struct("!I")
_FIELDS = {"backend": str, "device": str, "nbytes": int, "pid": int, "token": str, "payload": str}


@dataclass(slots=True)
class Handle:
    """An export of an arena: plain data, and for some back ends a file descriptor that the handle owns.

    `device` is "cpu" or a GPU's UUID, `pid` the exporter's process, `token` names this export. The payload of a CUDA
    IPC handle is a bearer token that gives access to the whole arena: it is never printed. Close the handle once it
    is sent or opened.
    """

    backend: str
    device: str
    nbytes: int
    pid: int
    token: str
    payload: str = field(default="", repr=False)
    fd: int | None = field(default=None, repr=False)

    def close(self) -> None:
        """Close the file descriptor, if there is one; closing twice is harmless."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def encode(handle: Handle) -> bytes:
    """Return the handle as a length-prefixed JSON message, without its file descriptor."""
    values: dict[str, Any] = {name: getattr(handle, name) for name in _FIELDS}
    values |= {"schema": SCHEMA, "fd": handle.fd is not None}
    text = json.dumps(values).encode()
    return _LENGTH.pack(len(text)) + text


def decode(text: bytes, fd: int | None) -> Handle:
    """Return the handle of a message's JSON and of what came with it; the handle then owns `fd`.

    Raises ArenaError for anything but a handle of this version; `fd` stays the caller's then.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ArenaError(f"not a handle: {error}") from error
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != SCHEMA:
        raise ArenaError(f"a handle of schema {schema!r}, while this version reads {SCHEMA!r}")
    wrong = [name for name, kind in _FIELDS.items() if type(values.get(name)) is not kind]
    if wrong or values["nbytes"] <= 0:
        raise ArenaError(f"a broken handle: {', '.join(wrong) or 'nbytes'} is missing or wrong")
    if values.get("fd") is not (fd is not None):
        raise ArenaError(
            "a handle whose file descriptor did not come along: handles travel over Unix sockets only"
        )
    return Handle(**{name: values[name] for name in _FIELDS}, fd=fd)


def send_handle(sock: socket.socket, handle: Handle) -> None:
    """Send `handle` over a Unix stream socket; the caller still owns it. Raises OSError as sockets do."""
    message = encode(handle)
    sent = socket.send_fds(sock, [message], [] if handle.fd is None else [handle.fd])
    if sent < len(message):
        sock.sendall(message[sent:])


def recv_handle(sock: socket.socket) -> Handle:
    """Receive what `send_handle` sent; the caller owns the handle.

    Raises ArenaError for a foreign message or a closed connection, OSError as sockets do.
    """
    data, fds, flags, _ = socket.recv_fds(sock, _LENGTH.size, 1, socket.MSG_CMSG_CLOEXEC)
    try:
        if flags & socket.MSG_CTRUNC:
            raise ArenaError("a handle came with more than one file descriptor, or none could be opened here")
        (size,) = _LENGTH.unpack(data + _receive(sock, _LENGTH.size - len(data)))
        if size > LIMIT:
            raise ArenaError(f"not a handle: a message of {size} bytes")
        return decode(_receive(sock, size), fds[0] if fds else None)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _receive(sock: socket.socket, nbytes: int) -> bytes:
    data = b""
    while len(data) < nbytes:
        part = sock.recv(nbytes - len(data))
        if not part:
            raise ArenaError("the connection closed in the middle of a handle")
        data += part
    return data
