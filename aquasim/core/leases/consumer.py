"""The consumer's machine: which leases it holds, and whether it may write to them now. Nothing here waits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aquasim.core.leases.messages import (
    COORDINATOR,
    LOCAL,
    Closed,
    ConsumerReport,
    Drain,
    Emptied,
    Evacuate,
    Extent,
    Granted,
    Lease,
    Message,
    Process,
    Sent,
    Usable,
    Wake,
    Want,
)


@dataclass(slots=True)
class Hold:
    """One lease as its consumer sees it; `draining` is for good."""

    bytes: int
    epoch: int
    expires: int
    draining: bool = False


class Consumer:
    """Leases extents, renews them, and gives them up when told. Events in, messages out; own clock (ns).

    `margin_ns` bounds how far its clock and the coordinator's may be apart.

    Raises:
        ValueError: `heartbeat_ns` is not positive, or `margin_ns` negative.
    """

    def __init__(
        self, me: Process, *, heartbeat_ns: int = 1_000_000_000, margin_ns: int = 500_000_000
    ) -> None:
        if heartbeat_ns < 1 or margin_ns < 0:
            raise ValueError(
                f"heartbeat_ns is {heartbeat_ns} (at least 1), margin_ns {margin_ns} (at least 0)"
            )
        self.me = me
        self.heartbeat_ns = heartbeat_ns
        self.margin_ns = margin_ns
        self.holds: dict[Extent, Hold] = {}
        self.want = 0
        """Bytes it would like to lease in all."""
        self._closed: dict[Extent, int] = {}
        self._serial = 0
        self._beat_at = 0

    def handle(self, now: int, message: Message) -> Sent:
        """Take one message at time `now` (ns, never decreasing) and return what is to be sent."""
        return _HANDLERS[type(message)](self, now, message)

    def wake_at(self) -> int:
        """When the next heartbeat is due (ns)."""
        return self._beat_at

    def may_write(self, now: int, extent: Extent, epoch: int) -> bool:
        """Say whether a write may be started now (ns): held, under this epoch, not draining, not about to expire."""
        hold = self.holds.get(extent)
        if hold is None or hold.epoch != epoch or hold.draining:
            return False
        return now < hold.expires - self.margin_ns

    def may_read(self, extent: Extent, epoch: int) -> bool:
        """Say whether pages written under this epoch are still there: until closed, whatever the clock says."""
        hold = self.holds.get(extent)
        return hold is not None and hold.epoch == epoch

    @property
    def leased(self) -> int:
        """Bytes of the leases that are not draining."""
        return sum(hold.bytes for hold in self.holds.values() if not hold.draining)

    def _report(self, now: int) -> Sent:
        self._serial += 1
        self._beat_at = now + self.heartbeat_ns
        holds = tuple((extent, hold.epoch, hold.bytes) for extent, hold in self.holds.items())
        return [(COORDINATOR, ConsumerReport(self.me, self._serial, self.want, holds))]

    def _wake(self, now: int, message: Wake) -> Sent:
        return self._report(now) if now >= self._beat_at else []

    def _want(self, now: int, message: Want) -> Sent:
        assert message.bytes >= 0, f"want of {message.bytes} bytes"
        self.want = message.bytes
        return self._report(now)

    def _granted(self, now: int, message: Granted) -> Sent:
        sent: Sent = []
        for lease in message.leases:
            hold = self.holds.get(lease.extent)
            if hold is None:
                sent += self._begin(lease)
            elif hold.epoch == lease.epoch:
                hold.expires = max(hold.expires, lease.expires)
            elif hold.epoch > lease.epoch:
                sent += self._close(lease.extent, lease.epoch)
        return sent

    def _begin(self, lease: Lease) -> Sent:
        """Take a lease up, unless it was closed before or is not wanted any more."""
        closed = self._closed.get(lease.extent, 0) >= lease.epoch
        if closed or self.leased >= self.want:
            return self._close(lease.extent, lease.epoch)
        self.holds[lease.extent] = Hold(lease.bytes, lease.epoch, lease.expires)
        return [(LOCAL, Usable(lease))]

    def _close(self, extent: Extent, epoch: int) -> Sent:
        """Say that (extent, epoch) is over, and remember it so that no late grant brings it back."""
        self._closed[extent] = max(self._closed.get(extent, 0), epoch)
        return [(COORDINATOR, Closed(self.me, extent, epoch))]

    def _drain(self, now: int, message: Drain) -> Sent:
        sent: Sent = []
        for extent, epoch in message.leases:
            hold = self.holds.get(extent)
            if hold is None or hold.epoch > epoch:
                sent += self._close(extent, epoch)
            elif hold.epoch == epoch and not hold.draining:
                hold.draining = True
                sent.append((LOCAL, Evacuate(extent, epoch, message.cause)))
        return sent

    def _emptied(self, now: int, message: Emptied) -> Sent:
        hold = self.holds.get(message.extent)
        if hold is None or hold.epoch != message.epoch:
            return []
        del self.holds[message.extent]
        return self._close(message.extent, message.epoch)

    def check(self) -> None:
        """Assert every invariant: what is held is not closed, and positive."""
        for extent, hold in self.holds.items():
            assert hold.epoch > self._closed.get(extent, 0)
            assert hold.bytes > 0
        assert self.want >= 0


_HANDLERS: dict[type, Callable[[Consumer, int, Any], Sent]] = {
    Wake: Consumer._wake,
    Want: Consumer._want,
    Granted: Consumer._granted,
    Drain: Consumer._drain,
    Emptied: Consumer._emptied,
}
