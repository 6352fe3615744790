"""A coordinator's whole life: bind, serve until a signal, tidy up."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aquasim.core.leases import Coordinator
from aquasim.errors import UserError
from aquasim.runtime.coordinator.folder import Listener
from aquasim.runtime.coordinator.http import serve_metrics
from aquasim.runtime.coordinator.server import Server


@dataclass(frozen=True, slots=True)
class Settings:
    """What a coordinator is started with; seconds. `near` names each consumer's donors, nearest first."""

    socket: Path
    lease_s: float = 10.0
    drain_s: float = 5.0
    near: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    uids: tuple[int, ...] = ()
    metrics_port: int | None = None


def serve(settings: Settings, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is called once it listens. Raises UserError.

    Leases go on without a coordinator until they expire, and the next one learns of them from donors and consumers.
    """
    listener = Listener(settings.socket, settings.uids)
    try:
        asyncio.run(_serve(settings, listener, ready))
    finally:
        listener.close()


async def _serve(settings: Settings, listener: Listener, ready: Callable[[], None]) -> None:
    stop = asyncio.Event()
    errors: list[BaseException] = []

    def fail(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End on an error of our own: a new coordinator is told everything, a broken one may tell lies."""
        errors.append(context.get("exception") or RuntimeError(context["message"]))
        stop.set()

    asyncio.get_running_loop().set_exception_handler(fail)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    machine = Coordinator(
        near=settings.near, lease_ns=round(settings.lease_s * 1e9), drain_ns=round(settings.drain_s * 1e9)
    )
    server = Server(machine, listener.sock, uids={os.getuid(), *settings.uids})
    http = await _metrics(settings.metrics_port, server)
    try:
        ready()
        await stop.wait()
    finally:
        if http is not None:
            http.close()
        server.close()
    if errors:
        raise errors[0]


async def _metrics(port: int | None, server: Server) -> asyncio.Server | None:
    if port is None:
        return None
    try:
        return await serve_metrics(port, lambda: server.look("metrics"))
    except OSError as error:
        raise UserError(f"--metrics-port: {port}: {error.strerror or error}") from error
