"""Which adapters are in slots: requests wait for theirs, outside the scheduler, so that nobody waits with them."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from aquasim.errors import UserError
from aquasim.runtime.lora.homes import Home, Loading, Source
from aquasim.runtime.lora.slots import LoraSlots
from aquasim.sim.adapters import Lru

RESPOND_NS = 2_000_000
"""Between two looks at what the home has to move."""


class Loaded(NamedTuple):
    """An adapter came to its slot; times are ns."""

    number: int
    start: int
    end: int
    source: Source
    nbytes: int


class _Load(NamedTuple):
    slot: int
    loading: Loading
    source: Source
    start: int


class _Failed:
    """A load that could not begin."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def done(self) -> bool:
        """See Loading."""
        raise self._error


class LoraCache:
    """Adapters by name over the slots of a runner and a home for the others. For the executor's thread.

    A request is ready once its adapter is in a slot, and keeps it there until it is gone: the scheduler knows only
    requests that can run at once, of at most as many adapters as there are slots. Loads run beside the steps. Of the
    adapters that nobody uses the least recently used makes way, as in the simulator. Where all are in use, the
    first request in line picks the least recently used, which takes no more requests, so that it drains: whatever
    the mix, everybody's turn comes.
    """

    def __init__(
        self, slots: LoraSlots, home: Home, names: Iterable[str], *,
        now: Callable[[], int] = time.monotonic_ns,
    ) -> None:  # fmt: skip
        self.slots, self.home = slots, home
        self.loads: list[Loaded] = []
        """What came since somebody last took it: for records."""
        self._numbers = {name: number for number, name in enumerate(names)}
        self._names = list(self._numbers)
        self._now = now
        self._lru = Lru(slots.count)
        self._slot: dict[int, int] = {}
        """Where each adapter is, or is going."""
        self._free = list(range(slots.count - 1, -1, -1))
        self._loads: dict[int, _Load] = {}
        self._users: dict[int, set[int]] = {}
        self._queue: deque[tuple[int, int]] = deque()
        """(request, adapter) that wait, in order."""
        self._draining: dict[int, int] = {}
        """Adapters that take no more requests, and for which adapter each makes way."""
        self._respond_at = 0

    # --- what the executor asks ------------------------------------------------------------------------------

    def number(self, name: str) -> int:
        """Return an adapter's number; raises UserError for a name that is none."""
        if name not in self._numbers:
            known = ", ".join(self._names[:8]) + (", ..." if len(self._names) > 8 else "")
            raise UserError(f"there is no adapter {name!r}; valid: {known or 'none'}")
        return self._numbers[name]

    def slot(self, number: int) -> int:
        """Return the slot of an adapter that a request uses; -1 for no adapter."""
        return -1 if number < 0 else self._slot[number]

    @property
    def resident(self) -> list[str]:
        """Names of the adapters in slots, least recently used first."""
        return [self._names[number] for number in self._lru.items]

    @property
    def waiting(self) -> int:
        """Requests that are not ready."""
        return len(self._queue)

    def submit(self, id: int, number: int) -> bool:
        """Take a request; say whether it is ready now."""
        if self._takes(number):
            self._use(id, number)
            return True
        self._queue.append((id, number))
        return False

    def ready(self) -> tuple[list[int], list[tuple[int, str]]]:
        """Go on with what waits, and return the requests that are ready now, and those that failed, with why."""
        if self._now() >= self._respond_at:
            self._respond_at = self._now() + RESPOND_NS
            self.home.respond()
        if not self._queue and not self._loads:
            return [], []
        failed = self._settle()
        admitted = self._admit()
        self._claim()
        return admitted, failed

    def gone(self, id: int, number: int) -> None:
        """Forget a request, ready or not; its adapter was in use until now."""
        users = self._users.get(number, set())
        if id in users:
            users.remove(id)
            self._lru.touch(number)
        else:
            self._queue = deque(entry for entry in self._queue if entry[0] != id)

    def check(self) -> None:
        """Assert that every slot is free, on its way or some adapter's, and that users have their adapter."""
        used = list(self._slot.values())
        assert sorted([*used, *self._free]) == list(range(self.slots.count))
        assert self._slot.keys() == self._loads.keys() | self._lru.items.keys()
        assert all(number in self._lru for number, users in self._users.items() if users)

    # --- its steps -------------------------------------------------------------------------------------------

    def _takes(self, number: int) -> bool:
        return number in self._lru and number not in self._draining

    def _use(self, id: int, number: int) -> None:
        self._users.setdefault(number, set()).add(id)
        self._lru.touch(number)

    def _settle(self) -> list[tuple[int, str]]:
        """Note which loads have ended; return the requests whose adapter could not be loaded."""
        failed: list[tuple[int, str]] = []
        for number, load in list(self._loads.items()):
            try:
                if not load.loading.done():
                    continue
            except (OSError, RuntimeError, UserError) as error:
                failed += self._fail(number, str(error))
                continue
            del self._loads[number]
            evicted = self._lru.insert(number, ())
            assert evicted is None, "a slot was taken that was not free"
            self.loads.append(Loaded(number, load.start, self._now(), load.source, self.slots.slot_bytes))
        return failed

    def _fail(self, number: int, reason: str) -> list[tuple[int, str]]:
        """Give the slot back, and up the requests that waited for this adapter."""
        del self._loads[number]
        self._free.append(self._slot.pop(number))
        hit = [id for id, wanted in self._queue if wanted == number]
        self._queue = deque(entry for entry in self._queue if entry[1] != number)
        return [(id, f"adapter {self._names[number]}: {reason}") for id in hit]

    def _admit(self) -> list[int]:
        """Let those go on whose adapter is there."""
        admitted, left = [], deque[tuple[int, int]]()
        for id, number in self._queue:
            if self._takes(number):
                self._use(id, number)
                admitted.append(id)
            else:
                left.append((id, number))
        self._queue = left
        return admitted

    def _claim(self) -> None:
        """In the order of the line, begin to load what is missing into slots that are free or come free."""
        wanted = dict.fromkeys(number for _, number in self._queue)
        self._draining = {v: w for v, w in self._draining.items() if w in wanted and w not in self._slot}
        for number in wanted:
            if number in self._slot:  # on its way, or draining for somebody before
                continue
            slot = self._room(number)
            if slot is not None:
                self._begin(number, slot)
            elif number not in self._draining.values():
                victim = next((n for n in self._lru.items if n not in self._draining), None)
                if victim is not None:
                    self._draining[victim] = number

    def _room(self, number: int) -> int | None:
        """Return a slot: a free one, or that of an adapter which nobody uses and nobody else waits for."""
        if self._free:
            return self._free.pop()
        for victim in self._lru.items:
            if not self._users.get(victim) and self._draining.get(victim, number) == number:
                del self._lru.items[victim]
                self._draining.pop(victim, None)
                return self._slot.pop(victim)
        return None

    def _begin(self, number: int, slot: int) -> None:
        loading: Loading
        try:
            loading, source = self.home.load(self._names[number], self.slots.memory[slot])
        except (OSError, RuntimeError) as error:
            loading, source = _Failed(error), "host"
        self._slot[number] = slot
        self._loads[number] = _Load(slot, loading, source, self._now())
