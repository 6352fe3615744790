"""A carrier for traces message by message."""

from aquasim.core.leases import (
    COORDINATOR,
    LOCAL,
    Consumer,
    Coordinator,
    Donor,
    Extent,
    Message,
    Process,
    State,
    Watch,
)

SECOND = 1_000_000_000
LEASE = 10 * SECOND
D0, D1, C0, C1 = (Process(name) for name in ("d0", "d1", "c0", "c1"))


class Net:
    """A carrier that loses nothing unless told to: hands every message over at once, keeps what engines are told."""

    def __init__(self, **options: object) -> None:
        self.coordinator = Coordinator(**options)  # type: ignore[arg-type]
        self.machines: dict[Process, Donor | Consumer] = {D0: Donor(D0), D1: Donor(D1)}
        self.machines |= {C0: Consumer(C0), C1: Consumer(C1)}
        self.told: list[tuple[Process, Message]] = []
        self.lost: type | None = None
        """The kind of message that does not arrive now."""

    def give(self, to: Process, message: Message, now: int = 0) -> list[tuple[Process, Message]]:
        """Give one message and carry on until silence; return what engines were told meanwhile."""
        self.told = []
        queue = [(to, message)]
        for _ in range(1_000):
            if not queue:
                return self.told
            to, message = queue.pop(0)
            machine = self.coordinator if to == COORDINATOR else self.machines.get(to)
            if machine is None:
                continue
            for target, answer in machine.handle(now, message):
                if target == LOCAL and not isinstance(answer, Watch):
                    self.told.append((to, answer))
                elif target != LOCAL and type(answer) is not self.lost:
                    queue.append((target, answer))
            machine.check()
        raise AssertionError("messages without end")

    def held(self, me: Process) -> list[Extent]:
        """Extents that a consumer holds."""
        machine = self.machines[me]
        assert isinstance(machine, Consumer)
        return list(machine.holds)

    def states(self) -> list[State]:
        """States of all extents, in order."""
        return [self.coordinator.records[extent].state for extent in sorted(self.coordinator.records)]


def consumer(net: Net, me: Process) -> Consumer:
    """Return a consumer's machine."""
    machine = net.machines[me]
    assert isinstance(machine, Consumer)
    return machine
