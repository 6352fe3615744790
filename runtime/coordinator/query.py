"""Looking at a coordinator from outside."""

import socket
from pathlib import Path
from typing import Literal

from aquasim.errors import UserError
from aquasim.runtime.coordinator import codec
from aquasim.runtime.coordinator.channel import HEADER, LIMIT
from aquasim.runtime.coordinator.errors import ProtocolError
from aquasim.runtime.coordinator.folder import check_length
from aquasim.runtime.coordinator.wire import READERS, Answer, Query, Refused

PATIENCE_S = 3.0


def query(path: Path, what: Literal["status", "metrics"]) -> str:
    """Ask for "status" (JSON) or "metrics" (Prometheus text). Raises UserError where nobody answers."""
    check_length(path)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(str(path))
            word = codec.encode(Query(what))
            sock.sendall(HEADER.pack(len(word)) + word)
            text, answer = "", None
            while answer is None or answer.more:
                answer = _refuse(codec.decode(_receive(sock), READERS, (Answer, Refused)))
                text += answer.text
    except TimeoutError:
        raise UserError(f"the coordinator at {path} does not answer: is it stopped?") from None
    except (OSError, ProtocolError) as error:
        raise UserError(f"no coordinator at {path}: {getattr(error, 'strerror', None) or error}") from None
    return text


def _refuse(answer: Answer | Refused) -> Answer:
    if isinstance(answer, Refused):
        raise UserError(f"the coordinator refuses: {answer.reason}")
    return answer


def _receive(sock: socket.socket) -> bytes:
    (size,) = HEADER.unpack(_exactly(sock, HEADER.size))
    if size > LIMIT:
        raise ProtocolError(f"an answer of {size} bytes")
    return _exactly(sock, size)


def _exactly(sock: socket.socket, nbytes: int) -> bytes:
    data = b""
    while len(data) < nbytes:
        part = sock.recv(nbytes - len(data))
        if not part:
            raise ProtocolError("it hung up")
        data += part
    return data
