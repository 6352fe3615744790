"""Block pools: every block is in exactly one state, and a refusal changes nothing."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """`capacity` equal blocks of one tier, handed out by number.

    A block is free or held; a holder keeps the numbers. Pools may be resized: shrinking below what is held
    leaves the pool over-full (`excess`) until enough is given back.
    """

    __slots__ = ("_free", "_made", "capacity", "debt")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = list(range(capacity - 1, -1, -1))
        self._made = capacity
        self.debt = 0
        """Blocks that must be given up before any can be taken again."""

    @property
    def free(self) -> int:
        """Blocks that can be taken now."""
        return len(self._free)

    @property
    def held(self) -> int:
        """Blocks in somebody's hands."""
        return self.capacity + self.debt - len(self._free)

    def take(self, count: int) -> list[int]:
        """Take `count` blocks; the caller has checked `free`."""
        assert 0 <= count <= len(self._free), (count, len(self._free))
        if count == 0:
            return []
        taken = self._free[-count:]
        del self._free[-count:]
        return taken

    def take_one(self) -> int:
        """Take one block; the caller has checked `free`."""
        return self._free.pop()

    def give(self, blocks: Sequence[int], spent: int = 0) -> None:
        """Give blocks back, last one first; `spent` matters to prefix caches only."""
        self._free.extend(reversed(blocks))
        if self.debt:
            self._settle()

    def resize(self, capacity: int) -> None:
        """Change the capacity. Growth makes new numbers; a shrink that hits held blocks becomes `debt`."""
        change = capacity - self.capacity - self.debt
        self.capacity = capacity
        self.debt = 0
        if change >= 0:
            self._free.extend(range(self._made, self._made + change))
            self._made += change
        else:
            self.debt = -change
            self._settle()

    def _settle(self) -> None:
        paid = min(self.debt, len(self._free))
        if paid:
            del self._free[-paid:]
            self.debt -= paid

    def check(self, held: Iterable[int]) -> None:
        """Assert that every block is free or in `held` (all holders' blocks, one entry per holder), not both."""
        owners = list(held)
        owned = set(owners)
        free = set(self._free)
        assert len(free) == len(self._free), "a block is free twice"
        assert len(owned) == len(owners), "a block is held twice"
        assert not owned & free, f"blocks both free and held: {sorted(owned & free)[:5]}"
        assert len(owned) + len(free) == self.capacity + self.debt, "blocks lost or made"


class PrefixPool(BlockPool):
    """A pool that remembers the content of freed blocks by hash until they are taken again.

    Free blocks wait in one queue. Taking pops its front, and what that block remembered is forgotten. A freed
    block goes to the back if its content is registered and to the front if not, last block of a request first:
    the order of vLLM's `BlockPool` (0.32).
    """

    __slots__ = ("_holders", "_key", "_queue", "_where")

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._free = []
        self._queue: OrderedDict[int, None] = OrderedDict.fromkeys(range(capacity))
        self._key: dict[int, object] = {}
        self._where: dict[object, dict[int, None]] = {}
        self._holders: dict[int, int] = {}

    @property
    def free(self) -> int:
        """Blocks that can be taken now, remembered ones included."""
        return len(self._queue)

    @property
    def held(self) -> int:
        """Blocks in somebody's hands."""
        return self.capacity - len(self._queue)

    @property
    def cached(self) -> int:
        """Free blocks whose content is remembered."""
        return sum(block in self._key for block in self._queue)

    def take(self, count: int) -> list[int]:
        """Take `count` blocks from the front of the queue; the caller has checked `free`."""
        return [self.take_one() for _ in range(count)]

    def take_one(self) -> int:
        """Take the block at the front of the queue and forget its content."""
        block, _ = self._queue.popitem(last=False)
        if block in self._key:
            self._forget(block)
        self._holders[block] = 1
        return block

    def give(self, blocks: Sequence[int], spent: int = 0) -> None:
        """Give blocks back: registered ones to the back of the queue, the others to its front.

        The first `spent` blocks go to the back too: full ones whose content nobody can ask for any more, which
        the real cache remembers all the same.
        """
        queue, holders, keys = self._queue, self._holders, self._key
        front = []
        for index in range(len(blocks) - 1, -1, -1):
            block = blocks[index]
            if holders[block] > 1:
                holders[block] -= 1
                continue
            del holders[block]
            if index < spent or block in keys:
                queue[block] = None
            else:
                front.append(block)
        for block in reversed(front):
            queue[block] = None
            queue.move_to_end(block, last=False)

    def resize(self, capacity: int) -> None:
        """Not needed: HBM pools keep their size."""
        raise NotImplementedError("a prefix cache keeps its size")

    def find(self, keys: Iterable[object]) -> list[int]:
        """Blocks that hold the longest leading run of `keys`; the first registered one of each."""
        found = []
        for key in keys:
            blocks = self._where.get(key)
            if blocks is None:
                break
            found.append(next(iter(blocks)))
        return found

    def idle(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` nobody holds: touching them uses up that many free blocks."""
        return sum(block in self._queue for block in blocks)

    def touch(self, blocks: Iterable[int]) -> None:
        """Hold `blocks`, found in the cache, once more."""
        for block in blocks:
            if block in self._queue:
                del self._queue[block]
                self._holders[block] = 1
            else:
                self._holders[block] += 1

    def register(self, block: int, key: object) -> None:
        """Remember that `block` holds the content `key`."""
        if block not in self._key:
            self._key[block] = key
            self._where.setdefault(key, {})[block] = None

    def _forget(self, block: int) -> None:
        key = self._key.pop(block)
        blocks = self._where[key]
        del blocks[block]
        if not blocks:
            del self._where[key]

    def check(self, held: Iterable[int]) -> None:
        """Assert that reference counts equal the holders, and that free and held make up the pool."""
        counts: dict[int, int] = {}
        for block in held:
            counts[block] = counts.get(block, 0) + 1
        assert counts == self._holders, "reference counts differ from the holders"
        assert not counts.keys() & self._queue.keys(), "a block is both free and held"
        assert len(counts) + len(self._queue) == self.capacity, "blocks lost or made"
        assert all(block in self._where[key] for block, key in self._key.items())
        assert sum(map(len, self._where.values())) == len(self._key)
