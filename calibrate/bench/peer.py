"""Another process that lends memory: what a peer GPU's donor does, on a second GPU, on the same one, or on the CPU.

    python -m aquasim.calibrate.bench.peer FD BACKEND BYTES PLACE

For each byte that comes over the socket FD it exports its arena once; it ends when the socket closes.
"""

import socket
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from aquasim.runtime.arenas import create, open_handle, recv_handle, send_handle

_WAIT_S = 60.0
_LAST_WORDS_S = 5.0


class Peer:
    """A process with an arena of `nbytes` bytes of `backend` at `place` (GPU index or NUMA node, -1 for none).

    Leaving the context ends it.
    """

    def __init__(self, backend: str, nbytes: int, place: int = -1) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(_WAIT_S)
        words = [theirs.fileno(), backend, nbytes, place]
        command = [sys.executable, "-m", "aquasim.calibrate.bench.peer", *map(str, words)]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        theirs.close()

    def mapping(self, device: int | None = None) -> Any:
        """Map the peer's arena for copies from GPU `device`. Raises RuntimeError with the peer's last words."""
        with self.handle() as handle:
            return open_handle(handle, device=device)

    def handle(self) -> Any:
        """Return a new export of the peer's arena; the caller closes it."""
        try:
            self.socket.sendall(b".")
            return recv_handle(self.socket)
        except (OSError, RuntimeError) as error:
            raise RuntimeError(
                f"the process that lends memory failed: {self._last_words() or error}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        try:
            self._process.wait(_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            if self._process.stderr:
                self._process.stderr.close()

    def _last_words(self) -> str:
        try:
            self._process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            return ""
        if self._process.stderr is None:
            return ""
        lines = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def lend(words: list[str]) -> None:
    """Serve exports of one arena until the other side closes the socket."""
    fd, backend, nbytes, place = int(words[0]), words[1], int(words[2]), int(words[3])
    sock = socket.socket(fileno=fd)
    arena = create(backend, nbytes, place=None if place < 0 else place)
    with suppress(BrokenPipeError, ConnectionResetError):  # the other side may hang up at any moment
        while sock.recv(1):
            with arena.export() as handle:
                send_handle(sock, handle)
    arena.close(force=True)


if __name__ == "__main__":
    lend(sys.argv[1:])
