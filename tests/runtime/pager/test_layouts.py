"""Caches laid out layer by layer page as whole blocks do: the same bytes come back, in as many copies as expected."""

import ctypes
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.core import Limits, Scheduler, make_policy
from aquasim.core.events import Move, Transfer
from aquasim.runtime.copy import Descriptors, HostCopier
from aquasim.runtime.pager import Pager, Pieces, Window

BLOCKS = 8
PAGES = 10


class Counting(HostCopier):
    """Notes the path and the length of each list, and counts the copies that do not stay on this side of a link."""

    def __init__(self, staging_bytes: int = 1 << 16) -> None:
        super().__init__(staging_bytes=staging_bytes)
        self.lists: list[tuple[str, int]] = []
        self.links = 0

    def submit(self, copies: Descriptors, stream: Any, path: str = "auto", *, stable: bool = False) -> Any:
        """Copy, and note it."""
        self.lists.append((path, len(copies)))
        return super().submit(copies, stream, path, stable=stable)

    def _loop(self, copies: Descriptors, stream: Any, stable: bool) -> None:
        self.links += len(copies)
        super()._loop(copies, stream, stable)

    def _scattered(self, copies: Descriptors, stream: Any) -> None:
        super()._loop(copies, stream, False)


class Cache:
    """A cache of `[layer, 2, block, piece]` or of `[block, layer, 2, piece]`, and a tier of pages for it."""

    def __init__(self, layers: int, piece: int, foreign: bool, staged: bool, check: str = "always") -> None:
        self.copier = Counting()
        shape = (layers, 2, BLOCKS, piece) if foreign else (BLOCKS, layers, 2, piece)
        self.data = np.zeros(shape, np.uint8)
        self.foreign = foreign
        base, size = self.data.ctypes.data, layers * 2 * piece
        bases = tuple(base + part * BLOCKS * piece for part in range(2 * layers))
        blocks = Pieces(bases, piece) if foreign else Window(base, size)
        self.pager = Pager(self.copier, blocks, check, staged=staged)  # type: ignore[arg-type]
        self.tier = np.zeros((PAGES, size), np.uint8)
        slots = self.pager.tier("peer")
        slots.add("a", self.tier.ctypes.data, self.tier.nbytes)
        slots.grow(PAGES)
        self.number = 0

    def block(self, number: int) -> Any:
        """Return a view of a block, `[layer, 2, piece]`."""
        return self.data[:, :, number] if self.foreign else self.data[number]

    def move(self, kind: str, sources: list[int], targets: list[int]) -> Any:
        """Carry out a transfer."""
        self.number += 1
        transfer = Transfer(self.number, kind, "peer", len(sources), (Move(0, len(sources)),))  # type: ignore[arg-type]
        self.pager.start(transfer, [(tuple(sources), tuple(targets))])
        (landed,) = self.pager.wait([self.number])
        return landed


