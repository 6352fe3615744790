"""What a serving engine adds to its kernels: decisions one iteration ahead, idle starts, the way to the client."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scenes import load_one

from aquasim.core import Limits, Scheduler, make_policy
from aquasim.errors import UserError
from aquasim.hardware.throttle import Heat, Throttle
from aquasim.records.run import Run
from aquasim.records.tables import RunTables
from aquasim.sim.clock import Clock
from aquasim.sim.engine import Engine
from aquasim.sim.simulate import Plan, simulate_system
from aquasim.sim.source import Source
from aquasim.workload import Workload

STEPS = ("start_ns", "first_ns", "iterations", "batch", "prefill_tokens")
REQUESTS = ("request", "arrival_ns", "first_token_ns", "finished_ns")


class Toy:
    """An iteration lasts 100 + 10 per decode + 1 per token of context; chunks add 2 per new, 1 per cached token."""

    def decode(self, batch: int, context: int) -> tuple[int, int, int]:
        """Return the first iteration's time and its growth, valid for 8 iterations."""
        return 100 + 10 * batch + context, batch, 8

    def step(self, chunks: Sequence[tuple[int, int]], batch: int, context: int) -> int:
        """Return the time of a mixed iteration."""
        return 100 + 10 * batch + context + sum(2 * new + cached for new, cached in chunks)

    def timed(self, chunks: Sequence[tuple[int, int]], batch: int, context: int) -> tuple[int, float]:
        """All of a mixed iteration is compute."""
        lasted = self.step(chunks, batch, context)
        return lasted, float(lasted)


def play(
    jobs: list[tuple[int, int, int]],
    also: Callable[[Clock, Engine], object] = lambda clock, engine: None,
    **extra: object,
) -> Run:
    """Run (arrival ns, prompt, output) jobs through an engine that decides ahead."""
    clock, tables = Clock(), RunTables()
    scheduler = Scheduler(Limits(blocks=100, block_size=4, max_repeat=1 << 30), make_policy("fcfs"))
    engine = Engine(clock, scheduler, Toy(), tables, **({"ahead": True} | extra))  # type: ignore[arg-type]
    for id, (arrival, prompt, output) in enumerate(jobs):
        clock.at(arrival, lambda _, i=id, p=prompt, o=output: engine.submit(i, p, o, 0, ()))  # type: ignore[misc]
    also(clock, engine)
    clock.play()
    assert not engine.live
    return Run([("engine", tables)], {})


