"""Block numbers keep their bytes, however a scheduler shrinks and grows and extents come and go."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.core.blocks import BlockPool, PrefixPool
from aquasim.runtime.donor.frames import Frames, Int64s

EXTENTS, EACH, BASE, BYTES = 5, 4, 1000, 10


class World:
    """A pool, its frames, and what is written in each frame."""

    def __init__(self, prefix: bool = False) -> None:
        self.pool = PrefixPool(EXTENTS * EACH) if prefix else BlockPool(EXTENTS * EACH)
        self.flying: set[int] = set()
        self.frames = Frames(self.pool, lambda: self.flying, BASE, BYTES, EXTENTS, EACH)
        self.memory: dict[int, int] = {}
        self.held: list[int] = []
        self.copied = 0

    def take(self, count: int) -> None:
        """Hold blocks and write each one's number to its place; what was given away has landed by then."""
        self.flying &= set(self.held)
        for number in self.pool.take(min(count, self.pool.free)):
            self.memory[self.at(number)] = number
            self.held.append(number)

    def at(self, number: int) -> int:
        """Return a block's address."""
        return int(self.frames.addresses([number])[0])

    def move(self, old: Int64s, new: Int64s) -> None:
        """Copy."""
        self.copied += len(old)
        assert not set(old.tolist()) & set(new.tolist())
        self.memory |= {n: self.memory[o] for o, n in zip(old.tolist(), new.tolist(), strict=True)}

    def vacate(self, count: int) -> list[int]:
        """Empty extents; whatever was there is gone."""
        gone, moved = self.frames.vacate(count, self.move)
        for extent in gone:
            for frame in range(extent * EACH, (extent + 1) * EACH):
                self.memory.pop(BASE + frame * BYTES, None)
        assert not {frame // EACH for frame in moved.values()} & set(gone)
        return gone

    def check(self) -> None:
        """Every held block is where it should be, with its bytes."""
        self.frames.check()
        for number in self.held:
            assert self.memory[self.at(number)] == number
            assert self.frames.places([number])[0] // EACH in self.frames.home


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**9), prefix=st.booleans())
def test_held_blocks_keep_their_bytes(seed: int, prefix: bool) -> None:
    """Random takes, gives, shrinks, growths, and blocks in flight: bytes are each block's, places never shared.

    What is in flight stays where it is.
    """
    world, rng = World(prefix), random.Random(seed)
    away: list[int] = []
    for _ in range(40):
        kind = rng.randrange(5)
        if kind == 0:
            world.take(rng.randrange(5))
        elif kind == 1:
            rng.shuffle(world.held)
            gone = [world.held.pop() for _ in range(min(len(world.held), rng.randrange(6)))]
            world.pool.give(gone)
        elif kind == 2:
            world.flying = {number for number in world.held if rng.random() < 0.1}
        elif kind == 3 and len(world.frames.home) > 1:
            world.pool.resize((len(world.frames.home) - 1) * EACH)
            if not world.pool.debt:
                places = {number: world.at(number) for number in world.flying & set(world.held)}
                away += world.vacate(1)
                assert all(world.at(number) == place for number, place in places.items())
            world.pool.resize(len(world.frames.home) * EACH)
        elif away:
            world.frames.come(away.pop(rng.randrange(len(away))))
            world.pool.resize(len(world.frames.home) * EACH)
        world.check()


def test_the_extents_that_hold_least_leave_first() -> None:
    """Blocks 0 to 7 fill two extents, one of them is left alone in the second: it moves, nothing else does."""
    world = World()
    world.take(9)
    world.pool.give([number for number in world.held if number in (4, 5, 6)])
    world.held = [number for number in world.held if number not in (4, 5, 6)]
    world.pool.resize(2 * EACH)
    assert sorted(world.vacate(3)) == [2, 3, 4]
    assert world.copied == 1
    world.check()


def test_idle_blocks_are_not_copied() -> None:
    """A full cache that is given back leaves at once."""
    world = World()
    world.take(EXTENTS * EACH)
    world.pool.give(world.held)
    world.held = []
    world.pool.resize(EACH)
    assert len(world.vacate(4)) == 4
    assert world.copied == 0


def test_what_is_in_flight_is_waited_for() -> None:
    """An extent with a block in flight is not among those that leave, until it has landed."""
    world = World()
    world.take(EXTENTS * EACH)
    world.flying = {world.held[0]}
    held, world.held = world.held, world.held[:1]
    world.pool.give(held[1:])
    world.pool.resize(0)
    world.pool.resize(EACH)
    stuck = world.frames.places(world.held)[0] // EACH
    assert stuck not in world.vacate(5)
    world.check()
    world.flying = set()
    world.pool.give(world.held)
    world.held = []
    assert world.vacate(1) == [stuck]
