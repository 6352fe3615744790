"""The coordinator's machine behind a socket: carries messages, proves deaths, passes handles on. Decides nothing."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Collection
from typing import Any

from aquasim.core.leases import LOCAL, Coordinator, Died, Extent, Message, Overdue, Process, Wake, Watch
from aquasim.runtime.coordinator import identity, status
from aquasim.runtime.coordinator.alarm import Alarm
from aquasim.runtime.coordinator.channel import GONE
from aquasim.runtime.coordinator.deaths import Deaths
from aquasim.runtime.coordinator.session import Session
from aquasim.runtime.coordinator.wire import VERSION, Ask, Handed, Path, Role, Share, Welcome

LOG = logging.getLogger("aquasim.coordinator")
MOST = 1024
"""Connections at a time."""
PAUSE_S = 0.5
"""Seconds without new connections after one failed."""


class Server:
    """Serves one machine on a listening socket, within a running event loop. Times are `time.monotonic_ns`.

    It keeps no descriptor of anybody's memory: a handle goes from donor to consumer when the consumer asks, so that
    a restart has nothing to collect and nothing is kept alive by us. `uids` may connect; our own if left out.
    """

    def __init__(self, machine: Coordinator, listener: socket.socket, *, uids: Collection[int] = ()) -> None:
        self.machine = machine
        self.started = time.monotonic_ns()
        self.counts = {"messages": 0, "handles": 0, "refused": 0, "deaths": 0, "connections": 0}
        self.overdue: dict[Extent, Overdue] = {}
        self.paths: dict[Extent, tuple[Process, Path]] = {}
        self.sessions: dict[Process, Session] = {}
        self._uids = frozenset(uids or {os.getuid()})
        self._all: set[Session] = set()
        self._listener = listener
        self._pause: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._deaths = Deaths(self._died)
        self._alarm = Alarm(lambda: self.tell(Wake()))
        self._awake = self.started
        self._tick()
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """End all connections. Leases go on by their consumers' clocks until a coordinator is back."""
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()
        self._ticker.cancel()
        self._alarm.set(None)
        self._deaths.close()
        for session in list(self._all):
            session.channel.close("the coordinator stops")

    def tell(self, message: Message) -> None:
        """Let the machine have a message, and carry what it answers."""
        if self._slept():
            return
        for to, answer in self.machine.handle(time.monotonic_ns(), message):
            if to == LOCAL:
                self._local(answer)
            elif to in self.sessions:
                self.sessions[to].send(answer)  # else it is lost, as messages may be, and said again
        self._alarm.set(self.machine.wake_at())

    def _tick(self) -> None:
        """Note that we are running, several times in the life of a lease."""
        self._slept()
        self._ticker = self._loop.call_later(self.machine.lease_ns / 8e9, self._tick)

    def _slept(self) -> bool:
        """Notice that we were stopped for so long that leases may have expired while their renewals waited for us.

        That silence was ours. So we do what a restarted coordinator does: forget everything and have it reported.
        """
        now, before = time.monotonic_ns(), self._awake
        self._awake = now
        if now - before <= self.machine.lease_ns // 2:
            return False
        LOG.warning("was stopped for %.3g s: asking everybody anew", (now - before) / 1e9)
        old = self.machine
        self.machine = Coordinator(near=old.near, lease_ns=old.lease_ns, drain_ns=old.drain_ns)
        for session in list(self.sessions.values()):
            session.channel.close("the coordinator was stopped")
        return True

    def _local(self, message: Message) -> None:
        match message:
            case Watch(process=process):
                self._deaths.watch(process)
            case Overdue(extent=extent, consumer=consumer):
                self._forget()
                self.overdue[extent] = message
                LOG.warning("overdue: %s has not left extent %s of %s", _name(consumer), *_extent(extent))

    def _died(self, process: Process) -> None:
        self.counts["deaths"] += 1
        LOG.info("%s is dead", _name(process))
        self.tell(Died(process))

    # --- sessions --------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            LOG.warning("a connection failed: %s", error.strerror)
            self._loop.remove_reader(self._listener)  # no descriptors left, say: it would fail at once again
            self._pause = self._loop.call_later(PAUSE_S, self._loop.add_reader, self._listener, self._accept)
            return
        self.counts["connections"] += 1
        session = Session(self, sock, self._uids)
        if session.channel.open:
            self._all.add(session)
        if len(self._all) > MOST:
            session.refuse(f"{MOST} connections are open already")

    def enter(self, session: Session, process: Process, role: Role) -> None:
        """A donor or consumer is here, perhaps again: its new connection takes the place of the old one."""
        old = self.sessions.get(process)
        if old is not None:
            old.channel.close("connected anew")
        self.sessions[process] = session
        LOG.info("%s %s is here", role, _name(process))
        session.send(Welcome(VERSION, time.monotonic_ns(), self.machine.lease_ns, self.machine.drain_ns))

    def leave(self, session: Session, reason: str) -> None:
        """A connection has ended, which proves nothing; if its process died, a pidfd will tell."""
        self._all.discard(session)
        if session.process is None:
            level = logging.DEBUG if reason == GONE else logging.WARNING
            LOG.log(level, "a connection of PID %d ended: %s", session.peer.pid, reason)
        elif self.sessions.get(session.process) is session:
            del self.sessions[session.process]
            LOG.info("%s %s is away: %s", session.role, _name(session.process), reason)

    def refuse(self, peer: identity.Peer, reason: str) -> None:
        """Somebody was sent away."""
        self.counts["refused"] += 1
        LOG.warning("PID %d, uid %d was refused: %s", peer.pid, peer.uid, reason)

    def hear(self, session: Session, message: Any, fd: int | None) -> None:
        """Take what a donor or consumer says."""
        self.counts["messages"] += 1
        assert session.process is not None
        match message:
            case Handed():
                self._hand(message, fd)
            case Ask():
                self._ask(message, session.process)
            case Path():
                self._forget()
                if self._holds(session.process, message.extent, message.epoch):
                    self.paths[message.extent] = (session.process, message)
            case _:
                self.tell(message)

    def look(self, what: str) -> str:
        """Return the status as JSON, or metrics as Prometheus text."""
        self._forget()
        return status.as_json(self) if what == "status" else status.as_metrics(self)

    # --- handles ---------------------------------------------------------------------------------------------

    def _ask(self, ask: Ask, consumer: Process) -> None:
        """Pass a consumer's wish on, if the lease is its own; its donor has the last word."""
        donor = self.sessions.get(ask.extent.donor)
        if donor is not None and self._holds(consumer, ask.extent, ask.epoch):
            donor.send(Share(ask.extent, ask.epoch, consumer))

    def _hand(self, handed: Handed, fd: int | None) -> None:
        """Pass a handle on to the one it is for; the channel closes our copy of the descriptor."""
        consumer = self.sessions.get(handed.consumer)
        if consumer is not None and self._holds(handed.consumer, handed.extent, handed.epoch):
            self.counts["handles"] += 1
            consumer.send(handed, fd)
        elif fd is not None:
            os.close(fd)

    def _holds(self, consumer: Process, extent: Extent, epoch: int) -> bool:
        record = self.machine.records.get(extent)
        return record is not None and record.owner == consumer and record.epoch == epoch

    def _forget(self) -> None:
        """Drop what was noted about leases that are over."""
        for extent, word in list(self.overdue.items()):
            if not self._holds(word.consumer, extent, word.epoch):
                del self.overdue[extent]
        for extent, (consumer, path) in list(self.paths.items()):
            if not self._holds(consumer, extent, path.epoch):
                del self.paths[extent]


def _name(process: Process) -> str:
    return f"{process.name} (PID {identity.life(process).pid})"


def _extent(extent: Extent) -> tuple[int, str]:
    return extent.number, _name(extent.donor)