def rows(run: Run, table: str, names: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Return columns of a table as rows."""
    columns = run.columns(table)
    return list(zip(*(columns[name].tolist() for name in names), strict=True))


def test_a_newcomer_waits_for_the_iteration_already_decided() -> None:
    """Request 1 arrives within the iteration of 110 to 225; that of 225 to 341 was decided, it joins at 341."""
    run = play([(0, 5, 6), (200, 3, 3)])
    assert rows(run, "steps", STEPS) == [
        (0, 110, 1, 0, 5),
        (110, 115, 1, 1, 0),
        (225, 116, 1, 1, 0),
        (341, 123, 1, 1, 3),
        (464, 131, 2, 2, 0),
    ]
    assert sorted(rows(run, "requests", REQUESTS)) == [(0, 0, 110, 728), (1, 200, 464, 728)]


@pytest.mark.parametrize("arrival", [225, 226])
def test_at_the_very_instant_of_a_decision_a_newcomer_takes_part(arrival: int) -> None:
    """An arrival at 225, when an iteration ends, joins the one that begins; a nanosecond later the next but one."""
    run = play([(0, 5, 6), (arrival, 3, 3)])
    joined = [start for start, _, _, _, prefill in rows(run, "steps", STEPS) if prefill == 3]
    assert joined == [225 if arrival == 225 else 341 + 117]


def test_an_idle_engine_takes_a_newcomer_at_once() -> None:
    """Nothing runs at 1000, so nothing was decided: the prefill starts then."""
    run = play([(0, 5, 2), (1000, 3, 1)])
    assert rows(run, "steps", STEPS)[-1] == (1000, 106, 1, 0, 3)


def test_a_newcomer_during_the_last_iteration_starts_when_it_ends() -> None:
    """Request 0 ends at 225 and nothing follows, so request 1, there since 200, starts at 225."""
    run = play([(0, 5, 2), (200, 3, 1)])
    assert rows(run, "steps", STEPS)[-1] == (225, 106, 1, 0, 3)


def test_a_newcomer_that_gives_up_before_it_is_known_costs_nothing() -> None:
    """Request 1 arrives at 150 and leaves at 160, within one iteration: the other's times are as without it."""
    run = play([(0, 5, 6), (150, 3, 3)], lambda clock, engine: clock.at(160, lambda _: engine.abort(1)))
    alone = play([(0, 5, 6)])
    times = {row[0]: row[3] for row in rows(run, "requests", REQUESTS)}
    assert times == {0: rows(alone, "requests", REQUESTS)[0][3], 1: 160}


def test_idle_starts_cost_host_time_once_per_idleness() -> None:
    """Prefills at 0 and at 1000 meet an idle engine and last 7 ns longer; the one that queues does not."""
    run = play([(0, 5, 1), (1000, 3, 1), (1050, 3, 1)], idle_ns=7)
    assert rows(run, "steps", STEPS) == [(0, 117, 1, 0, 5), (1000, 113, 1, 0, 3), (1113, 106, 1, 0, 3)]


def test_heat_stretches_prefills_and_not_decodes() -> None:
    """With all heat at once and twice the time at full heat, prefills last twice as long, decodes as before."""
    hot = Heat(Throttle(gain=1.0, rest=0.0, tau_s=1e-15))
    run = play([(0, 5, 3)], heat=hot)
    assert rows(run, "steps", STEPS) == [(0, 220, 1, 0, 5), (220, 115, 2, 1, 0)]


def test_shared_blocks_are_read_once() -> None:
    """Two decodes of context 9 that share 2 blocks of 4 wait for 18 - 2 * 3 tokens, if each holder spares 3."""
    clock, tables = Clock(), RunTables()
    limits = Limits(blocks=100, block_size=4, prefix_caching=True, max_repeat=1 << 30)
    engine = Engine(clock, Scheduler(limits, make_policy("fcfs")), Toy(), tables, spared=3.0)
    clock.at(0, lambda _: engine.submit(0, 8, 9, 0, (1, 2)))
    clock.at(200, lambda _: engine.submit(1, 9, 3, 0, (1, 2)))
    clock.play()
    steps = rows(Run([("engine", tables)], {}), "steps", (*STEPS, "context_tokens"))
    shared = [row for row in steps if row[3] == 2]
    assert shared == [
        (start, 100 + 20 + context - 6, n, 2, 0, context) for start, _, n, _, _, context in shared
    ]
    assert shared


def test_the_way_to_the_client_is_part_of_what_it_sees() -> None:
    """With a delay of 1000 ns each request is served 1000 ns later and its arrival noted when it was sent.

    Under a cap of one request, the next is sent when the client has the last token, which takes another delay.
    """
    clock, tables = Clock(), RunTables()
    scheduler = Scheduler(Limits(blocks=100, block_size=4), make_policy("fcfs"))
    workload = Workload(np.array([0, 0]), np.array([5, 5]), np.array([1, 1]), cap=1)
    source = Source(clock, workload, 4, False, delay_ns=1000)
    engine = Engine(clock, scheduler, Toy(), tables, on_gone=source.gone)
    source.start(engine)
    clock.play()
    run = Run([("engine", tables)], {})
    assert rows(run, "requests", REQUESTS) == [(0, 0, 1110, 1110), (1, 1110, 2220, 2220)]


def test_a_scenario_says_which_engine_serves_it() -> None:
    """10 ms more per decode iteration is about 10 ms more per token; an unknown version names the known ones."""
    quick, slow = (
        simulate_system(Plan.of(load_one("small-h100", [f"engine.decode_overhead_s={s}"])), "fcfs")
        for s in (0.0, 0.01)
    )
    longer = slow.summary()["tpot_p50"] - quick.summary()["tpot_p50"]
    assert 0.008 < longer < 0.02
    with pytest.raises(ValueError, match=r"unknown engine version 'vllm-9'.*known: vllm-0.14"):
        Plan.of(load_one("small-h100", ['engine.version="vllm-9"']))


def test_a_profile_without_the_servers_links_is_refused() -> None:
    """An RTX card has no NVLink, so it cannot stand in for the GPUs of an NVLink server; alone it can."""
    with pytest.raises(ValueError, match=r"^machine.profile: rtxpro6000 has no nvlink, which 8xH100 needs$"):
        Plan.of(load_one("small-h100", ['machine.profile="rtxpro6000"']))
    alone = [
        'machine.server="1xRTXPRO6000"',
        "machine.gpus=[0]",
        "machine.donors=[]",
        'model.name="llama-3.1-8b"',
        "engine.kv_blocks=500",
        "workload.requests=5",
    ]
    plan = Plan.of(load_one("small-h100", alone))
    assert plan.notes == ()
    assert simulate_system(plan, "fcfs").summary()["requests_done"] == 5


def test_what_was_never_measured_is_told() -> None:
    """A model of other shapes than those timed on a card gives a note per kind of kernel."""
    changes = [
        'machine.server="1xRTX4090"',
        "machine.gpus=[0]",
        "machine.donors=[]",
        'model.name="qwen2.5-7b"',
    ]
    notes = Plan.of(load_one("small-h100", [*changes, "engine.kv_blocks=300"])).notes
    assert [note.split(" of ")[0] for note in notes] == [
        f"rtx4090: {kind}" for kind in ("products", "decode attention", "prefill attention")
    ]


def test_a_degree_nobody_measured_is_refused() -> None:
    """All-reduce between RTX cards was not measured: two of them are an error that names the profile."""
    changes = [
        'machine.server="4xL40S"',
        'machine.profile="rtx4090"',
        "machine.gpus=[0,1]",
        "machine.donors=[]",
        "model.tp=2",
        "engine.kv_blocks=300",
    ]
    with pytest.raises(UserError, match=r"^rtx4090: all-reduce between 2 GPUs was not measured"):
        simulate_system(Plan.of(load_one("small-h100", changes)), "fcfs")
