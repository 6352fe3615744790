"""A donor's or consumer's machine in a thread of its own, and its connection to whichever coordinator there is.

A thread, because heartbeats must go on while an engine is in a long step: seconds of prefill are no silence. The
engine's threads only read under a lock, and post messages.
"""

import asyncio
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from aquasim.core.leases import LOCAL, Message, Process, Sent, Wake
from aquasim.runtime.coordinator import codec, identity
from aquasim.runtime.coordinator.alarm import Alarm
from aquasim.runtime.coordinator.channel import Channel
from aquasim.runtime.coordinator.errors import LeaseError, ProtocolError, RefusedError
from aquasim.runtime.coordinator.wire import HEARS, READERS, VERSION, Handed, Hello, Refused, Role, Welcome

LOG = logging.getLogger("aquasim.leases")
FIRST_S, LONGEST_S = 0.05, 2.0
"""Seconds to the second try to connect, and between tries at most; they double, and vary by half."""


class Machine(Protocol):
    """Donor or consumer."""

    me: Process

    def handle(self, now: int, message: Any) -> Sent:
        """Take a message, return what is to be sent."""

    def wake_at(self) -> int:
        """When it wants `Wake` (ns)."""


class Side(Protocol):
    """Whose machine it is; all of this is called in the link's thread."""

    def welcomed(self, welcome: Welcome) -> None:
        """A coordinator is there, perhaps a new one: tell it everything."""

    def local(self, message: Message) -> None:
        """The machine tells its engine something."""

    def wire(self, message: Any, fd: int | None) -> None:
        """Something came that is not for the machine; owns `fd`."""


