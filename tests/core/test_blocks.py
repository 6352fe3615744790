"""Block pools against naive models: any sequence of calls, the same answers, and no block lost or made."""

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aquasim.core.blocks import BlockPool, PrefixPool


class PoolMachine(RuleBasedStateMachine):
    """`BlockPool` beside a model that counts: capacity, what is held, what is owed."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(8)
        self.capacity = 8
        self.holders: list[list[int]] = []

    def held(self) -> set[int]:
        """Return what the holders have."""
        return {block for blocks in self.holders for block in blocks}

    @rule(count=st.integers(0, 12))
    def take(self, count: int) -> None:
        """As many new blocks as asked for; more than are free is refused and changes nothing."""
        free = max(0, self.capacity - len(self.held()))
        if count > free:
            self.refused(lambda: self.pool.take(count))
            return
        blocks = self.pool.take(count)
        assert len(blocks) == len(set(blocks)) == count
        assert not self.held() & set(blocks)
        self.holders.append(blocks)

    def refused(self, call: Callable[[], object]) -> None:
        """Assert that `call` fails and leaves the pool as it was."""
        before = (self.pool.free, self.pool.held, self.pool.debt)
        with pytest.raises((AssertionError, IndexError)):
            call()
        assert (self.pool.free, self.pool.held, self.pool.debt) == before

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        """Any holder may give any part of its blocks back."""
        blocks = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        kept = data.draw(st.integers(0, len(blocks)))
        self.pool.give(blocks[kept:])
        self.holders.append(blocks[:kept])

    @rule(capacity=st.integers(0, 16))
    def resize(self, capacity: int) -> None:
        """Growth is there at once; a shrink takes free blocks, and what is held beyond it becomes debt."""
        self.pool.resize(capacity)
        self.capacity = capacity

    @invariant()
    def agrees(self) -> None:
        """Free, held and owed blocks are what counting says."""
        held = len(self.held())
        assert self.pool.capacity == self.capacity
        assert self.pool.held == held
        assert self.pool.free == max(0, self.capacity - held)
        assert self.pool.debt == max(0, held - self.capacity)
        self.pool.check([block for blocks in self.holders for block in blocks])


class SlowPrefixPool:
    """vLLM's free queue, spelt out: one list of free blocks, first to be taken first; contents by block."""

    def __init__(self, capacity: int) -> None:
        self.queue = list(range(capacity))
        self.content: dict[int, object] = {}
        self.order: dict[object, list[int]] = {}
        self.holders: dict[int, int] = {}

    def take(self, count: int) -> list[int]:
        """Take from the front and forget the content."""
        taken, self.queue = self.queue[:count], self.queue[count:]
        for block in taken:
            self.holders[block] = 1
            if block in self.content:
                key = self.content.pop(block)
                self.order[key].remove(block)
        return taken

    def give(self, blocks: list[int], spent: int) -> None:
        """Last block first: what has content (or is full and spent) to the back, the others to the front."""
        front: list[int] = []
        back: list[int] = []
        for index, block in reversed(list(enumerate(blocks))):
            self.holders[block] -= 1
            if self.holders[block] == 0:
                (back if block in self.content or index < spent else front).append(block)
        self.queue = front + self.queue + back

    def find(self, keys: list[object]) -> list[int]:
        """Return the oldest block of each key, up to the first unknown key."""
        found = []
        for key in keys:
            if not self.order.get(key):
                break
            found.append(self.order[key][0])
        return found

    def touch(self, blocks: list[int]) -> None:
        """Hold blocks once more; free ones leave the queue."""
        for block in blocks:
            if self.holders.get(block, 0) == 0:
                self.queue.remove(block)
            self.holders[block] = self.holders.get(block, 0) + 1

    def register(self, block: int, key: object) -> None:
        """Note a block's content unless it has one."""
        if block not in self.content:
            self.content[block] = key
            self.order.setdefault(key, []).append(block)


KEYS = st.lists(st.integers(0, 5), max_size=4, unique=True)


