"""SimPy's environment with time in integer nanoseconds, callbacks at a time, and a last word at each instant."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import repeat
from typing import Any

from simpy import Environment
from simpy.core import EmptySchedule

_NORMAL, _LAST = 1, 2  # SimPy runs priority 0 and 1 before 2, so LAST is after everything else of an instant


class Call:
    """An entry of the event queue that runs one callback when its time comes. To SimPy it looks like an event."""

    __slots__ = ("callback",)
    _ok = True

    def __init__(self, callback: Callable[[Any], None]) -> None:
        self.callback = callback

    @property
    def callbacks(self) -> list[Callable[[Any], None]]:
        """The callback, as SimPy's own loop wants it."""
        return [self.callback]

    @callbacks.setter
    def callbacks(self, processed: None) -> None:
        pass


class Clock(Environment):
    """Simulated time. Ordinary SimPy processes and events run in it beside the cheap callbacks.

    A run has one callback per step and arrival, a million and more, so scheduling one does without the
    generic path of `Environment.schedule` and `Environment.step` (the queue and its order are SimPy's).
    """

    def __init__(self) -> None:
        super().__init__(0)
        self._serial = self._eid.__next__
        self.ns = 0
        """Now, in nanoseconds: SimPy's `now` as a plain attribute."""

    def at(self, when: int, callback: Callable[[Any], None]) -> Call:
        """Run `callback(event)` at `when` (ns, not in the past)."""
        event = Call(callback)
        heappush(self._queue, (when, _NORMAL, self._serial(), event))  # type: ignore[misc]
        return event

    def last(self, callback: Callable[[Any], None]) -> None:
        """Run `callback(event)` now, after every other event of this instant."""
        heappush(self._queue, (self.ns, _LAST, self._serial(), Call(callback)))  # type: ignore[misc]

    def quiet(self) -> bool:
        """Say whether nothing more happens at this instant."""
        return not self._queue or self._queue[0][0] > self.ns

    def play(self, events: int = -1) -> bool:
        """Let up to `events` events happen (-1: all there are and will be). False when none is left."""
        queue = self._queue
        for _ in repeat(None) if events < 0 else repeat(None, events):
            if not queue:
                return False
            now, _, _, event = heappop(queue)
            self.ns = self._now = now  # type: ignore[assignment]
            if type(event) is Call:  # type: ignore[comparison-overlap]
                event.callback(event)
                continue
            callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]
            for callback in callbacks:
                callback(event)
            if not event._ok and not hasattr(event, "_defused"):
                raise event._value
        return bool(queue)

    def step(self) -> None:
        """Process the next event, as SimPy's `run` does."""
        if not self._queue:
            raise EmptySchedule
        self.play(1)
