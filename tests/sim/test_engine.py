"""One engine in simulated time: exact times of small cases, and what happens while a step runs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scenes import load_one

from aquasim.core import (
    Aborted,
    Arrived,
    Limits,
    Scheduler,
    StepDone,
    TierResized,
    Transfer,
    TransferDone,
    make_policy,
)
from aquasim.core.policies.base import Policy
from aquasim.hardware.cost import StepCost
from aquasim.records.run import Run
from aquasim.records.tables import RunTables
from aquasim.sim.clock import Clock
from aquasim.sim.engine import Engine, iterations
from aquasim.sim.simulate import Plan, simulate_system
from aquasim.sim.source import Source
from aquasim.workload import Workload


class Toy:
    """An iteration lasts 100 + 10 per decode + 1 per token of context; chunks add 2 per new, 1 per cached token."""

    def decode(self, batch: int, context: int) -> tuple[int, int, int]:
        """Return the first iteration's time and its growth, valid for 8 iterations."""
        return 100 + 10 * batch + context, batch, 8

    def step(self, chunks: Sequence[tuple[int, int]], batch: int, context: int) -> int:
        """Return the time of a mixed iteration."""
        return 100 + 10 * batch + context + sum(2 * new + cached for new, cached in chunks)

    def timed(self, chunks: Sequence[tuple[int, int]], batch: int, context: int) -> tuple[int, float]:
        """Nothing is bound by compute."""
        return self.step(chunks, batch, context), 0.0


class Slow:
    """Every transfer takes 1000 ns per block; while one runs, iterations last twice as long if `contends`."""

    def __init__(self, env: Clock, contends: bool) -> None:
        self.env = env
        self.contends = contends
        self.active = 0
        self.changed: Callable[[], None] = lambda: None

    def carry(self, transfer: Transfer, done: Callable[[], None]) -> None:
        """Land after the blocks' time."""
        self.active += 1
        self.changed()

        def landed(_: object) -> None:
            self.active -= 1
            self.changed()
            done()

        self.env.at(self.env.ns + 1000 * transfer.blocks, landed)

    def contended(self) -> bool:
        """Say whether HBM bandwidth is shared now."""
        return self.contends and self.active > 0

    def stretch(self, nanoseconds: int, batch: int, context: int, tokens: int) -> int:
        """Double an iteration's time."""
        return 2 * nanoseconds

    def watch(self, changed: Callable[[], None]) -> None:
        """Remember whom to tell."""
        self.changed = changed


class Bench:
    """An engine on a table: requests as (arrival, prompt, output)."""

    def __init__(
        self,
        jobs: list[tuple[int, int, int]],
        policy: Policy | None = None,
        *,
        contends: bool = False,
        **sizes: object,
    ) -> None:
        limits = Limits(**({"blocks": 100, "block_size": 4} | sizes))  # type: ignore[arg-type]
        self.env = Clock()
        self.tables = RunTables()
        scheduler = Scheduler(limits, policy or make_policy("fcfs"))
        self.engine = Engine(
            self.env, scheduler, Toy(), self.tables, Slow(self.env, contends), record_events=True
        )
        for id, (arrival, prompt, output) in enumerate(jobs):
            self.env.at(arrival, lambda _, i=id, p=prompt, o=output: self.engine.submit(i, p, o, 0, ()))  # type: ignore[misc]

    def play(self) -> "Bench":
        """Let everything happen."""
        self.env.play()
        assert not self.engine.live
        self.run = Run([("engine", self.tables)], {})
        return self

    def rows(self, table: str, *names: str) -> list[tuple[int, ...]]:
        """Return columns of a table as rows."""
        columns = self.run.columns(table)
        return list(zip(*(columns[name].tolist() for name in names), strict=True))

    @property
    def events(self) -> list[tuple[int, object]]:
        """Events without the calls of `plan`."""
        return [(now, event) for now, event in self.engine.log or () if event is not None]


STEPS = ("start_ns", "first_ns", "growth_ns", "iterations", "batch", "context_tokens", "prefill_tokens")
REQUESTS = ("request", "arrival_ns", "admitted_ns", "first_token_ns", "finished_ns", "output_tokens")


