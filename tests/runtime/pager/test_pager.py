"""Pages move where transfers say, byte for byte: out, in, on; from extents that leave; checked where wanted."""

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.core.events import Move, Transfer
from aquasim.runtime.copy import HostCopier, Scratch
from aquasim.runtime.pager import Pager, Slots, Window
from aquasim.runtime.pager.pager import SAMPLE

BLOCK = 4096
BLOCKS = 8


class Memory:
    """A cache of eight blocks and a copier; blocks are read and written by number."""

    def __init__(self, check: str = "off") -> None:
        self.copier = HostCopier()
        self.cache: Scratch = self.copier.scratch(BLOCK * BLOCKS)
        self.pager = Pager(self.copier, Window(self.cache.ptr, BLOCK), check)  # type: ignore[arg-type]
        self.scratch: list[Scratch] = []
        self.number = 0

    def extent(self, tier: str, name: str, blocks: int) -> Scratch:
        """Add memory to a tier, and give its numbers slots."""
        memory = self.copier.scratch(blocks * BLOCK + 100)
        self.scratch.append(memory)
        slots = self.pager.tier(tier)
        assert slots.add(name, memory.ptr, memory.nbytes) == blocks
        slots.grow(slots.slots)
        return memory

    def write(self, block: int, value: int) -> None:
        """Fill a block of the cache."""
        self.cache.write(np.full(BLOCK, value, np.uint8), block * BLOCK)

    def read(self, block: int) -> int:
        """Return the one value that fills a block of the cache."""
        found = np.unique(self.cache.read(BLOCK, block * BLOCK))
        assert len(found) == 1
        return int(found[0])

    def move(
        self, kind: str, tier: str, sources: list[int], targets: list[int], to: str = ""
    ) -> tuple[int, ...]:
        """Carry one transfer out and return the spoilt moves."""
        self.number += 1
        moves = (Move(0, len(sources)),)
        transfer = Transfer(self.number, kind, tier, len(sources), moves, (), to)  # type: ignore[arg-type]
        self.pager.start(transfer, [(tuple(sources), tuple(targets))])
        (landed,) = self.pager.wait([self.number])
        assert landed.nbytes == len(sources) * BLOCK
        assert landed.end_ns >= landed.start_ns
        return landed.spoilt

    def close(self) -> None:
        """Free everything."""
        for memory in (self.cache, *self.scratch):
            memory.close()
        self.copier.close()


@pytest.fixture
def memory() -> Iterator[Memory]:
    """Give a memory without checks."""
    made = Memory()
    yield made
    made.close()


def test_pages_go_out_on_and_in(memory: Memory) -> None:
    """What left the cache comes back to other blocks, by way of two tiers; every byte is counted."""
    memory.extent("peer", "a", 4)
    memory.extent("host", "b", 6)
    for block in range(3):
        memory.write(block, 10 + block)
    memory.move("out", "peer", [0, 1, 2], [3, 1, 0])
    for block in range(3):
        memory.write(block, 99)
    memory.move("migrate", "peer", [3, 1], [5, 2], to="host")
    memory.move("in", "host", [5, 2], [6, 7])
    memory.move("in", "peer", [0], [4])
    assert [memory.read(block) for block in (6, 7, 4)] == [10, 11, 12]
    assert memory.pager.moved_bytes == 8 * BLOCK
    assert not memory.pager.busy


