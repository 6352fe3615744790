"""What the simulator needs of SimPy: callbacks at a time, and a last word at each instant.

Events are plain callbacks, not generator processes: one heap entry each, which is what a run of a million
requests can afford. Time is an integer number of nanoseconds.
"""

from collections.abc import Callable
from typing import Any

from simpy import Environment
from simpy.events import Event

_LAST = 2  # after SimPy's URGENT (0) and NORMAL (1), so after everything else of the same instant


class Call(Event):
    """An event that runs one callback when its time comes, unless the callback finds it stale."""

    __slots__ = ()

    def __init__(self, env: Environment, callback: Callable[[Any], None]) -> None:
        self.env = env
        self.callbacks = [callback]
        self._value = None
        self._ok = True
        self._defused = False


def call_at(env: Environment, when: int, callback: Callable[[Any], None]) -> Call:
    """Run `callback(event)` at time `when` (ns, not in the past)."""
    event = Call(env, callback)
    env.schedule(event, 1, when - env.now)  # type: ignore[arg-type]
    return event


def call_last(env: Environment, callback: Callable[[Any], None]) -> None:
    """Run `callback(event)` now, after every other event of this instant."""
    env.schedule(Call(env, callback), _LAST)  # type: ignore[arg-type]
