"""Another process, donor or consumer, that obeys commands on a Unix socket: `python partner.py FD DEVICE`."""

import json
import socket
import struct
import sys
from typing import Any

import numpy as np

from aquasim.runtime.arenas import (
    Arena,
    ArenaError,
    Extent,
    Mapping,
    create,
    open_handle,
    recv_handle,
    send_handle,
)
from aquasim.runtime.copy import Copier, Descriptors, open_copier


def say(sock: socket.socket, value: Any) -> None:
    """Send one JSON value."""
    text = json.dumps(value).encode()
    sock.sendall(struct.pack("!I", len(text)) + text)


def hear(sock: socket.socket) -> Any:
    """Receive one JSON value; raises EOFError at the end."""
    data = b""
    size = 4
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
        if size == 4 and len(data) == 4:
            size += struct.unpack("!I", data)[0]
    return json.loads(data[4:])


class Partner:
    """One method per command."""

    region: Arena | Mapping

    def __init__(self, sock: socket.socket, device: str | int) -> None:
        self.sock = sock
        self.device = device
        self.copier: Copier = open_copier(device)

    def create(self, backend: str, nbytes: int) -> int:
        """Make an arena."""
        self.region = create(backend, nbytes)
        return self.region.nbytes

    def export(self) -> str:
        """Send a handle, then its token."""
        assert isinstance(self.region, Arena)
        with self.region.export() as handle:
            send_handle(self.sock, handle)
            return handle.token

    def open(self) -> int:
        """Receive a handle and map it."""
        with recv_handle(self.sock) as handle:
            self.region = open_handle(handle)
        return self.region.nbytes

    def fill(self, value: int, offset: int, nbytes: int) -> None:
        """Write bytes of one value, by a copy."""
        with self.copier.scratch(nbytes) as local:
            local.write(np.full(nbytes, value, dtype=np.uint8))
            target = self.region.at(Extent(offset, nbytes))
            copies = Descriptors.of_blocks(local.ptr, [0], target, [0], nbytes)
            self.copier.submit(copies, self.copier.outgoing).wait(30)

    def checksum(self, offset: int, nbytes: int) -> int:
        """Return the checksum of an extent."""
        start = self.region.at(Extent(offset, nbytes))
        return int(self.copier.checksums([start], [nbytes], self.copier.incoming)[0])

    def take_back(self, token: str) -> None:
        """Note that a consumer is through."""
        assert isinstance(self.region, Arena)
        self.region.take_back(token)

    def close(self) -> None:
        """Close arena or mapping."""
        self.region.close()

    def force(self) -> None:
        """Close the arena whatever is lent."""
        assert isinstance(self.region, Arena)
        self.region.close(force=True)


def main() -> None:
    """Obey until the socket closes."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    partner = Partner(sock, int(sys.argv[2]) if sys.argv[2].isdigit() else sys.argv[2])
    say(sock, "ready")
    while True:
        try:
            verb, *words = hear(sock)
        except EOFError:
            return
        try:
            say(sock, {"ok": getattr(partner, verb)(*words)})
        except ArenaError as error:
            say(sock, {"error": str(error)})


if __name__ == "__main__":
    main()
