"""An engine that serves without a pause while everything around it, and it itself, is killed, stopped and spoilt."""

import random
import time

import pytest
from fault_model import JOBS, MIB
from fault_world import World
from lease_stage import LEASE_S, Actor, eventually

EVENTS = ("donor", "stop", "coordinator", "engine", "reclaim", "flip", "want", "expire", "rest", "rest")
OPEN = 6
"""Requests that wait for an answer at a time."""


class Chaos:
    """A world in which one thing after another happens, as a seed says; the client goes on asking."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world.open()
        self.random = random.Random(seed)
        self.asked = self.moved = self.repaired = self.engines = 0
        self.stalled: list[Actor] = []
        self.told: list[str] = []

    def play(self, events: int) -> None:
        """Let so many things happen, then have everybody go on and everything answered."""
        for _ in range(events):
            what = self.random.choice(EVENTS)
            self.told.append(what)
            getattr(self, f"do_{what}")()
            self.breathe()
        self.wake(1.0)
        self.world.finish()

    def breathe(self) -> None:
        """Serve for a moment; those that are stopped may go on; the client asks for more."""
        limit = time.monotonic() + self.random.uniform(0.0, 0.12)
        while time.monotonic() < limit:
            time.sleep(0.01)
        self.wake(0.4)
        if not self.world.engine.stopped:
            self.world.take()
            self.ask()

    def ask(self) -> None:
        """Keep some requests open."""
        missing = OPEN - len(self.world.asked)
        if missing > 0:
            first, self.asked = self.asked, self.asked + missing
            self.world.ask({id: id % JOBS for id in range(first, self.asked)})

    def wake(self, chance: float) -> None:
        """Let everybody who is stopped go on, with a chance."""
        for actor in [actor for actor in self.stalled if actor.alive]:
            if self.random.random() < chance:
                actor.go()
        self.stalled = [actor for actor in self.stalled if actor.stopped and actor.alive]

    def note(self) -> None:
        """Add up what an engine has done, before it goes."""
        self.world.engine.go()
        state = self.world.engine.ask("state")
        self.moved += state["moved"]
        self.repaired += state["repaired"]

    # --- events ----------------------------------------------------------------------------------------------

    def do_donor(self) -> None:
        """kill -9 of a donor; another one comes under its name."""
        name = self.random.choice(sorted(self.world.donors))
        self.world.donors[name].kill()
        self.world.lend(name)

    def do_engine(self) -> None:
        """kill -9 of the engine; the client asks the next one for what is open."""
        self.engines += 1
        self.note()
        self.world.kill_engine()
        self.world.engine = self.world.serve()
        self.world.again()

    def do_coordinator(self) -> None:
        """kill -9 of the coordinator, and another one."""
        self.world.lead.kill()
        self.world.lead = self.world.coordinator()

    def do_stop(self) -> None:
        """SIGSTOP of anybody."""
        victim = self.random.choice([*self.world.donors.values(), self.world.lead, self.world.engine])
        victim.stop()
        self.stalled.append(victim)

    def do_expire(self) -> None:
        """Leases run out: the coordinator says nothing for longer than they last."""
        self.world.lead.stop()
        time.sleep(LEASE_S)
        self.world.lead.go()

    def do_reclaim(self) -> None:
        """A donor takes its memory back, and lends it again."""
        donor = self.random.choice(sorted(self.world.donors))
        if not self.world.donors[donor].stopped:
            self.world.donors[donor].ask("reclaim", MIB)
            if len(self.world.donors[donor].ask("loans")) < 3:
                self.world.donors[donor].ask("donate", MIB)

    def do_flip(self) -> None:
        """Bits flip in pages that are lent."""
        for donor in self.world.donors.values():
            if not donor.stopped:
                donor.ask("flip", "engine", 2000, self.random.randrange(1 << 30))

    def do_want(self) -> None:
        """The engine wants less, or more; it also does so again after an extent could not be used."""
        if not self.world.engine.stopped:
            self.world.engine.ask("want", self.random.choice([0, MIB, 2 * MIB, 2 * MIB]))

    def do_rest(self) -> None:
        """Nothing happens."""


def play(world: World, seed: int, events: int) -> Chaos:
    """Play one game to its end; then all memory has to come back, and everything be as it was."""
    chaos = Chaos(world, seed)
    try:
        chaos.play(events)
        chaos.note()
        world.leave()
    except BaseException:
        print(f"seed {seed}: {' '.join(chaos.told)}")
        raise
    moved = f"{chaos.moved >> 20} MiB moved, {chaos.repaired} repaired"
    print(f"{chaos.asked} requests, {moved}, {chaos.engines} engines killed")
    return chaos


def test_everybody_is_answered_and_no_byte_is_lost(world: World) -> None:
    """200 events: each request has the tokens it has alone; pages moved, some were spoilt; all memory comes back."""
    chaos = play(world, 1, 200)
    assert len(world.answers) == chaos.asked > 3 * JOBS
    assert chaos.moved > 100 * 8192
    assert chaos.repaired > 0
    assert chaos.engines > 5
    assert eventually(lambda: world.states() == [])


@pytest.mark.slow
def test_nor_in_a_longer_game(world: World) -> None:
    """The same with 400 events, otherwise drawn."""
    chaos = play(world, 2, 400)
    assert len(world.answers) == chaos.asked > 4 * JOBS
    assert chaos.repaired > 0