def test_a_transfer_is_not_over_before_its_copy() -> None:
    """`landed` is empty while the copy waits; `uses` knows both tiers of what is under way."""
    memory = Memory()
    memory.extent("host", "a", 2)
    gate = memory.copier.compute().record()
    blocker = type(gate)()
    memory.copier.outgoing.wait(blocker)
    memory.pager.start(Transfer(1, "out", "host", 1, (Move(0, 1),)), [((0,), (0,))])
    assert memory.pager.landed() == []
    assert memory.pager.uses("host")
    assert not memory.pager.uses("peer")
    blocker.set()
    assert [landed.transfer for landed in memory.pager.wait([1])] == [1]
    memory.close()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_extents_come_and_go_and_pages_stay(data: st.DataObject) -> None:
    """Any order of growing, writing, retiring and emptying: each number still holds what was put there."""
    memory = Memory()
    slots = memory.pager.tier("peer")
    content: dict[int, int] = {}
    extents: dict[str, int] = {}
    live: list[int] = []
    for turn in range(data.draw(st.integers(1, 12))):
        action = data.draw(st.sampled_from(["add", "write", "leave"]))
        if action == "add" or not extents:
            count = data.draw(st.integers(1, 4))
            first = len(slots._slot)
            memory.extent("peer", f"e{turn}", count)
            extents[f"e{turn}"] = count
            live += range(first, first + count)
        elif action == "write" and live:
            number = data.draw(st.sampled_from(live))
            memory.write(0, turn + 1)
            memory.move("out", "peer", [0], [number])
            content[number] = turn + 1
        elif action == "leave":
            name = data.draw(st.sampled_from(sorted(extents)))
            gone = data.draw(st.permutations(live))[: extents[name]]
            memory.pager.retire("peer", gone)
            live = [number for number in live if number not in gone]
            content = {number: value for number, value in content.items() if number in live}
            memory.pager.empty("peer", name, set(content))
            del extents[name]
        slots.check()
        assert slots.capacity == len(live) == sum(extents.values())
    for number, value in content.items():
        memory.move("in", "peer", [number], [1])
        assert memory.read(1) == value
    memory.close()


@pytest.mark.parametrize("check", ["off", "sampled", "always"])
def test_a_flipped_bit_is_told_where_blocks_are_weighed(check: str) -> None:
    """Always: every spoilt block; sampled: one number in sixteen; off: none. A good block never."""
    memory = Memory(check)
    memory.extent("host", "a", 2 * SAMPLE)
    targets = [0, 1, SAMPLE]
    for block, value in enumerate((7, 8, 9)):
        memory.write(block, value)
    memory.move("out", "host", [0, 1, 2], targets)
    assert memory.move("in", "host", targets, [3, 4, 5]) == ()
    for number in (0, 1):
        address = int(memory.pager.tier("host").addresses([number])[0])
        ctypes.memset(address + 5, 0xFF, 1)
    spoilt = {number: memory.move("in", "host", [number], [6]) == (0,) for number in targets}
    expected = {"off": set(), "sampled": {0}, "always": {0, 1}}[check]
    assert {number for number, bad in spoilt.items() if bad} == expected
    assert memory.pager.spoilt_blocks == len(expected)
    memory.close()


def test_weights_follow_a_page_that_moves_on() -> None:
    """A page that migrates is checked against what it weighed when it left the cache; a new tenant is not."""
    memory = Memory("always")
    memory.extent("peer", "a", 2)
    memory.extent("host", "b", 2)
    memory.write(0, 5)
    memory.move("out", "peer", [0], [0])
    ctypes.memset(int(memory.pager.tier("peer").addresses([0])[0]), 0, 1)
    memory.move("migrate", "peer", [0], [1], to="host")
    assert memory.move("in", "host", [1], [2]) == (0,)
    memory.write(0, 6)
    memory.move("out", "host", [0], [1])
    assert memory.move("in", "host", [1], [2]) == ()
    memory.close()


def test_numbers_are_never_used_twice() -> None:
    """A retired number has no address; growth gives new ones; too little room is refused."""
    slots = Slots(BLOCK)
    slots.add("a", BLOCK, 3 * BLOCK)
    slots.grow(3)
    slots.retire([1])
    with pytest.raises(AssertionError, match="retired"):
        slots.addresses([1])
    slots.grow(3)
    assert slots.capacity == 3
    assert slots.addresses([3]).tolist() == [BLOCK + BLOCK * 1]
    with pytest.raises(AssertionError):
        slots.grow(4)
