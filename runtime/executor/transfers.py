"""A scheduler's transfers, from the decision until they have landed: started in order, by a pager."""

from collections.abc import Callable, Iterable
from typing import Any

from aquasim.core import Scheduler, Transfer
from aquasim.runtime.pager import Landed, Pager


class Transfers:
    """Those that were decided and have not landed. One may start once all it names in `after` have landed."""

    def __init__(self, scheduler: Scheduler, pager: Pager | None) -> None:
        self.moving: set[int] = set()
        """Numbers of all of them."""
        self.may_start: Callable[[Transfer, Any], bool] | None = None
        """Asked with a transfer and its pages before it starts; one that may not is asked for again, turn by turn."""
        self.everywhere: Callable[[list[Landed]], list[Landed]] = list
        """Given what has landed here, returns what has landed at all ranks of the engine."""
        self._scheduler, self._pager = scheduler, pager
        self._blocked: list[tuple[Transfer, Any]] = []
        self._started: dict[int, Transfer] = {}

    def take(self, command: Transfer) -> None:
        """A transfer was decided."""
        self._blocked.append((command, self._scheduler.pager.flights[command.transfer].pages))
        self.moving.add(command.transfer)

    def start(self) -> None:
        """Start what may start: pages are whole, since a step that is done has written them (`Runner.step`)."""
        if not self._blocked:
            return
        assert self._pager is not None, "a transfer, but no pager to carry it"
        waiting = []
        for command, pages in self._blocked:
            ready = self.moving.isdisjoint(command.after)
            if ready and (self.may_start is None or self.may_start(command, pages)):
                self._started[command.transfer] = command
                self._pager.start(command, pages)
            else:
                waiting.append((command, pages))
        self._blocked = waiting

    def landed(self) -> Iterable[Landed]:
        """Return what has landed since the last call. `settle` each, then `start` what waited for it."""
        if not self.moving or self._pager is None:
            return ()
        return self.everywhere(self._pager.landed())

    def settle(self, number: int) -> Transfer:
        """Forget a transfer that has landed, and return it."""
        self.moving.discard(number)
        return self._started.pop(number)
