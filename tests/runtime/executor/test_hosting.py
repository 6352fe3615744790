"""Lanes for real (NEO): tokens never change, whoever attends, whatever is swapped, staged or aborted."""

import math
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import predictor

from aquasim.core import Limits, Scheduler, Step, Transfer, make_policy, replay
from aquasim.core.policies.base import Policy
from aquasim.core.predictor import Copying
from aquasim.errors import UserError
from aquasim.records.run import Run
from aquasim.runtime.arenas import create
from aquasim.runtime.copy import HostCopier
from aquasim.runtime.engine import HostLanes, KvPool, LlamaConfig, Runner, random_weights
from aquasim.runtime.executor import Executor
from aquasim.runtime.executor.worker import Threaded
from aquasim.runtime.pager import Pager, Window

torch = pytest.importorskip("torch")

LANED = ("gpu-only", "neo", "fastdecode", "hybrid")
CONFIG = LlamaConfig(
    vocab=97, hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, intermediate=64, max_positions=256
)
SIZE = 4
WEIGHTS = random_weights(CONFIG, seed=3)
Job = tuple[list[int], int]


def policy(name: str, machine: dict[str, Any]) -> Policy:
    """Return a policy with tables."""
    made = make_policy(name)
    made.predictor = predictor(**{"copies": {"host": Copying(10.0, 10.0)}, **machine})
    return made


class Stage:
    """A tiny model whose cache holds a few requests, a host that attends, and an executor over both."""

    def __init__(
        self, name: str, blocks: int = 12, tier: int = 200, machine: dict[str, Any] | None = None,
        worker: Threaded | None = None,
    ) -> None:  # fmt: skip
        self.machine = machine or {}
        self.limits = Limits(
            blocks=blocks, block_size=SIZE, max_num_seqs=24, max_num_batched_tokens=64, max_model_len=40,
            tiers=(("host", tier),), max_repeat=1,
        )  # fmt: skip
        pool = KvPool.of(CONFIG, blocks, SIZE, fill=math.nan)
        self.arena = create("memfd", (tier + 1) * pool.block_bytes)
        memory = self.arena.tensor()[: (tier + 1) * pool.block_bytes]
        self.host = HostLanes(
            KvPool.of(CONFIG, tier, SIZE, memory=memory, fill=math.nan), CONFIG.heads, threads=2
        )
        self.runner = Runner(CONFIG, WEIGHTS, pool, max_seqs=24, host=self.host)
        self.copier = HostCopier()
        self.pager = Pager(self.copier, Window(pool.base, pool.block_bytes), "always")
        slots = self.pager.tier("host")
        slots.add("arena", self.arena.ptr, tier * pool.block_bytes)
        slots.grow(tier)
        self.time = 0
        self.scheduler = Scheduler(self.limits, policy(name, self.machine))
        self.executor = Executor(
            self.scheduler, self.runner, self.pager, now=self.tick, worker=worker, record_events=True
        )
        self.output: dict[int, list[int]] = {}

    def tick(self) -> int:
        """Return a virtual time that passes with each look."""
        self.time += 1000
        return self.time

    def submit(self, id: int, job: Job) -> None:
        """Send a request; its tokens are kept."""
        self.output[id] = []
        self.executor.submit(id, *job, on_token=lambda id, token, last: self.output[id].append(token))

    def steps(self) -> list[Step]:
        """Return the steps that were decided."""
        return [command for command in self.executor.commands if isinstance(command, Step)]

    def kinds(self) -> set[str]:
        """Return in which directions pages were swapped."""
        return {command.kind for command in self.executor.commands if isinstance(command, Transfer)}

    def close(self) -> None:
        """Check that nothing is left, and free memory."""
        self.scheduler.check()
        assert self.scheduler.pool.free == self.limits.blocks
        assert self.scheduler.pager.tiers["host"].held == 0
        assert self.runner.batch.count == 0
        assert self.executor.repaired == 0
        self.host.close()
        self.copier.close()


