"""What donors' and consumers' clients have in common: a state machine behind a link to the coordinator."""

from typing import Generic, TypeVar

from aquasim.core.leases import Consumer, Donor, Process
from aquasim.runtime.coordinator.link import Link

Machine = TypeVar("Machine", Donor, Consumer)


class Party(Generic[Machine]):
    """A client with a thread of its own. Subclasses set `_machine` and `_link`; all methods are for any thread."""

    _machine: Machine
    _link: Link

    def start(self) -> None:
        """Start the client's thread; it connects whenever a coordinator is there."""
        self._link.start()

    @property
    def me(self) -> Process:
        """Our name and run."""
        return self._machine.me

    @property
    def connected(self) -> bool:
        """Whether a coordinator is there."""
        return self._link.connected

    def wait_connected(self, timeout: float) -> bool:
        """Wait for a coordinator, at most `timeout` seconds; raises RefusedError if it will not have us."""
        return self._link.wait(timeout)
