"""Kills, stops, restarts, reclaims and wants at random, against a naive model of who may have which byte."""

import random
import time
from typing import Any

import pytest
from lease_stage import LEASE_S, Actor, Stage, eventually

MIB = 1 << 20
EXTENTS = 3
Event = tuple[int, str, int]


class Chaos:
    """Two donors, two consumers and a coordinator under random events; whoever is killed comes back."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.random = random.Random(seed)
        self.coordinator = stage.coordinator()
        self.donors: dict[str, Actor] = {}
        self.consumers: dict[str, Actor] = {}
        for name in ("d0", "d1"):
            self.begin_donor(name)
        for name in ("c0", "c1"):
            self.begin_consumer(name)

    def begin_donor(self, name: str) -> None:
        """Start a donor that lends."""
        self.donors[name] = self.stage.donor(name)
        self.donors[name].ask("donate", EXTENTS * MIB)

    def begin_consumer(self, name: str) -> None:
        """Start a consumer that wants."""
        self.consumers[name] = self.stage.consumer(name)
        self.consumers[name].ask("want", EXTENTS * MIB)

    def everybody(self) -> list[Actor]:
        """All but the coordinator."""
        return [*self.donors.values(), *self.consumers.values()]

    def step(self) -> str:
        """Let one thing happen, and return it in words."""
        what = self.random.choice(("kill", "stop", "stop", "coordinator", "reclaim", "want", "rest", "rest"))
        getattr(self, f"do_{what}")()
        time.sleep(self.random.uniform(0, 0.12))
        for actor in self.everybody():
            if actor.stopped and self.random.random() < 0.3:
                actor.go()
        if self.coordinator.stopped and self.random.random() < 0.5:
            self.coordinator.go()
        return what

    def do_kill(self) -> None:
        """Kill a donor or consumer, and start it again."""
        name = self.random.choice(["d0", "d1", "c0", "c1"])
        group, begin = (
            (self.donors, self.begin_donor) if name in self.donors else (self.consumers, self.begin_consumer)
        )
        group[name].kill()
        begin(name)

    def do_stop(self) -> None:
        """Stop anybody."""
        self.random.choice([*self.everybody(), self.coordinator]).stop()

    def do_coordinator(self) -> None:
        """Kill the coordinator, and start another."""
        self.coordinator.kill()
        self.coordinator = self.stage.coordinator()

    def do_reclaim(self) -> None:
        """Have a donor take something back, and lend it again."""
        donor = self.random.choice([d for d in self.donors.values() if not d.stopped] or [None])
        if donor is not None:
            donor.ask("reclaim", MIB * self.random.randint(1, EXTENTS))
            if sum(row[1] for row in donor.ask("loans")) < 2 * EXTENTS * MIB:
                donor.ask("donate", MIB)

    def do_want(self) -> None:
        """Have a consumer want more or less."""
        for consumer in self.consumers.values():
            if not consumer.stopped:
                consumer.ask("want", MIB * self.random.randint(0, 2 * EXTENTS))

    def do_rest(self) -> None:
        """Let time pass."""
        time.sleep(self.random.uniform(0, LEASE_S / 3))

    def check(self) -> None:
        """Nobody's bytes changed under it, nobody found another's, no extent is written by two."""
        writers: set[Any] = set()
        for consumer in self.consumers.values():
            if consumer.stopped:
                continue
            assert consumer.ask("verify") == []
            for donor, number, _, _, writable, run in consumer.ask("extents"):
                assert not writable or (donor, run, number) not in writers
                if writable:
                    writers.add((donor, run, number))

    def settle(self) -> None:
        """Let everybody go on; all memory has to come back to its donors."""
        for actor in (self.coordinator, *self.everybody()):
            actor.go()
        self.check()
        for donor in self.donors.values():
            donor.ask("reclaim", 100 * MIB)
        assert eventually(lambda: not any(d.ask("loans") for d in self.donors.values())), self.stage.status()
        assert not any(consumer.ask("extents") for consumer in self.consumers.values())
        assert eventually(lambda: self.stage.status()["extents"] == [])


def play(stage: Stage, seed: int, events: int) -> None:
    """Play one random game to its end."""
    chaos = Chaos(stage, seed)
    told = []
    try:
        for _ in range(events):
            told.append(chaos.step())
            chaos.check()
        chaos.settle()
    except BaseException:
        print(f"seed {seed}: {' '.join(told)}")
        raise


def test_no_byte_is_leased_twice_and_all_memory_comes_back(stage: Stage) -> None:
    """60 random kills, stops, restarts, reclaims and wants."""
    play(stage, 1, 60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5, 7))
def test_nor_in_longer_games(stage: Stage, seed: int) -> None:
    """The same with 150 events, twice over."""
    play(stage, seed, 150)