layouts = given(
    layers=st.integers(1, 5), piece=st.integers(1, 40).map(lambda n: 8 * n), foreign=st.booleans(),
    staged=st.booleans(), seed=st.integers(0, 10**6),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@layouts
def test_pages_come_back_bit_by_bit(layers: int, piece: int, foreign: bool, staged: bool, seed: int) -> None:
    """Any blocks, to any pages, back to any blocks: the same bits; a page is `[layer, 2, piece]` in either layout."""
    rng, cache = random.Random(seed), Cache(layers, piece, foreign, staged)
    cache.data[:] = np.random.default_rng(seed).integers(0, 256, cache.data.shape)
    count = rng.randint(1, BLOCKS)
    sources, targets = rng.sample(range(BLOCKS), count), rng.sample(range(BLOCKS), count)
    pages = rng.sample(range(PAGES), count)
    before = [cache.block(block).copy() for block in range(BLOCKS)]
    assert cache.move("out", sources, pages).nbytes == count * layers * 2 * piece
    for source, page in zip(sources, pages, strict=True):
        at = int(cache.pager.tier("peer").addresses([page])[0])
        found = ctypes.string_at(at, layers * 2 * piece)
        assert found == before[source].tobytes()
    cache.data[:] = 99
    assert cache.move("in", pages, targets).spoilt == ()
    for block in range(BLOCKS):
        wanted = before[sources[targets.index(block)]] if block in targets else np.full_like(before[0], 99)
        assert np.array_equal(cache.block(block), wanted)
    cache.copier.close()


@pytest.mark.parametrize(
    ("foreign", "staged", "descriptors", "links", "path"),
    [(False, False, 4, 1, "auto"), (True, False, 24, 24, "auto"), (True, True, 24, 1, "staged")],
)
def test_as_many_copies_as_there_should_be(
    foreign: bool, staged: bool, descriptors: int, links: int, path: str
) -> None:
    """Four blocks in a row, three layers: one copy of whole blocks; else one per piece, and when staged one again."""
    cache = Cache(3, 64, foreign, staged, "off")
    pages = [int(n) for n in np.argsort(cache.pager.tier("peer").addresses(range(PAGES)))[:4]]
    for kind, ends in (("out", ([2, 3, 4, 5], pages)), ("in", (pages, [2, 3, 4, 5]))):
        cache.copier.lists.clear()
        cache.copier.links = 0
        cache.move(kind, *ends)
        expected = {"staged": "gather" if kind == "out" else "scatter"}.get(path, path)
        assert cache.copier.lists == [(expected, descriptors)]
        assert cache.copier.links == links
    cache.copier.close()


@pytest.mark.parametrize("staged", [False, True])
def test_pieces_that_change_places_are_noticed(staged: bool) -> None:
    """Keys and values of a page exchanged weigh something else; a page that is whole weighs the same."""
    cache = Cache(2, 64, True, staged)
    cache.data[:] = np.random.default_rng(3).integers(0, 256, cache.data.shape)
    cache.move("out", [0, 1], [0, 1])
    at = int(cache.pager.tier("peer").addresses([1])[0])
    keys, values = ctypes.string_at(at, 64), ctypes.string_at(at + 64, 64)
    ctypes.memmove(at, values + keys, 128)
    assert cache.move("in", [0], [3]).spoilt == ()
    assert cache.move("in", [1], [4]).spoilt == (0,)
    cache.copier.close()


def test_an_engine_with_such_a_cache_says_the_same(layered: Callable[..., Any]) -> None:
    """A model over `[layer, 2, block, ...]` pages in slices: tokens are those of a cache of whole blocks."""
    assert layered(True) == layered(False)


@pytest.fixture
def layered() -> Callable[[bool], dict[int, list[int]]]:
    """Give a function that serves requests from a cache in either layout, and returns their tokens."""
    torch = pytest.importorskip("torch")
    from aquasim.runtime.engine import KvPool, LlamaConfig, Runner, random_weights
    from aquasim.runtime.executor import Executor

    config = LlamaConfig(
        vocab=97, hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, intermediate=64, max_positions=256
    )

    class Layers(KvPool):
        """The same blocks, layer by layer; they share their bytes with nobody, so nothing of the other is used."""

        def __init__(self, blocks: int, layers: int, size: int, heads: int, dim: int, **options: Any) -> None:
            super().__init__(blocks, layers, size, heads, dim, **options)
            self._all = torch.full((layers, 2, blocks + 1, size, heads, dim), float("nan"))
            flat = self._all.view(layers, 2, -1, heads * dim)
            self.stride = size
            self._keys = [flat[layer, 0] for layer in range(layers)]
            self._values = [flat[layer, 1] for layer in range(layers)]

        @property
        def data(self) -> Any:
            return self._all[:, :, : self.blocks]

        def keys(self, layer: int) -> Any:
            return self._all[layer, 0]

        def values(self, layer: int) -> Any:
            return self._all[layer, 1]

    def serve(foreign: bool) -> dict[int, list[int]]:
        pool = (Layers if foreign else KvPool).of(config, 8, 4, fill=float("nan"))
        runner = Runner(config, random_weights(config, 3), pool, padded=32, max_seqs=8)
        piece = pool.block_bytes // 4
        bases = tuple(pool.base + part * 9 * piece for part in range(4))
        copier = Counting()
        pager = Pager(copier, Pieces(bases, piece) if foreign else Window(pool.base, 4 * piece), "always")
        tier = np.zeros(60 * pool.block_bytes, np.uint8)
        pager.tier("host").add("own", tier.ctypes.data, tier.nbytes)
        pager.tier("host").grow(60)
        limits = Limits(
            blocks=8,
            block_size=4,
            max_num_seqs=8,
            max_num_batched_tokens=32,
            tiers=(("host", 60),),
            max_repeat=1,
        )
        executor = Executor(Scheduler(limits, make_policy("cfs", slice_length=2)), runner, pager)
        said: dict[int, list[int]] = {id: [] for id in range(4)}
        rng = random.Random(5)
        for id in said:
            prompt = [rng.randrange(97) for _ in range(rng.randint(2, 10))]
            executor.submit(id, prompt, 12, on_token=lambda id, token, last: said[id].append(token))
        executor.run()
        copier.close()
        assert pager.moved_bytes > 20 * pool.block_bytes
        assert executor.repaired == 0
        return said

    return serve