def test_times_of_a_small_case_by_hand() -> None:
    """Two requests, every nanosecond of them.

    0: prefill of 5 tokens, 100 + 10. 110: 0 decodes from context 5 (115, 116, 117, ...); 1 arrives at 200, in
    the first iteration, which ends at 225. Then 1 prefills 3 beside 0 at context 6: 100 + 10 + 6 + 6 = 122, to
    347. Both decode from context 7 + 3 (130, 132): 1 has its 3 tokens at 609, and 0 has 5. 0 goes on alone from
    context 9 (119), and has its 6th at 728.
    """
    bench = Bench([(0, 5, 6), (200, 3, 3)]).play()
    assert bench.rows("steps", *STEPS) == [
        (0, 110, 0, 1, 0, 0, 5),
        (110, 115, 1, 1, 1, 5, 0),
        (225, 122, 0, 1, 1, 6, 3),
        (347, 130, 2, 2, 2, 10, 0),
        (609, 119, 1, 1, 1, 9, 0),
    ]
    assert bench.rows("requests", *REQUESTS) == [(1, 200, 225, 347, 609, 3), (0, 0, 0, 110, 728, 6)]
    assert bench.events == [
        (0, Arrived(0, 5, 6)),
        (110, StepDone(0, 1)),
        (200, Arrived(1, 3, 3)),
        (225, StepDone(1, 1)),
        (347, StepDone(2, 1)),
        (609, StepDone(3, 2, (1,))),
        (728, StepDone(4, 1, (0,))),
    ]


def test_a_fused_step_ends_at_a_knot_of_the_cost() -> None:
    """The cost is linear for 8 iterations: a run of 12 decodes is two steps, and the second asks anew."""
    bench = Bench([(0, 5, 13)]).play()
    assert bench.rows("steps", *STEPS)[1:] == [
        (110, 115, 1, 8, 1, 5, 0),
        (110 + 8 * 115 + 28, 123, 1, 4, 1, 13, 0),
    ]


def test_an_abort_during_a_fused_step_ends_at_the_iterations_end() -> None:
    """The iteration under way is carried to its end, counts for the request, and the others go on.

    Both decode from 120 on (context 10: 130, 132, 134, ...); the abort at 300 falls in the second iteration,
    which ends at 382. Request 1 has 1 + 2 tokens then.
    """
    bench = Bench([(0, 5, 50), (0, 5, 8)])
    bench.env.at(300, lambda _: bench.engine.abort(0))
    bench.play()
    assert bench.rows("steps", *STEPS)[:3] == [
        (0, 120, 0, 1, 0, 0, 10),
        (120, 130, 2, 2, 2, 10, 0),
        (382, 117, 1, 5, 1, 7, 0),
    ]
    assert bench.events[2:5] == [(120, StepDone(0, 1)), (300, Aborted(0)), (382, StepDone(1, 2))]
    assert bench.rows("requests", "request", "finished_ns", "output_tokens") == [(0, 382, 3), (1, 977, 8)]
    assert bench.run.requests["outcome"].tolist() == ["aborted", "finished"]


def test_an_abort_of_a_waiting_request_takes_effect_at_once() -> None:
    """Nothing waits for it; it never ran."""
    bench = Bench([(0, 5, 3), (0, 5, 3)], max_num_seqs=1)
    bench.env.at(150, lambda _: bench.engine.abort(1))
    bench.play()
    assert [row[:4] for row in bench.rows("requests", *REQUESTS) if row[0] == 1] == [(1, 0, -1, -1)]


def test_a_rejected_request_is_recorded_with_its_reason() -> None:
    """It leaves at the time it came, without tokens; others are served."""
    bench = Bench([(0, 5, 2), (50, 400, 2)]).play()
    frame = bench.run.requests.set_index("request")
    assert frame.loc[1, "outcome"] == "rejected"
    assert frame.loc[1, "reason"] == "prompt of 400 tokens does not fit max_model_len 400"
    assert list(frame.loc[1, ["admitted_ns", "first_token_ns", "output_tokens"]]) == [-1, -1, 0]
    assert frame.loc[0, "outcome"] == "finished"


TIERS = (("host", 100),)
PAGING: dict[str, Any] = {"blocks": 4, "tiers": TIERS}
PAIR = [(0, 7, 5), (0, 7, 5)]


def test_serial_transfers_hold_the_step() -> None:
    """`cfs`: each page-out starts when decided, the page-in after it, and the step when both have landed."""
    bench = Bench(PAIR, make_policy("cfs", slice_length=2), **PAGING).play()
    transfers = bench.rows("transfers", "transfer", "start_ns", "end_ns", "blocks")
    starts = {start for start, *_ in bench.rows("steps", "start_ns")}
    assert transfers[:3] == [(0, 262, 2262, 2), (1, 2380, 5380, 3), (2, 5380, 7380, 2)]
    assert {2262, 7380} <= starts
    assert not any(262 <= start < 2262 or 2380 <= start < 7380 for start in starts)
    assert bench.rows("steps", *STEPS)[:3] == [
        (0, 128, 0, 1, 0, 0, 14),
        (128, 134, 2, 1, 2, 14, 0),
        (2262, 118, 1, 1, 1, 8, 0),
    ]


