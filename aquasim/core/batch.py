"""The decode batch: sequences that advance together, one token an iteration, sharing one counter."""

from aquasim.core.blocks import BlockPool
from aquasim.core.request import Request


class DecodeBatch:
    """Decoders share `tick`, the number of decode iterations so far, so a fused run costs what it changes.

    A decoder's computed tokens are `tick + offset`. It needs a new block in iterations in which that is a
    multiple of the block size: its place in `due` (one bucket per residue) is fixed while it stays.
    """

    __slots__ = ("_size", "context", "count", "due", "joined", "left", "slope", "tick")

    def __init__(self, block_size: int, slope: int) -> None:
        self.tick = 0
        self.count = 0
        self.context = 0
        """Computed tokens of all decoders, summed."""
        self.slope = slope
        self._size = block_size
        self.due: list[dict[Request, None]] = [{} for _ in range(block_size)]
        self.joined: dict[int, None] = {}
        self.left: list[int] = []

    def join(self, request: Request) -> None:
        """Let a request decode from the next iteration on."""
        assert not request.decoding, request
        offset = request.computed - self.tick
        request.offset = offset
        request.decoding = True
        request.rank -= self.slope * self.tick
        self.due[-offset % self._size][request] = None
        self.count += 1
        self.context += request.computed
        self.joined[request.id] = None

    def leave(self, request: Request, finished: bool = False) -> None:
        """Take a request out and give it its own progress back. Finished ones leave unannounced."""
        offset = request.offset
        computed = self.tick + offset
        request.computed = computed
        request.total = computed + 1
        request.decoding = False
        request.rank += self.slope * self.tick
        del self.due[-offset % self._size][request]
        self.count -= 1
        self.context -= computed
        if request.id in self.joined:
            del self.joined[request.id]
        elif not finished:
            self.left.append(request.id)

    def growing(self) -> dict[Request, None]:
        """Decoders that need a new block in the next iteration."""
        return self.due[self.tick % self._size]

    def grow_now(self, pool: BlockPool) -> None:
        """Give the blocks due in the next iteration."""
        due = self.due[self.tick % self._size]
        if due:
            pop = pool.pop
            for request in due:
                request.blocks.append(pop())
            pool.free -= len(due)

    def grow(self, pool: BlockPool, count: int) -> None:
        """Give the blocks due in the `count` iterations after the next one."""
        due, pop, size = self.due, pool.pop, self._size
        start = (self.tick + 1) % size
        while count > 0:
            buckets = due[start : start + count]
            for bucket in buckets:
                if bucket:
                    for request in bucket:
                        request.blocks.append(pop())
                    pool.free -= len(bucket)
            count -= len(buckets)
            start = 0

    def room(self, free: int, limit: int) -> int:
        """Most iterations, at most `limit`, whose growth fits in `free` blocks; the first is already paid."""
        size, count = self._size, self.count
        if count == 0 or free // count * size >= limit:
            return limit
        laps, left = divmod(free, count)
        iterations = laps * size
        for tick in range(self.tick + 1, self.tick + 1 + size):
            left -= len(self.due[tick % size])
            if left < 0:
                break
            iterations += 1
        return min(iterations + 1, limit)
