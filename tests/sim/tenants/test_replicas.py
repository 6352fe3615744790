"""Autoscaling: another replica after a while, and requests to whoever has the fewest."""

from typing import Any

from aquasim.sim.clock import Clock
from aquasim.sim.tenants.replicas import Autoscale, Replicas

SECOND = 1_000_000_000


class Engine:
    """Takes requests; the first `slots` run, the others wait."""

    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        self.live: list[int] = []
        self.next_arrival = 0

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return max(0, len(self.live) - self.slots)

    def submit(self, id: int, *rest: Any) -> None:
        """A request arrives."""
        self.live.append(id)


class Service:
    """Two engines behind one rule: a second one 30 s after 3 requests wait."""

    def __init__(self) -> None:
        self.env = Clock()
        self.first, self.second = Engine(), Engine()
        self.replicas = Replicas(self.env, self.first, self._more, Autoscale(3, 30 * SECOND))  # type: ignore[arg-type]
        self.started: list[int] = []

    def _more(self) -> Any:
        self.started.append(self.env.ns)
        return self.second

    def send(self, *ids: int, at: float = 0.0) -> None:
        """Let requests arrive at a time (s)."""
        for id in ids:
            self.env.at(round(at * SECOND), lambda _, id=id: self.replicas.submit(id, 1, 1, 0, ()))  # type: ignore[misc]


def test_no_replica_without_a_queue() -> None:
    """Two waiting are too few."""
    service = Service()
    service.send(1, 2, 3, 4)
    service.env.play()
    assert (service.started, service.first.live) == ([], [1, 2, 3, 4])


def test_a_replica_serves_after_its_start_up_and_only_once() -> None:
    """Ordered by the third that waits, there 30 s later to the nanosecond; a longer queue orders no other."""
    service = Service()
    service.send(1, 2, 3, 4, 5, at=1)
    service.send(6, at=30.9)
    service.send(7, 8, 9, 10, 11, 12, 13, at=31.1)
    service.env.play()
    assert service.started == [31 * SECOND]
    assert service.first.live == [1, 2, 3, 4, 5, 6, 13]
    assert service.second.live == [7, 8, 9, 10, 11, 12], "to the one with fewer, ties to the first"


def test_every_engine_knows_when_the_next_request_comes() -> None:
    """Also one that starts later."""
    service = Service()
    service.replicas.next_arrival = 5
    assert service.first.next_arrival == 5
    service.send(1, 2, 3, 4, 5)
    service.env.play()
    assert service.second.next_arrival == 5
    service.replicas.next_arrival = 9
    assert [service.first.next_arrival, service.second.next_arrival] == [9, 9]
    assert service.replicas.next_arrival == 9