class Link:
    """Runs `machine` for `side`. `uids` may be the coordinator's user besides root and our own."""

    def __init__(
        self, path: Path, role: Role, machine: Machine, side: Side, *, uids: Collection[int] = ()
    ) -> None:
        self.path = path
        self.role: Role = role
        self.machine = machine
        self.lock = threading.Lock()
        """Held while the machine changes; hold it to read the machine from elsewhere."""
        self.refusal: str | None = None
        self._side = side
        self._uids = {0, os.getuid(), *uids}
        self._changed = threading.Condition()
        self._connected = False
        self._stopping = False
        self._channel: Channel | None = None
        self._said = 0
        self._alarm: Alarm
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event
        self._worker = ThreadPoolExecutor(1, f"{machine.me.name}-memory")
        self._thread = threading.Thread(target=self._run, name=f"{machine.me.name}-leases", daemon=True)

    # --- from any thread -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; it connects, now or whenever a coordinator is there."""
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._loop is not None)

    @property
    def connected(self) -> bool:
        """Whether a coordinator has let us in and is still there."""
        return self._connected

    def wait(self, timeout: float) -> bool:
        """Wait until connected, at most `timeout` seconds; raises RefusedError if that will never be."""
        with self._changed:
            self._changed.wait_for(lambda: self._connected or self.refusal is not None, timeout)
        if self.refusal is not None:
            raise RefusedError(self.refusal)
        return self._connected

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._loop is not None and not self._stopping

    def require(self) -> None:
        """Raise LeaseError unless running."""
        if not self.running:
            raise LeaseError(f"{self.machine.me.name} is not running: start it, and not after it was closed")

    def post(self, message: Message) -> None:
        """Let the machine have a message from the engine, soon and in order; raises LeaseError once stopped."""
        self.call(self.tell, message)

    def call(self, function: Callable[..., object], *words: Any) -> None:
        """Call something in the link's thread; raises LeaseError once stopped."""
        self.require()
        assert self._loop is not None
        self._loop.call_soon_threadsafe(function, *words)

    def settle(self) -> None:
        """Wait until the link's thread has done all that it was asked to before."""
        assert threading.current_thread() is not self._thread, "the link's thread would wait for itself"
        done = threading.Event()
        self.call(done.set)
        done.wait()

    def stop(self, timeout: float = 5.0) -> None:
        """Send what waits to be sent, connected or within `timeout` seconds of trying, and end the thread."""
        if self._loop is None or self._stopping:
            return
        if self.refusal is None:
            self._flush(timeout)
        self._worker.submit(
            int
        ).result()  # what was under way is done, and its results are on their way to the loop
        self._stopping = True
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._worker.shutdown()

    def _flush(self, timeout: float) -> None:
        limit = time.monotonic() + timeout
        done = threading.Event()

        def look() -> None:
            assert self._loop is not None
            if self._connected and self._channel is not None and self._channel.idle:
                done.set()
            elif time.monotonic() < limit:
                self._loop.call_later(0.01, look)

        self.call(look)
        done.wait(max(0.0, limit - time.monotonic()))

    # --- in the link's thread --------------------------------------------------------------------------------

    def tell(self, message: Message) -> None:
        """Let the machine have a message, and carry what it answers."""
        with self.lock:
            sent = self.machine.handle(time.monotonic_ns(), message)
        assert self._loop is not None
        for to, answer in sent:
            if to == LOCAL:
                self._loop.call_soon(
                    self._side.local, answer
                )  # on its own: what an engine raises is the engine's
            else:
                self.say(answer)
        self._alarm.set(self.machine.wake_at())

    def say(self, message: Any, fd: int | None = None) -> None:
        """Send a message, or lose it where nobody is connected; owns `fd`."""
        if self._connected and self._channel is not None:
            self._channel.send(codec.encode(message), fd)
        elif fd is not None:
            os.close(fd)

    def later(self, delay: int, function: Callable[..., object], *words: Any) -> None:
        """Call something after `delay` ns."""
        assert self._loop is not None
        self._loop.call_later(delay / 1e9, function, *words)

    def work(
        self, job: Callable[[], Any], then: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        """Do slow work in one thread beside, in order, then call `then` with its result, here."""
        assert self._loop is not None
        loop = self._loop

        def done(task: "asyncio.Future[Any]") -> None:
            error = task.exception()
            if error is None:
                then(task.result())
            elif isinstance(error, Exception):
                failed(error)

        loop.run_in_executor(self._worker, job).add_done_callback(done)

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        self._alarm = Alarm(lambda: self.tell(Wake()))
        with self._changed:
            self._loop = asyncio.get_running_loop()
            self._changed.notify_all()
        self.tell(Wake())
        stopped: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        pause = FIRST_S
        while not self._stop.is_set() and self.refusal is None:
            ended = self._connect()
            if ended is not None:
                await asyncio.wait([stopped, ended], return_when=asyncio.FIRST_COMPLETED)
                pause = FIRST_S if self._said else pause
            self._set(connected=False)
            await asyncio.wait([stopped], timeout=pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_S)
        await stopped
        self._alarm.set(None)
        if self._channel is not None:
            self._channel.close("we stop")

    def _connect(self) -> "asyncio.Future[str] | None":
        """Try to connect; return what will say why the connection ended."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(
                str(self.path)
            )  # at once or not: where the backlog is full, EAGAIN says to try again
        except OSError:
            sock.close()
            return None
        uid = identity.peer(sock).uid
        if uid not in self._uids:
            sock.close()
            self._refuse(f"the coordinator at {self.path} is run by uid {uid}: not by us and not by root")
            return None
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._said = 0
        self._channel = Channel(sock, self._frame, lambda reason: self._ended(ended, reason))
        self._greeted = time.monotonic_ns()
        self._channel.send(codec.encode(Hello(VERSION, self.role, self.machine.me)))
        return ended

    def _ended(self, ended: "asyncio.Future[str]", reason: str) -> None:
        if not ended.done():
            ended.set_result(reason)
        if self._connected:
            LOG.info("%s: the coordinator is away: %s", self.machine.me.name, reason)
        self._set(connected=False)

    def _set(self, *, connected: bool) -> None:
        with self._changed:
            self._connected = connected
            self._changed.notify_all()

    def _refuse(self, reason: str) -> None:
        LOG.error("%s: %s", self.machine.me.name, reason)
        with self._changed:
            self.refusal = reason
            self._changed.notify_all()
        if self._channel is not None:
            self._channel.close(reason)

    def _frame(self, text: bytes, fd: int | None) -> None:
        try:
            message = codec.decode(text, READERS, HEARS[self.role])
            if not self._connected and not isinstance(message, Welcome | Refused):
                raise ProtocolError(f"{type(message).__name__} before Welcome")
            if fd is not None and not isinstance(message, Handed):
                raise ProtocolError(f"a file descriptor with {type(message).__name__}")
        except ProtocolError:
            if fd is not None:
                os.close(fd)
            raise
        self._said += 1
        match message:
            case Welcome():
                self._welcome(message)
            case Refused(reason=reason):
                self._refuse(f"the coordinator refuses {self.machine.me.name}: {reason}")
            case _ if type(message) in codec.FIELDS:
                self.tell(message)
            case _:
                self._side.wire(message, fd)

    def _welcome(self, welcome: Welcome) -> None:
        """Check that both clocks are one (they are on one machine and in one time namespace) and report."""
        now = time.monotonic_ns()
        if not self._greeted - 1_000_000 <= welcome.clock <= now + 1_000_000:
            off = (welcome.clock - now) / 1e9
            self._refuse(f"the coordinator's clock is {off:+.3f} s off: is it in another time namespace?")
            return
        self._set(connected=True)
        self._side.welcomed(welcome)
