"""GET /metrics over HTTP on the loopback interface, and nothing else."""

import asyncio
from collections.abc import Callable

LIMIT = 8192  # bytes of a request's head
PATIENCE_S = 5.0
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def serve_metrics(port: int, metrics: Callable[[], str]) -> asyncio.Server:
    """Listen on 127.0.0.1; raises OSError where the port is taken."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_reply(head, metrics))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever this was is not asking for metrics
        finally:
            writer.close()

    return await asyncio.start_server(talk, "127.0.0.1", port, limit=LIMIT)


def _reply(head: bytes, metrics: Callable[[], str]) -> bytes:
    verb, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if path != b"/metrics":
        return _response("404 Not Found", "only /metrics is here\n")
    if verb != b"GET":
        return _response("405 Method Not Allowed", "only GET\n")
    return _response("200 OK", metrics())


def _response(line: str, text: str) -> bytes:
    body = text.encode()
    head = f"HTTP/1.1 {line}\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