def test_overlapping_transfers_let_others_run_and_stretch_their_iterations() -> None:
    """While a page-out is under way iterations take twice as long if HBM is shared, else as long as ever."""
    steps: dict[bool, int] = {}
    for contends in (False, True):
        policy = make_policy("cfs", slice_length=2, overlap=True)
        bench = Bench([(0, 7, 20)] * 3, policy, contends=contends, blocks=12, tiers=TIERS).play()
        transfers = bench.rows("transfers", "start_ns", "end_ns")
        rows = bench.rows("steps", "start_ns", "first_ns", "iterations", "batch", "context_tokens")
        for start, first, count, batch, context in rows:
            under_way = any(begin < start < end for begin, end in transfers)
            if batch and under_way:
                plain = 100 + 10 * batch + context
                assert first == (2 * plain if contends else plain)
                assert count == 1 or not contends
                steps[contends] = steps.get(contends, 0) + 1
    assert min(steps[False], steps[True]) > 0


def test_a_shrinking_tier_is_drained_by_a_migration() -> None:
    """A lease called back while its pages are needed: one migration, after which the tier holds nothing."""
    tiers = (("peer", 100), ("host", 100))
    bench = Bench([(0, 7, 9), (0, 7, 9)], make_policy("cfs", slice_length=2), blocks=4, tiers=tiers)
    bench.env.at(2300, lambda _: bench.engine.resize_tier("peer", 0))
    bench.play()
    frame = bench.run.transfers
    assert frame["kind"].tolist().count("migrate") == 1
    assert (2300, TierResized("peer", 0)) in bench.events
    after = frame[frame["start_ns"] > 2300]
    assert set(after.loc[after["kind"] != "migrate", "tier"]) == {"host"}
    assert bench.engine.scheduler.pager.tiers["peer"].capacity == 0


def test_every_transfer_is_reported_once() -> None:
    """Each transfer of the tables has its completion among the events, at its end."""
    bench = Bench(PAIR, make_policy("cfs", slice_length=2), **PAGING).play()
    done = [(event.transfer, now) for now, event in bench.events if isinstance(event, TransferDone)]
    assert done == bench.rows("transfers", "transfer", "end_ns")


@pytest.mark.parametrize("cap", [1, 3, 8])
def test_a_closed_loop_never_has_more_open_than_its_cap(cap: int) -> None:
    """As one request leaves, the next is sent in the same instant: never more than the cap, never idle below it."""
    count = 40
    rng = np.random.default_rng(cap)
    workload = Workload(
        np.zeros(count, np.int64), rng.integers(1, 30, count), rng.integers(1, 30, count), cap=cap
    )
    env, tables = Clock(), RunTables()
    source = Source(env, workload, 4, False)
    scheduler = Scheduler(Limits(blocks=200, block_size=4), make_policy("fcfs"))
    engine = Engine(env, scheduler, Toy(), tables, on_gone=source.gone)
    source.start(engine)
    env.play()
    columns = Run([("engine", tables)], {}).columns("requests")
    changes = [(t, 1) for t in columns["arrival_ns"].tolist()]
    changes += [(t, -1) for t in columns["finished_ns"].tolist()]
    open_now, levels = 0, []
    for now, change in sorted(changes):
        open_now += change
        levels.append((now, open_now))
    last_arrival = int(columns["arrival_ns"].max())
    assert max(level for _, level in levels) == cap
    assert {level for now, level in dict(levels).items() if now < last_arrival} == {cap}


@pytest.mark.parametrize(("a", "b"), [(100, 0), (100, 1), (7, 3), (1, 50)])
def test_the_iteration_under_way_is_found_exactly(a: int, b: int) -> None:
    """`iterations` is the least n whose sum of a + b*j reaches the time, at, before and after every boundary."""
    ends = np.cumsum([a + b * j for j in range(200)]).tolist()
    for n, end in enumerate(ends[:-1], 1):
        assert iterations(end, a, b) == n
        assert iterations(end + 1, a, b) == n + 1
        assert iterations(max(1, end - 1), a, b) == (n if n == 1 or end - 1 > ends[n - 2] else n - 1)


def test_only_transfers_slow_a_real_engine_down() -> None:
    """Decodes beside page traffic never beat the cost model, and some lose to it; all others equal it."""
    scenario = load_one("small-h100", ["workload.requests=60", "engine.kv_blocks=300"])
    plan = Plan.of(scenario)
    cost = StepCost(plan.profile, plan.llm.model, 1, 512 + 512)
    run = simulate_system(plan, "aqua")
    steps, transfers = run.columns("steps"), run.columns("transfers")
    slowed = 0
    for start, first, batch, context, prefills in zip(
        *(steps[name].tolist() for name in ("start_ns", "first_ns", "batch", "context_tokens", "prefills")),
        strict=True,
    ):
        if not prefills:
            alone = cost.decode(batch, context)[0]
            beside = (transfers["start_ns"] <= start) & (start <= transfers["end_ns"])
            assert first >= alone if beside.any() else first == alone
            slowed += first > alone
    assert slowed > 0