def jobs(seed: int, count: int, most: int = 14) -> list[Job]:
    """Return random prompts and output lengths."""
    rng = random.Random(seed)
    return [
        ([rng.randrange(97) for _ in range(rng.randint(2, most))], rng.randint(3, 14)) for _ in range(count)
    ]


_alone: dict[tuple[tuple[int, ...], int], list[int]] = {}


def alone(job: Job) -> list[int]:
    """Return what a request says by itself, on the device, never interrupted."""
    key = (tuple(job[0]), job[1])
    if key not in _alone:
        stage = Stage("gpu-only", tier=20)
        stage.submit(0, job)
        stage.executor.run()
        assert stage.host.computed == 0
        stage.close()
        _alone[key] = stage.output[0]
    return _alone[key]


def play(stage: Stage, load: list[Job], aborts: dict[int, int] | None = None, every: int = 1) -> None:
    """Submit a request every so many turns, abort some by turn, and run to the end."""
    aborts = dict(aborts or {})
    waiting = list(enumerate(load))
    turn = 0
    while waiting or stage.executor.busy:
        if waiting and turn % every == 0:
            stage.submit(*waiting.pop(0))
        if turn in aborts:
            stage.executor.abort(aborts[turn])
        stage.executor.turn()
        turn += 1


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("gpu-only", {}),
        ("neo", {}),
        ("neo", {"host": 0.01, "launch": 0.0}),
        ("neo", {"host": 1e6}),
        ("neo", {"host": 1e6, "copies": {"host": Copying(1e9, 1e9)}}),
        ("fastdecode", {}),
        ("hybrid", {"host": 0.01, "launch": 0.0}),
    ],
)
def test_tokens_never_change(name: str, machine: dict[str, Any]) -> None:
    """A load three times the cache: every request says what it says alone; and each did what it was to do.

    gpu-only swaps both ways and nothing on the host; neo decodes on either side and swaps, and on a host too slow it
    swaps only, or has prompts there if they come back for next to nothing; fastdecode decodes on the host only, in
    both sub-batches; hybrid is as neo, its copies beside compute.
    """
    stage, load = Stage(name, machine=machine), jobs(5, 14)
    play(stage, load)
    assert [stage.output[id] for id in range(14)] == [alone(job) for job in load]
    hosted = [step.lanes.first + step.lanes.second for step in stage.steps() if step.lanes]
    assert stage.host.computed == CONFIG.layers * sum(map(len, hosted))
    if name == "gpu-only":
        assert stage.kinds() == {"out", "in"}
        assert stage.host.computed == stage.host.staged == 0
    elif name == "fastdecode":
        assert any(step.lanes and step.lanes.first and step.lanes.second for step in stage.steps())
        assert stage.host.computed == CONFIG.layers * sum(count - 1 for _, count in load)
        assert stage.host.staged == sum(len(prompt) for prompt, _ in load) * CONFIG.layers * 2 * 2 * 8 * 4
        assert stage.pager.moved_bytes == 0
    else:
        assert stage.kinds() == {"out", "in"}
        assert stage.pager.moved_bytes > 0
        assert (stage.host.computed > 0) == (machine.get("host") != 1e6)
        assert (stage.host.staged > 0) == ("copies" not in machine)
    stage.close()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    name=st.sampled_from(LANED),
    blocks=st.sampled_from([10, 12, 20]),
    tier=st.sampled_from([12, 24, 100]),
    host=st.sampled_from([0.01, 1.0, 20.0, 1e6]),
    abort=st.booleans(),
)
def test_any_engine_and_load(seed: int, name: str, blocks: int, tier: int, host: float, abort: bool) -> None:
    """Random caches, hosts and aborts: whoever stays says what it says alone, all memory back, decisions replay."""
    rng = random.Random(seed)
    stage, load = Stage(name, blocks, tier, {"host": host, "launch": 0.0}), jobs(seed, 6, 12)
    aborts = {rng.randrange(4, 40): rng.randrange(6) for _ in range(3)} if abort else {}
    play(stage, load, aborts)
    run = Run([("stage", stage.executor.tables)], {})
    requests = run.columns("requests")
    assert sorted(requests["request"].tolist()) == list(range(6))
    for id in range(6):
        expected = alone(load[id])
        assert stage.output[id] == expected[: len(stage.output[id])]
        assert len(stage.output[id]) == len(expected) or id in aborts.values()
    assert stage.executor.log is not None
    assert replay(stage.limits, policy(name, stage.machine), stage.executor.log) == stage.executor.commands
    stage.close()


