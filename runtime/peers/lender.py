"""The other process of a measurement: lends one arena over a socket until that closes. `FD BACKEND BYTES`."""

import socket
import sys

from aquasim.runtime.arenas import ArenaError, create, send_handle


def main() -> None:
    """Lend, wait for the end of the connection, leave; an error is one line on stderr."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    try:
        with create(sys.argv[2], int(sys.argv[3])) as arena:
            with arena.export() as handle:
                send_handle(sock, handle)
                token = handle.token
            sock.recv(1)  # nothing comes but the end: the importer has closed
            arena.take_back(token)
    except ArenaError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
