"""Engines that lend: the cache shrinks before bytes are offered, and is whole again after they came back."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.core.informers import QueueInformer, WindowInformer
from aquasim.hardware.profile import load_profile
from aquasim.records.run import Run
from aquasim.records.tables import RunTables
from aquasim.sim.carrier import PageLayout
from aquasim.sim.clock import Clock
from aquasim.sim.fabric import Done
from aquasim.sim.tenants.lend import Lending, Rebuild
from aquasim.sim.topology import TOPOLOGIES, Server

BLOCK, TOTAL, RETAIN = 1000, 40, 10_500
TICK = 100_000_000
"""100 ms in ns."""
H100 = load_profile("h100")


class Engine:
    """A cache whose held blocks follow a load, never beyond its size; shrinking waits until they fit."""

    def __init__(self, env: Clock) -> None:
        self.env = env
        self.size = self.target = TOTAL
        self.queued = self.pauses = 0
        self.still_ns = 0
        self.pool = SimpleNamespace(held=0, free=TOTAL)
        self.scheduler = SimpleNamespace(pool=self.pool, limits=SimpleNamespace(blocks=TOTAL))
        self.released: Callable[[int], None] = lambda blocks: None
        self._answered = True
        self._since = 0

    def load(self, queue: int, held: int) -> None:
        """Let so many requests wait and so many blocks be held, as far as there is room."""
        self.queued, self.pool.held = queue, min(held, max(self.target, 0))
        self._settle()

    def resize_tier(self, tier: str, blocks: int) -> None:
        """See `aquasim.sim.engine.Engine`: answered once no more than `blocks` are held."""
        assert tier == "hbm"
        self.target, self._answered = blocks, False
        self.env.last(lambda _: self._settle())

    def _settle(self) -> None:
        if self.pool.held <= self.target:
            self.size = self.target
            if not self._answered:
                self._answered = True
                self.released(self.size)
        self.pool.free = max(0, self.target - self.pool.held)

    def pause(self, then: Done) -> None:
        """See `aquasim.sim.engine.Engine`."""
        self.pauses += 1
        self._since = self.env.ns
        then()

    def resume(self) -> None:
        """See `aquasim.sim.engine.Engine`."""
        self.pauses -= 1
        self.still_ns += self.env.ns - self._since


class Loan:
    """One GPU's loan: what is recalled comes back in parts, later."""

    def __init__(self, bench: "Bench", rank: int, parts: list[int]) -> None:
        self.bench, self.rank, self.parts = bench, rank, parts
        self.out = self.polls = 0

    def offer(self, size: int) -> None:
        """See `aquasim.sim.leasing.base.Loan`."""
        assert self.out == 0, "offered while a loan is out"
        assert size > 0
        self.out = size
        self.bench.check()

    def recall(self) -> None:
        """See `aquasim.sim.leasing.base.Loan`."""
        assert self.out, "nothing to recall"
        env, left = self.bench.env, self.out
        for index, share in enumerate([*self.parts, 100], 1):
            part = left * share // 100
            left -= part
            env.at(env.ns + index * TICK // 3 * (self.rank + 1), lambda _, part=part: self._back(part))  # type: ignore[misc]

    def _back(self, part: int) -> None:
        if part:
            self.out -= part
            self.bench.lending.regained(self.rank, part)

    def poll(self) -> None:
        """See `aquasim.sim.leasing.base.Loan`."""
        self.polls += 1


class Bench:
    """An engine of 40 blocks per rank that lends under a rule."""

    def __init__(
        self,
        informer: QueueInformer | WindowInformer,
        ranks: int = 1,
        rebuild: Rebuild | None = None,
        parts: list[int] | None = None,
    ) -> None:
        self.env = Clock()
        self.engine = Engine(self.env)
        self.tables = RunTables()
        server = Server(self.env, TOPOLOGIES["8xH100"], H100)
        gpus, layout = tuple(range(ranks)), PageLayout("scattered", BLOCK, 1)
        self.lending = Lending(server, self.engine, gpus, layout, informer, TICK, rebuild, self.tables)  # type: ignore[arg-type]
        self.loans = [Loan(self, rank, parts or []) for rank in gpus]
        self.lending.loans.extend(self.loans)
        self.engine.released = self.lending.released
        self.lending.start()

    def check(self) -> None:
        """On every GPU, cache and loan fit its memory; the cache holds what is held and keeps what is retained."""
        for loan in self.loans:
            assert max(self.engine.size, self.engine.target) * BLOCK + loan.out <= TOTAL * BLOCK
        assert self.engine.target >= RETAIN // BLOCK
        assert self.engine.pool.held <= self.engine.size

    def play(self, ns: int) -> "Bench":
        """Let time pass, and look after every event."""
        stop = [False]
        self.env.at(self.env.ns + ns, lambda _: stop.append(True))
        while len(stop) == 1:
            self.env.play(1)
            self.check()
        return self

    def sizes(self) -> list[int]:
        """Return the cache's sizes in the records, in blocks."""
        return [size // BLOCK for size in Run([("e", self.tables)], {}).memory["bytes"].tolist()]


def queue_rule() -> QueueInformer:
    """Lends all but 10.5 blocks at a queue of 2, and wants it back at 10."""
    return QueueInformer(min_retain_bytes=RETAIN, max_bytes=TOTAL * BLOCK)


def window_rule() -> WindowInformer:
    """The rule of windows, of 1 s and small sizes."""
    return WindowInformer(
        window_ns=10 * TICK,
        retain_bytes=RETAIN,
        min_offer_bytes=5000,
        swing_bytes=3000,
        low_free_bytes=2000,
    )


def test_a_loan_in_whole_blocks_and_back() -> None:
    """29.5 blocks are offered once the cache is down to 10; recalled at a queue of 10; then it has 40 again."""
    bench = Bench(queue_rule()).play(TICK + 1)
    assert (bench.engine.size, bench.loans[0].out) == (10, 29_500)
    bench.engine.load(9, 5)
    assert bench.play(10 * TICK).loans[0].out == 29_500
    bench.engine.load(10, 5)
    assert bench.play(3 * TICK).engine.size == 40
    assert bench.sizes() == [40, 10, 40]
    assert bench.loans[0].polls >= 13


def test_nothing_is_offered_before_it_is_free() -> None:
    """Blocks taken since the rule decided keep the cache from shrinking: the offer waits for them."""
    bench = Bench(queue_rule())
    bench.env.at(TICK, lambda _: setattr(bench.engine.pool, "held", 25))
    bench.play(20 * TICK)
    assert (bench.engine.target, bench.loans[0].out) == (10, 0)
    bench.engine.load(0, 10)
    assert bench.loans[0].out == 29_500


def test_the_cache_grows_by_what_is_back_on_every_gpu() -> None:
    """Two ranks get theirs back in parts at different times: in whole blocks, the slower rank decides."""
    bench = Bench(queue_rule(), ranks=2, parts=[50, 50]).play(TICK + 1)
    bench.engine.load(12, 0)
    bench.play(10 * TICK)
    sizes = bench.sizes()
    assert (sizes[0], sizes[-1]) == (40, 40)
    assert sizes[1:] == sorted(set(sizes[1:]))
    assert len(sizes) > 3, "it grew in parts"


def test_a_rebuild_stops_the_engine_for_two_swaps_and_the_allocation() -> None:
    """8 blocks out, 0.2 s, 8 blocks in, and only then is the cache smaller and its memory offered."""
    bench = Bench(queue_rule(), rebuild=Rebuild(0.15, 0.05))
    bench.engine.load(0, 8)
    bench.play(TICK)
    assert (bench.engine.pauses, bench.engine.size, bench.loans[0].out) == (1, 40, 0)
    bench.play(2 * TICK)
    assert (bench.engine.pauses, bench.engine.size) == (1, 40)
    bench.play(TICK)
    assert (bench.engine.pauses, bench.engine.size, bench.loans[0].out) == (0, 10, 29_500)
    layout = PageLayout("scattered", BLOCK, 1)
    both = sum(
        8 * BLOCK / layout.rate(H100.links[f"pcie_{way}"], kind)
        for way, kind in (("d2h", "out"), ("h2d", "in"))
    )
    assert bench.engine.still_ns == pytest.approx(0.2e9 + both * 1e9, abs=10)


LOADS = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 3, 9, 10, 30]), st.integers(0, 45), st.integers(1, 15)), max_size=25
)
PARTS = st.lists(st.integers(0, 100), max_size=3)


@settings(max_examples=120, deadline=None)
@given(LOADS, PARTS, st.booleans(), st.booleans(), st.integers(1, 2))
def test_random_loads_never_break_the_cache_and_every_byte_comes_back(
    loads: list[tuple[int, int, int]], parts: list[int], windows: bool, rebuilds: bool, ranks: int
) -> None:
    """(queue, blocks held, ticks): sizes always fit, what is retained is kept; after a burst the cache is whole."""
    informer = window_rule() if windows else queue_rule()
    bench = Bench(informer, ranks, Rebuild(0.05) if rebuilds else None, parts)
    for queue, held, ticks in loads:
        bench.engine.load(queue, held)
        bench.play(ticks * TICK)
    for burst in range(60):  # a queue that grows by 3 requests per second and more, over a full cache
        bench.engine.load(10 + burst, 0 if bench.engine.target < bench.engine.size else 40)
        bench.play(TICK)
    assert (bench.engine.size, bench.engine.pauses) == (TOTAL, 0)
    assert [loan.out for loan in bench.loans] == [0] * ranks
    assert informer.donated_bytes == 0
