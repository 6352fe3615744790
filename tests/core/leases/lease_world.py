"""Donors, consumers and a coordinator on a network without manners, with engines that obey when asked to."""

from dataclasses import dataclass, field

from lease_checks import check_coordinator, check_reclaim
from lease_model import Heard, Model

from aquasim.core.leases import (
    COORDINATOR,
    LOCAL,
    Consumer,
    Coordinator,
    Died,
    Donate,
    Donor,
    DonorReport,
    Emptied,
    Evacuate,
    Extent,
    Message,
    Overdue,
    Process,
    Regained,
    Scrub,
    Scrubbed,
    Sent,
    Usable,
    Wake,
    Watch,
)

SECOND = 1_000_000_000
MARGIN = 500_000_000
DONORS = ("d0", "d1")
CONSUMERS = ("c0", "c1")
Machine = Coordinator | Donor | Consumer


@dataclass
class World:
    """Everybody, their clocks, what is under way, and the model that objects to what must not be."""

    near: dict[str, tuple[str, ...]] = field(default_factory=dict)
    now: int = 0
    live: dict[Process, Donor | Consumer] = field(default_factory=dict)
    skew: dict[Process, int] = field(default_factory=dict)
    clock: dict[Process, int] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    coordinator: Coordinator | None = None
    net: list[tuple[Process, Message]] = field(default_factory=list)
    past: list[tuple[Process, Message]] = field(default_factory=list)
    """Every message ever sent; any may turn up again."""
    cut: set[type] = field(default_factory=set)
    """Kinds of messages that are lost for now."""
    stopped: dict[Process, list[Message]] = field(default_factory=dict)
    """Processes that do nothing for now, and what waits for them."""
    watched: set[Process] = field(default_factory=set)
    facts: list[Process] = field(default_factory=list)
    evacuating: list[tuple[Process, Evacuate]] = field(default_factory=list)
    scrubbing: list[tuple[Process, Scrub]] = field(default_factory=list)
    model: Model = field(default_factory=Model)
    heard: Heard = field(default_factory=lambda: Heard(0))

    # --- processes -------------------------------------------------------------------------------------------

    def start_coordinator(self, skew: int = 0) -> None:
        """Start a coordinator that knows nothing, in place of any other; the machine's clock does not go back."""
        self.coordinator = Coordinator(near=self.near)
        self.skew[COORDINATOR] = skew
        self.watched, self.facts, self.heard = set(), [], Heard(self.coordinator.lease_ns)

    def start(self, name: str, skew: int = 0) -> Process:
        """Start a donor or consumer under a name whose last run is dead."""
        self.runs[name] = self.runs.get(name, -1) + 1
        me = Process(name, self.runs[name])
        self.live[me] = Donor(me) if name in DONORS else Consumer(me, margin_ns=MARGIN)
        self.skew[me] = skew
        self.model.donated[me] = self.model.back[me] = 0
        return me

    def kill(self, me: Process) -> None:
        """Kill a donor or consumer; whoever watches it gets proof."""
        del self.live[me]
        self.model.kill(me)
        if me in self.watched:
            self.facts.append(me)

    def stop(self, me: Process, seconds: int) -> None:
        """Stop a process (SIGSTOP) for a while, during which all else goes well; then it gets what came for it."""
        self.stopped[me] = []
        for _ in range(seconds):
            self.beat()
            self.quieten()
        for message in self.stopped.pop(me):
            self.give(me, message)

    def consumers(self) -> list[tuple[Process, Consumer]]:
        """Live consumers."""
        return [(me, m) for me, m in self.live.items() if isinstance(m, Consumer)]

    def donors(self) -> list[tuple[Process, Donor]]:
        """Live donors."""
        return [(me, m) for me, m in self.live.items() if isinstance(m, Donor)]

    def time(self, me: Process) -> int:
        """Return what a process's clock shows: never less than before, never further off than the skew."""
        return max(self.clock.get(me, 0), self.now + self.skew[me])

    # --- messages --------------------------------------------------------------------------------------------

    def give(self, to: Process, message: Message) -> None:
        """Hand a message to a machine, if it lives, and let its engine and the network have the answers."""
        machine: Machine | None = self.coordinator if to == COORDINATOR else self.live.get(to)
        if to in self.stopped:
            self.stopped[to].append(message)
        elif machine is not None:
            self._handle(machine, to, message)

    def _handle(self, machine: Machine, to: Process, message: Message) -> None:
        now = self.clock[to] = self.time(to)
        if isinstance(machine, Coordinator):
            sent = self._coordinate(machine, now, message)
        else:
            sent = machine.handle(now, message)
        machine.check()
        if isinstance(machine, Donor):
            self.model.table(machine)
        self._take(to, sent)

    def _coordinate(self, coordinator: Coordinator, now: int, message: Message) -> Sent:
        """Let the coordinator have a message, and compare what it makes of it with all it was told."""
        states = {extent: record.state for extent, record in coordinator.records.items()}
        self.heard.hear(now, message)
        sent = coordinator.handle(now, message)
        check_coordinator(coordinator, self.heard)
        if isinstance(message, DonorReport):
            check_reclaim(coordinator, self.heard, message.donor, states)
        return sent

    def _take(self, me: Process, sent: Sent) -> None:
        """Sort answers into network and engine."""
        for to, message in sent:
            if to == LOCAL:
                self._local(me, message)
            else:
                self.model.said(message, set(self.live), self.heard)
                self.past.append((to, message))
                if type(message) not in self.cut:
                    self.net.append((to, message))

    def _local(self, me: Process, message: Message) -> None:
        """Tell an engine, or the operating system."""
        match message:
            case Watch(process=process):
                self.watched.add(process)
                if process not in self.live:
                    self.facts.append(process)
            case Overdue(extent=extent, epoch=epoch, consumer=consumer):
                assert (consumer, extent, epoch) not in self.heard.overdue, "overdue twice"
                self.heard.overdue.add((consumer, extent, epoch))
            case Usable(lease=lease):
                machine = self.live[me]
                assert isinstance(machine, Consumer)
                self.model.usable(me, (lease.owner, lease.extent, lease.epoch), machine)
            case Evacuate():
                self.model.evacuate(me, message)
                self.evacuating.append((me, message))
            case Scrub():
                self.model.scrub(message)
                self.scrubbing.append((me, message))
            case Regained():
                self.model.regain(me, message)

    # --- engines ---------------------------------------------------------------------------------------------

    def donate(self, me: Process, sizes: list[int]) -> None:
        """Let a donor's engine lend new extents."""
        mine = [e.number for e in self.model.regained if e.donor == me]
        donor = self.live[me]
        assert isinstance(donor, Donor)
        first = 1 + max([0, *mine, *(e.number for e in donor.slabs)])
        self.model.donated[me] += sum(sizes)
        self.give(me, Donate(tuple(enumerate(sizes, first))))

    def empty(self, me: Process, extent: Extent, epoch: int) -> None:
        """A consumer's engine has nothing in an extent any more."""
        machine = self.live.get(me)
        if isinstance(machine, Consumer) and machine.may_read(extent, epoch):  # else it was released before
            del self.model.users[extent]
            self.give(me, Emptied(extent, epoch))

    def evacuate(self, index: int) -> None:
        """Let an engine finish an evacuation."""
        me, order = self.evacuating.pop(index)
        self.empty(me, order.extent, order.epoch)

    def scrub(self, index: int) -> None:
        """Let a donor's engine finish scrubbing."""
        me, order = self.scrubbing.pop(index)
        if me in self.live:
            self.model.dirty.pop(order.extent, None)
            self.give(me, Scrubbed(order.extent))

    # --- good times ------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Do the oldest thing that is under way."""
        if self.facts:
            self.give(COORDINATOR, Died(self.facts.pop(0)))
        elif self.net:
            self.give(*self.net.pop(0))
        elif self.evacuating:
            self.evacuate(0)
        elif self.scrubbing:
            self.scrub(0)

    def quieten(self) -> None:
        """Carry everything on until nothing is under way; it must end."""
        for _ in range(50_000):  # every old report that shows a lack is answered, so a backlog makes many
            if not (self.net or self.facts or self.evacuating or self.scrubbing):
                return
            self.step()
        raise AssertionError("messages without end")

    def beat(self, time: int = SECOND) -> None:
        """Time passes and all wake."""
        self.now += time
        for me in [COORDINATOR, *self.live]:
            self.give(me, Wake())

    def settle(self, seconds: int) -> None:
        """Heal: deliver everything in order, wake everybody on time, let engines obey."""
        self.cut = set()
        if self.coordinator is None:
            self.start_coordinator()
        for _ in range(seconds):
            self.beat()
            self.quieten()