class PrefixMachine(RuleBasedStateMachine):
    """`PrefixPool` beside the slow one: the same numbers in the same order, after any calls."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PrefixPool(10)
        self.slow = SlowPrefixPool(10)
        self.hands: list[list[int]] = []

    @rule(count=st.integers(0, 12))
    def take(self, count: int) -> None:
        """The same blocks, in the same order; callers never ask for more than are free."""
        if count > len(self.slow.queue):
            return
        taken = self.pool.take(count)
        assert taken == self.slow.take(count)
        if taken:
            self.hands.append(taken)

    @precondition(lambda self: self.hands)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        """A hand is given back whole, any leading part of it spent."""
        blocks = self.hands.pop(data.draw(st.integers(0, len(self.hands) - 1)))
        spent = data.draw(st.integers(0, len(blocks)))
        self.pool.give(blocks, spent)
        self.slow.give(blocks, spent)

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), key=st.integers(0, 5))
    def register(self, data: st.DataObject, key: int) -> None:
        """Content is told of a block that somebody holds; the first word counts."""
        hand = data.draw(st.sampled_from(self.hands))
        block = data.draw(st.sampled_from(hand))
        self.pool.register(block, key)
        self.slow.register(block, key)

    @rule(keys=KEYS)
    def touch(self, keys: list[object]) -> None:
        """Found blocks are held once more; idle ones leave the queue, wherever in it they were."""
        found = self.pool.find(keys)
        assert found == self.slow.find(keys)
        assert self.pool.idle(found) == sum(self.slow.holders.get(block, 0) == 0 for block in found)
        if found:
            self.pool.touch(found)
            self.slow.touch(found)
            self.hands.append(list(found))

    @rule(keys=KEYS)
    def find(self, keys: list[object]) -> None:
        """Looking changes nothing."""
        assert self.pool.find(keys) == self.slow.find(keys)

    @invariant()
    def agrees(self) -> None:
        """Counts agree, and every block is free, remembered or held."""
        assert self.pool.free == len(self.slow.queue)
        assert self.pool.cached == sum(block in self.slow.content for block in self.slow.queue)
        assert self.pool.held == sum(count > 0 for count in self.slow.holders.values())
        self.pool.check([block for hand in self.hands for block in hand])


CASES = settings(max_examples=60, stateful_step_count=40, deadline=None)


TestBlockPool = PoolMachine.TestCase
TestBlockPool.settings = CASES
TestPrefixPool = PrefixMachine.TestCase
TestPrefixPool.settings = CASES


def test_a_shrunken_pool_pays_its_debt_before_it_lends_again() -> None:
    """Six of eight blocks held, shrunk to four: two owed; giving three back pays two and frees one."""
    pool = BlockPool(8)
    held = pool.take(6)
    pool.resize(4)
    assert (pool.debt, pool.free, pool.held) == (2, 0, 6)
    pool.give(held[3:])
    assert (pool.debt, pool.free, pool.held) == (0, 1, 3)
    pool.check(held[:3])


def test_taking_too_many_is_a_broken_promise() -> None:
    """A pool never lends what it lacks: `take` beyond `free` fails and the pool is as before."""
    pool = BlockPool(3)
    held = pool.take(2)
    with pytest.raises(AssertionError):
        pool.take(2)
    assert pool.free == 1
    pool.check(held)


def test_freed_content_is_taken_last_and_from_its_end() -> None:
    """A freed request's unregistered tail is taken first, then untouched blocks, then its prefix, last first."""
    pool = PrefixPool(6)
    blocks = pool.take(3)
    pool.register(blocks[0], "a")
    pool.register(blocks[1], "b")
    pool.give(blocks)
    assert pool.take(6) == [blocks[2], 3, 4, 5, blocks[1], blocks[0]]
    assert pool.find(["a"]) == []


@pytest.mark.parametrize("misuse", ["twice", "lost"])
def test_check_finds_a_wrong_owner(misuse: str) -> None:
    """`check` fails when a block has two owners or none."""
    for pool in (BlockPool(4), PrefixPool(4)):
        held = pool.take(2)
        pool.check(held)
        with pytest.raises(AssertionError):
            pool.check([*held, 3] if misuse == "twice" else held[:1])
