"""Times of many leases of which most are put off long before they come: a heap that learns of that only then."""

from collections.abc import Mapping
from heapq import heappop, heappush, heapreplace

from aquasim.core.leases.messages import Extent
from aquasim.core.leases.records import Record, State

NEVER = 1 << 62


class Timers:
    """When leases expire and drains are overdue, at most one time per extent.

    A record's time may grow or vanish unsaid; `begin` must be said when one comes to be or falls. A time costs
    O(log n) when it begins and when it comes.
    """

    def __init__(self, records: Mapping[Extent, Record]) -> None:
        self._records = records
        self._heap: list[tuple[int, Extent]] = []
        self._when: dict[Extent, int] = {}
        """What stands in the heap for each extent; anything else there is void."""

    def _due(self, extent: Extent) -> int | None:
        record = self._records.get(extent)
        if record is None:
            return None
        return record.expires if record.state is State.LEASED else record.deadline

    def begin(self, extent: Extent, when: int) -> None:
        """From now on, something is due at `when`."""
        if when < self._when.get(extent, NEVER):
            self._when[extent] = when
            heappush(self._heap, (when, extent))

    def first(self) -> int | None:
        """Return the earliest time, or None."""
        while self._heap:
            when, extent = self._heap[0]
            due = self._due(extent) if self._when.get(extent) == when else None
            if due == when:
                return when
            if due is not None:
                self._when[extent] = due
                heapreplace(self._heap, (due, extent))
            else:
                heappop(self._heap)
                if self._when.get(extent) == when:
                    del self._when[extent]
        return None

    def passed(self, now: int) -> set[Extent]:
        """Take out and return those that are due by `now`."""
        found: set[Extent] = set()
        while (when := self.first()) is not None and when <= now:
            found.add(self._heap[0][1])
            del self._when[heappop(self._heap)[1]]
        return found

    def check(self, extent: Extent) -> None:
        """Assert that an extent's time, if it has one, will not be missed."""
        due = self._due(extent)
        assert due is None or self._when[extent] <= due
