"""An engine lends parts of its cache while it serves, and takes them back: no token changes, bytes really move."""

import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lending_stage import (
    DRAIN_S,
    EACH,
    EXTENT,
    EXTENTS,
    LEASE_S,
    Borrower,
    Coordinator,
    Serving,
    alone,
    jobs,
)
from processes import eventually

from aquasim.core.informers import GIB, QueueInformer, WindowInformer

torch = pytest.importorskip("torch")

JOBS = jobs(7, 24)


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    """Return the tokens of every request alone."""
    return [alone(*job) for job in JOBS]


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """Give a coordinator process."""
    made = Coordinator(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def serve(coordinator: Coordinator) -> Iterator[Callable[..., Serving]]:
    """Give a function that makes engines."""
    made: list[Serving] = []

    def start(*words: Any, **options: Any) -> Serving:
        made.append(Serving(coordinator.socket, *words, **options))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture
def borrow(coordinator: Coordinator) -> Iterator[Callable[[int], Borrower]]:
    """Give a function that starts an engine that borrows so many extents."""
    made: list[Borrower] = []

    def start(extents: int) -> Borrower:
        made.append(Borrower(coordinator.socket, extents * EXTENT, JOBS[:8]))
        return made[-1]

    yield start
    for each in made:
        each.end()


def resident() -> int:
    """Return the bytes of shared memory that this process has mapped and present."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssShmem:"))


def back(engine: Serving) -> bool:
    """Whether everything is at home and the scheduler has it."""
    return not engine.lending.lent and engine.executor.scheduler.pool.capacity == EXTENTS * EACH


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ("fcfs", {}),
        ("cfs", {"slice_length": 2}),
        ("cfs", {"slice_length": 2, "overlap": True}),
        ("fcfs", {"threaded": True}),
    ],
)
def test_tokens_never_change_while_memory_comes_and_goes(
    serve: Callable[..., Serving], expected: list[list[int]], policy: str, options: dict[str, Any]
) -> None:
    """Again and again, at random moments: from 1 to 5 of 6 extents leave and come back while 24 requests are served.

    With and without slices that page, transfers beside compute, and steps in a thread of their own. Blocks were
    moved to let extents go; every request says what it says alone.
    """
    engine, rng = serve(policy, **options), random.Random(3)
    rounds = 0
    for wave in range(6):
        engine.submit(JOBS[4 * wave : 4 * wave + 4])
        for _ in range(rng.randint(2, 8)):
            engine.executor.turn()
        asked = engine.lending.shrink(rng.randint(1, EXTENTS - 1))
        engine.turns(lambda: engine.lending.settled)
        assert asked == len(engine.lending.lent) > 0
        engine.check()
        rounds += 1
        engine.submit([JOBS[0]])
        engine.turns(engine.lending.recall)
        engine.turns(lambda: back(engine))
        engine.check()
    engine.finish()
    first = [id for id in engine.told if id % 5 != 4]
    assert [engine.told[id] for id in first] == expected
    assert all(engine.told[id] == expected[0] for id in engine.told if id % 5 == 4)
    assert rounds == 6
    assert engine.lending.moved_blocks > 0
    assert engine.executor.scheduler.pool.free == EXTENTS * EACH


def test_tables_that_do_not_follow_change_what_is_said(
    serve: Callable[..., Serving], expected: list[list[int]]
) -> None:
    """Block tables left as they were after blocks had moved: what is read then is not the requests' cache.

    (The extents are scrubbed and stay mapped here, or the first step would end the process.)
    """

    def said(follow: bool) -> list[list[int]]:
        engine = serve()
        engine.submit(JOBS[:8])
        engine.turns(lambda: engine.executor.scheduler.pool.held >= 2 * EACH + 6)
        for id in (0, 1, 4):
            engine.executor.abort(id)

        def scrub(extents: list[int]) -> None:
            engine.lending._leaving -= len(extents)
            for extent in extents:
                engine.memory.memory.arenas[extent].scrub()

        engine.lending._lend = scrub  # type: ignore[method-assign]
        if not follow:
            engine.executor.runner.batch.readdress = lambda moved: None  # type: ignore[method-assign]
        engine.lending.shrink(EXTENTS - 2)
        engine.turns(lambda: not engine.executor.busy)
        assert engine.lending.moved_blocks > 0
        return [engine.told[id] for id in (2, 3, 5, 6, 7)]

    wanted = [expected[id] for id in (2, 3, 5, 6, 7)]
    assert said(True) == wanted
    assert said(False) != wanted


def test_resident_memory_leaves_and_returns(serve: Callable[..., Serving]) -> None:
    """What is lent is not resident here, and no other memory takes its place; it is again once it is back."""
    engine = serve()
    full = resident()
    engine.lending.shrink(4)
    engine.turns(lambda: engine.client.donated == 4 * EXTENT)
    assert resident() == full - 4 * EXTENT
    engine.turns(engine.lending.recall)
    engine.turns(lambda: back(engine))
    assert resident() == full


def test_the_longest_request_always_fits(serve: Callable[..., Serving], expected: list[list[int]]) -> None:
    """Asked for everything, the engine lends all but what the longest request needs, and serves from that."""
    engine = serve()
    assert engine.lending.shrink(EXTENTS) == EXTENTS - 1
    engine.submit(JOBS[:6])
    engine.finish()
    assert [engine.told[id] for id in range(6)] == expected[:6]
    assert len(engine.lending.lent) == EXTENTS - 1


@pytest.mark.parametrize("kind", ["queue", "window"])
def test_an_informer_lends_when_idle_and_reclaims_under_load(
    serve: Callable[..., Serving], expected: list[list[int]], kind: str
) -> None:
    """AQUA's two rules: idle, it lends; as a queue builds up, it takes everything back; idle again, lends again."""
    informer: QueueInformer | WindowInformer
    if kind == "queue":
        informer = QueueInformer(
            min_retain_bytes=2 * EXTENT, max_bytes=6 * EXTENT, donate_queue=0, reclaim_queue=3
        )
    else:
        informer = WindowInformer(
            window_ns=20_000_000, retain_bytes=2 * EXTENT, min_offer_bytes=EXTENT, swing_bytes=GIB,
            low_free_bytes=GIB, reclaim_queue=1.0, reclaim_rate_per_s=-1e5,
        )  # fmt: skip
    engine = serve(informer=informer)
    engine.turns(lambda: len(engine.lending.lent) == 4)
    engine.submit(JOBS)
    engine.turns(lambda: informer.reclaiming)
    engine.turns(lambda: not engine.lending.lent)
    engine.finish()
    engine.turns(lambda: engine.lending.settled and engine.lending.lent)
    assert [engine.told[id] for id in range(24)] == expected


def test_another_engine_pages_into_it(
    serve: Callable[..., Serving], borrow: Callable[[int], Borrower], expected: list[list[int]]
) -> None:
    """A second engine, in another process, leases 4 extents of this one's cache and pages into them while both serve.

    What is resident has moved from here to there. Then this one wants it back, in the middle: it has it within the
    drain deadline, the other goes on without, and every request of both says what it says alone.
    """
    engine, other = serve(), borrow(4)
    full = resident()
    engine.lending.shrink(4)
    engine.submit(JOBS[8:12])
    engine.turns(lambda: engine.client.lent == 4 * EXTENT)
    assert int(other.hears("leased")) == 4 * EXTENT == full - resident()
    other.begin()
    other.hears("paged")
    engine.submit(JOBS[12:])
    started = time.monotonic()
    engine.turns(engine.lending.recall)
    engine.turns(lambda: back(engine))
    assert time.monotonic() - started < DRAIN_S
    other.hears("left")
    engine.finish()
    assert [engine.told[id] for id in range(16)] == expected[8:]
    assert json.loads(other.hears("tokens")) == expected[:8]


def test_a_borrower_is_killed(
    serve: Callable[..., Serving], borrow: Callable[[int], Borrower], expected: list[list[int]]
) -> None:
    """kill -9 while it holds pages: its death is proof enough; what comes back holds nothing of what it wrote."""
    engine, other = serve(), borrow(3)
    engine.lending.shrink(3)
    engine.turns(lambda: engine.client.lent == 3 * EXTENT)
    other.hears("leased")
    other.begin()
    other.hears("paged")
    engine.submit(JOBS[8:16])
    lent = set(engine.lending.lent)
    other.process.send_signal(signal.SIGKILL)
    engine.turns(engine.lending.recall)
    engine.turns(lambda: not engine.lending.lent)
    held = [
        engine.memory.pool.data[extent * EACH : (extent + 1) * EACH].count_nonzero().item() for extent in lent
    ]
    assert sum(held) <= engine.executor.scheduler.pool.held * engine.memory.block_bytes // 4
    engine.turns(lambda: back(engine))
    engine.finish()
    assert [engine.told[id] for id in range(8)] == expected[8:16]


def test_the_coordinator_is_killed_and_comes_back(
    coordinator: Coordinator, serve: Callable[..., Serving], borrow: Callable[[int], Borrower],
    expected: list[list[int]],
) -> None:  # fmt: skip
    """Without a coordinator nothing is forced back from who holds it; with a new one a reclaim ends as ever.

    Both engines serve all the while, and say what they say alone.
    """
    engine, other = serve(), borrow(2)
    engine.lending.shrink(2)
    engine.turns(lambda: engine.client.lent == 2 * EXTENT)
    other.hears("leased")
    other.begin()
    other.hears("paged")
    coordinator.kill()
    engine.submit(JOBS[8:12])
    engine.turns(lambda: not engine.client.connected)
    engine.finish()
    assert engine.lending.recall()
    assert len(engine.lending.lent) == 2
    coordinator.start()
    engine.turns(lambda: back(engine), 10 * LEASE_S)
    engine.submit(JOBS[12:14])
    engine.finish()
    assert [engine.told[id] for id in range(6)] == expected[8:14]
    assert json.loads(other.hears("tokens")) == expected[:8]


def test_loans_and_caches_that_cannot_be_are_refused(serve: Callable[..., Serving]) -> None:
    """An informer that lends less than an extent; a cache that is another engine's."""
    from aquasim.runtime.donor.lending import Lending

    engine, other = serve(), serve()
    less = QueueInformer(min_retain_bytes=0, max_bytes=EXTENT - 1)
    with pytest.raises(ValueError, match=r"lends 131071 bytes; an extent has 131072: nothing to lend"):
        Lending(engine.executor, engine.memory, engine.client, less, engine.copier)
    enough = QueueInformer(min_retain_bytes=0, max_bytes=EXTENT)
    with pytest.raises(ValueError, match="make one for the other"):
        Lending(engine.executor, other.memory, engine.client, enough, engine.copier)
    eventually(lambda: True)
