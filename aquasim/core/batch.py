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

    def grow(self, pool: BlockPool, first: int, count: int) -> None:
        """Give the blocks due in iterations `first` to `first + count - 1` after the current tick."""
        size, due, take = self._size, self.due, pool.take_one
        start = self.tick + first
        for tick in range(start, start + count):
            for request in due[tick % size]:
                request.blocks.append(take())

    def advance(self, iterations: int) -> None:
        """Every decoder computed `iterations` tokens."""
        self.tick += iterations
        self.context += self.count * iterations

    def room(self, free: int, limit: int) -> int:
        """Most iterations, at most `limit`, whose growth fits in `free` blocks; the first is already paid."""
        size = self._size
        laps, left = divmod(free, self.count) if self.count else (limit, 0)
        iterations = laps * size
        if iterations >= limit:
            return limit
        for tick in range(self.tick + 1, self.tick + 1 + size):
            left -= len(self.due[tick % size])
            if left < 0:
                break
            iterations += 1
        return min(iterations + 1, limit)

    def drain_changes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Who joined and who left since the last step, and start anew."""
        joined, left = tuple(self.joined), tuple(self.left)
        if joined:
            self.joined = {}
        if left:
            self.left = []
        return joined, left
