"""Block pools: every block is in exactly one state, and a refusal changes nothing."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence


class BlockPool:
    """`capacity` equal blocks of one tier, handed out by number.

    A block is free or held; a holder keeps the numbers. Pools may be resized: shrinking below what is held
    leaves a `debt` until enough is given back.
    """

    __slots__ = ("_free", "_made", "capacity", "debt", "extra", "free", "pop", "retired")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = list(range(capacity - 1, -1, -1))
        self._made = capacity
        self.free = capacity
        """Blocks that can be taken now."""
        self.pop: Callable[[], int] = self._free.pop
        """Take one block without counting: the caller has checked `free`, and lowers it by what it took."""
        self.debt = 0
        """Blocks that must be given up before any can be taken again."""
        self.extra = 0
        """Holders of blocks beyond the first of each: so many blocks fewer are held than are read."""
        self.retired: list[int] = []
        """Numbers that shrinking took out for good, in order: for executors with memory behind them."""

    @property
    def held(self) -> int:
        """Blocks in somebody's hands."""
        return self.capacity + self.debt - self.free

    def idle_numbers(self) -> frozenset[int]:
        """Return the numbers that nobody holds."""
        return frozenset(self._free)

    def take(self, count: int) -> list[int]:
        """Take `count` blocks; the caller has checked `free`."""
        assert 0 <= count <= self.free, (count, self.free)
        if count == 0:
            return []
        self.free -= count
        taken = self._free[-count:]
        del self._free[-count:]
        return taken

    def give(self, blocks: Sequence[int], spent: int = 0) -> None:
        """Give blocks back, last one first; `spent` matters to prefix caches only."""
        self.free += len(blocks)
        self._free.extend(reversed(blocks))
        if self.debt:
            self._settle()

    def resize(self, capacity: int) -> None:
        """Change the capacity. Growth makes new numbers; a shrink that hits held blocks becomes `debt`."""
        change = capacity - self.capacity - self.debt
        self.capacity = capacity
        self.debt = 0
        if change >= 0:
            self.free += change
            self._free.extend(range(self._made, self._made + change))
            self._made += change
        else:
            self.debt = -change
            self._settle()

    def _settle(self) -> None:
        paid = min(self.debt, self.free)
        if paid:
            self.retired += self._free[-paid:]
            del self._free[-paid:]
            self.free -= paid
            self.debt -= paid

    def check(self, held: Iterable[int]) -> None:
        """Assert that every block is free or in `held` (all holders' blocks, one entry per holder), not both."""
        owners = list(held)
        owned = set(owners)
        free = set(self._free)
        assert len(free) == len(self._free) == self.free, "a block is free twice"
        assert len(owned) == len(owners), "a block is held twice"
        assert not owned & free, f"blocks both free and held: {sorted(owned & free)[:5]}"
        assert len(owned) + len(free) == self.capacity + self.debt, "blocks lost or made"
        assert not free.intersection(self.retired), "a retired block is free"
        assert len(set(self.retired)) == len(self.retired), "a block was retired twice"


class PrefixPool(BlockPool):
    """A pool that remembers the content of freed blocks by hash until they are taken again.

    Free blocks wait in one queue. Taking pops its front, and what that block remembered is forgotten. A freed
    block goes to the back if its content is registered and to the front if not, last block of a request first:
    the order of vLLM's `BlockPool` (0.32). The front part is a stack (`_free`), the back part a deque in which
    blocks that were found again leave a stale entry behind.
    """

    __slots__ = ("_idle", "_key", "_queue", "_shared", "_stale", "_where")

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._queue: deque[int] = deque()
        self._stale: dict[int, int] = {}
        """Per block, how many of its entries in the queue (the oldest) do not count."""
        self._key: dict[int, object] = {}
        self._where: dict[object, dict[int, None]] = {}
        self._idle: set[int] = set()
        """Registered blocks that nobody holds."""
        self._shared: dict[int, int] = {}
        """Holders of a block beyond the first."""
        self.pop = self._pop_one

    @property
    def cached(self) -> int:
        """Free blocks whose content is remembered."""
        return len(self._idle)

    def take(self, count: int) -> list[int]:
        """Take `count` blocks from the front of the queue and forget their content; checked by the caller."""
        assert 0 <= count <= self.free, (count, self.free)
        self.free -= count
        blank = self._free[-count:] if count else []
        if blank:
            del self._free[-count:]
        blocks = blank[::-1]
        missing = count - len(blocks)
        if missing:
            if self._stale:
                blocks += [self._pop() for _ in range(missing)]
            else:
                pop = self._queue.popleft
                blocks += [pop() for _ in range(missing)]
        if self._idle:
            for block in blocks:
                if block in self._idle:
                    self._forget(block)
        return blocks

    def _pop_one(self) -> int:
        self.free += 1  # `take` counts, the caller does too
        return self.take(1)[0]

    def _pop(self) -> int:
        """Pop the first queue entry that counts."""
        stale = self._stale
        while True:
            block = self._queue.popleft()
            if block not in stale:
                return block
            if stale[block] == 1:
                del stale[block]
            else:
                stale[block] -= 1

    def give(self, blocks: Sequence[int], spent: int = 0) -> None:
        """Give blocks back: registered ones to the back of the queue, the others to its front.

        The first `spent` blocks go to the back too: full ones whose content nobody can ask for any more, which
        the real cache remembers all the same.
        """
        keys, shared = self._key, self._shared
        front, back = [], []
        for index in range(len(blocks) - 1, -1, -1):
            block = blocks[index]
            if block in shared:
                self._unshare(block)
            elif block in keys:
                self._idle.add(block)
                back.append(block)
            elif index < spent:
                back.append(block)
            else:
                front.append(block)
        self.free += len(back) + len(front)
        self._queue.extend(back)
        self._free.extend(reversed(front))
        if self.debt:
            self._settle()

    def _unshare(self, block: int) -> None:
        self.extra -= 1
        if self._shared[block] == 1:
            del self._shared[block]
        else:
            self._shared[block] -= 1

    def _settle(self) -> None:
        """Give up blocks as `take` would hand them out, content forgotten."""
        paid = min(self.debt, self.free)
        self.retired += self.take(paid)
        self.debt -= paid

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
        return len(self._idle.intersection(blocks))

    def touch(self, blocks: Iterable[int]) -> None:
        """Hold `blocks`, found in the cache, once more."""
        for block in blocks:
            if block in self._idle:
                self.free -= 1
                self._idle.remove(block)
                self._stale[block] = self._stale.get(block, 0) + 1
            else:
                self._shared[block] = self._shared.get(block, 0) + 1
                self.extra += 1

    def register(self, block: int, key: object) -> None:
        """Remember that `block` holds the content `key`."""
        if block not in self._key:
            self._key[block] = key
            self._where.setdefault(key, {})[block] = None

    def _forget(self, block: int) -> None:
        self._idle.remove(block)
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
        assert {b: n - 1 for b, n in counts.items() if n > 1} == self._shared, "holders differ"
        assert self.extra == sum(self._shared.values()), "extra holders differ"
        stale = dict(self._stale)
        free = list(self._free)
        for block in self._queue:
            if stale.get(block, 0):
                stale[block] -= 1
            else:
                free.append(block)
        assert len(set(free)) == len(free) == self.free, "a block is free twice"
        assert not counts.keys() & set(free), "a block is both free and held"
        assert len(counts) + len(free) == self.capacity + self.debt, "blocks lost or made"
        assert self._idle == self._key.keys() & set(free)
        assert all(block in self._where[key] for block, key in self._key.items())
        assert sum(map(len, self._where.values())) == len(self._key)
