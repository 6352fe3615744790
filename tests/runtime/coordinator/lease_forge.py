"""Makes processes quickly: a forking server. Each connection becomes a process that obeys: `lease_forge.py SOCKET`.

The first message says what to be: {"role": "donor"|"consumer"|"coordinator", ...}; the answer is the PID.
"""

import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from lease_actors import ACTORS  # noqa: E402
from partner import hear, say  # noqa: E402


def obey(sock: socket.socket) -> None:
    """Be what the first message says, then run its methods by name until the connection closes."""
    options = hear(sock)
    logging.basicConfig(level=logging.DEBUG, filename=options.pop("log"), force=True)
    if "uid" in options:
        os.setuid(options.pop("uid"))
    actor = ACTORS[options.pop("role")](**options)
    say(sock, os.getpid())
    actor.begin()
    while True:
        try:
            verb, *words = hear(sock)
        except (EOFError, OSError):
            os._exit(0)  # without closing anything, as a crash would
        try:
            answer: Any = {"ok": getattr(actor, verb)(*words)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        say(sock, answer)


def main() -> None:
    """Fork for each connection, until stdin closes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(sys.argv[1])
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        sock, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            try:
                obey(sock)
            finally:
                os._exit(1)
        sock.close()


if __name__ == "__main__":
    main()