@pytest.mark.parametrize("stepping", [False, True])
def test_an_abort_while_the_host_decodes(stepping: bool) -> None:
    """Between two steps, or while one is out that the request is part of: its memory is back, others go on."""
    worker, load = Threaded(), jobs(5, 5)
    load[1] = (load[1][0], 14)
    stage = Stage("fastdecode", worker=worker if stepping else None)
    for id, job in enumerate(load):
        stage.submit(id, job)
    while stage.executor.sequences[1].hosted < 1 or stage.executor.stepping != stepping:
        stage.executor.turn()
    stage.executor.abort(1)
    stage.executor.run()
    worker.close()
    assert [stage.output[id] for id in (0, 2, 3, 4)] == [alone(load[id]) for id in (0, 2, 3, 4)]
    assert 1 < len(stage.output[1]) < load[1][1]
    spans = Run([("stage", stage.executor.tables)], {}).columns("spans")
    assert spans["lane"][spans["request"] == 1].tolist() == [1]
    stage.close()


@pytest.mark.parametrize("name", LANED)
def test_spans_say_in_which_steps_a_request_decoded_and_where(name: str) -> None:
    """Lane 1 covers just the steps that name a request for the host, lane 0 its other decodes."""
    stage, load = Stage(name), jobs(5, 12)
    play(stage, load)
    spans = Run([("stage", stage.executor.tables)], {}).columns("spans")
    covered: set[tuple[int, int]] = set()
    tokens = dict.fromkeys(range(12), 1)  # the first is the prompt's
    for request, first, last, lane in zip(
        *(spans[k] for k in ("request", "first_step", "last_step", "lane")), strict=True
    ):
        covered |= {(int(request), step) for step in range(first, last + 1) if lane}
        tokens[int(request)] += int(last - first + 1)
    hosted = {
        (id, step.step) for step in stage.steps() if step.lanes for id in step.lanes.first + step.lanes.second
    }
    assert covered == hosted
    if name == "fastdecode":
        assert tokens == {id: count for id, (_, count) in enumerate(load)}
    stage.close()


def test_what_is_wiped_on_the_host_changes_the_output() -> None:
    """Other bytes in the tier, other tokens: the host reads the very blocks that the scheduler counts."""
    stage, load = Stage("fastdecode"), jobs(5, 4)
    for id, job in enumerate(load):
        stage.submit(id, job)
    for _ in range(3):
        stage.executor.turn()
    stage.arena.scrub()
    stage.executor.run()
    assert [stage.output[id] for id in range(4)] != [alone(job) for job in load]
    stage.close()


def test_the_host_may_change_what_was_swapped_out() -> None:
    """Checksums are of pages that left as they are: a page that the host has appended to is not held for spoilt."""
    stage, load = Stage("neo", machine={"host": 0.01, "launch": 0.0}), jobs(8, 14)
    play(stage, load)
    assert "in" in stage.kinds()
    assert stage.pager.spoilt_blocks == 0
    stage.close()


def test_lanes_without_tables_or_without_a_host_are_refused() -> None:
    """One line that says what is missing, before anything runs."""
    limits = Stage("neo").limits
    runner: Any = type("Runner", (), {"host": None})()
    with pytest.raises(UserError, match="no tables were measured"):
        Executor(Scheduler(limits, make_policy("neo")), runner)
    with pytest.raises(UserError, match="the runner needs `host`"):
        Executor(Scheduler(limits, policy("neo", {})), runner)
