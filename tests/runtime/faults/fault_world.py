"""Coordinator, donors and an engine as processes, and a client that has its requests served whatever happens."""

import os
from pathlib import Path
from typing import Any

from fault_model import BLOCKS, JOBS, MIB, alone, request
from lease_stage import Actor, Stage, eventually

PATIENCE_S = 60.0


class World(Stage):
    """A coordinator, donors `d0`, `d1` of one extent of 1 MiB each, an engine; the client keeps what it asked."""

    def __init__(self, forge: Path, folder: Path) -> None:
        super().__init__(forge, folder)
        self.fds = len(os.listdir("/proc/self/fd"))
        self.asked: dict[int, int] = {}
        """Which job each open request is."""
        self.answers: dict[int, list[int]] = {}
        self.donors: dict[str, Actor] = {}

    def open(self, donors: int = 2, **options: Any) -> "World":
        """Start everybody, with an extent of each donor leased by the engine."""
        self.lead = self.coordinator()
        for number in range(donors):
            self.lend(f"d{number}")
        self.engine = self.serve(**options)
        assert eventually(lambda: len(self.engine.ask("leases")) == donors)
        return self

    def lend(self, name: str) -> Actor:
        """Start a donor."""
        self.donors[name] = self.donor(name)
        self.donors[name].ask("donate", MIB)
        return self.donors[name]

    def serve(self, name: str = "engine", want: int = 2 * MIB, **options: Any) -> Actor:
        """Start an engine."""
        engine = self.start("engine", name, **options)
        engine.ask("want", want)
        return engine

    def submit(self, count: int = 8, first: int = 0) -> None:
        """Ask for jobs `first` and on."""
        self.ask({id: id % JOBS for id in range(first, first + count)})

    def ask(self, new: dict[int, int]) -> None:
        """Ask for jobs, each under an id."""
        self.asked |= new
        self.engine.ask("submit", [request(id, job) for id, job in new.items()])

    def again(self) -> None:
        """The engine was started anew: ask once more for what it has not answered."""
        self.ask(dict(self.asked))

    def take(self) -> None:
        """Take the answers that are there; each is right."""
        for id, tokens in self.engine.ask("take"):
            job = self.asked.pop(id)
            self.answers[id] = tokens
            assert tokens == alone(job), f"request {id} (job {job})"

    def answered(self) -> bool:
        """Whether nothing is open any more."""
        self.take()
        return not self.asked

    def finish(self) -> dict[str, Any]:
        """Wait for all answers; return the engine's state."""
        assert eventually(self.answered, PATIENCE_S), (self.asked, self.engine.ask("state"))
        state: dict[str, Any] = self.engine.ask("state")
        assert not state["busy"]
        return state

    def kill_engine(self) -> None:
        """kill -9."""
        self.engine.kill()
        self.engine.sock.close()

    def leave(self, *others: Actor) -> None:
        """End the engine: every block is free, nothing of anybody's memory is mapped, no descriptor is open."""
        for engine in (self.engine, *others):
            left = engine.ask("end")
            assert left == {"free": BLOCKS, "held": [0, 0], "mapped": 0, "fds": 0, "threads": 1}
        for donor in self.donors.values():
            donor.ask("reclaim", 100 * MIB)
        assert eventually(lambda: not any(donor.ask("loans") for donor in self.donors.values()))
        assert eventually(lambda: not any(donor.ask("mapped") for donor in self.donors.values()))
        assert eventually(lambda: self.status()["extents"] == [])
