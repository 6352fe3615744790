"""NEO's requirements N1 and N4 to N14 (its scheduler): lanes, queues, limits, choices; named as in its fact sheet."""

import random
import time
from typing import Any

import pytest
from driver import Driver, Load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loads import both
from player import Player
from tables import predictor

from aquasim.core import Aborted, Lanes, Limits, Step, Transfer, make_policy, replay
from aquasim.core.policies.base import Policy
from aquasim.core.predictor import Copying
from aquasim.core.request import Request, State
from aquasim.core.sides import Side, remains

LANED = ("neo", "gpu-only", "fastdecode")


def policy(name: str, machine: dict[str, Any] | None = None, **options: Any) -> Policy:
    """Return a policy with tables."""
    made = make_policy(name, **options)
    made.predictor = predictor(**(machine or {}))
    return made


def sizes(**changes: Any) -> Limits:
    """Return an engine with 20 blocks of 4 tokens on the GPU and 400 on the host."""
    fixed: dict[str, Any] = {"blocks": 20, "block_size": 4, "max_num_seqs": 64, "max_num_batched_tokens": 400}
    return Limits(**{**fixed, "tiers": (("host", 400),), **changes})


def steps(driver: Driver) -> list[Step]:
    """Return the steps that a driver was given."""
    return [command for command in driver.commands if isinstance(command, Step)]


def random_case(seed: int) -> tuple[Limits, Load, dict[str, Any]]:
    """Return a small engine with a host, a load for it, and a machine on which the host is of some use, or none."""
    rng = random.Random(seed)
    blocks = rng.randint(6, 40)
    limits = sizes(
        blocks=blocks,
        max_num_seqs=rng.choice([2, 4, 64]),
        max_num_batched_tokens=blocks * 4 * rng.choice([1, 2]),
        tiers=(("host", blocks * rng.choice([1, 2, 10])),),
        max_repeat=rng.choice([1, 1 << 30]),
    )
    room = blocks * 4
    jobs: list[Any] = [
        (rng.randint(0, 60), rng.randint(1, room // rng.choice([1, 2, 4])), rng.randint(1, room // 2), 0, ())
        for _ in range(rng.randint(1, 25))
    ]
    aborts = {rng.randint(0, 100): [rng.randrange(len(jobs))] for _ in range(rng.randint(0, 3))}
    machine = {
        "host": rng.choice([0.01, 1.0, 5.0, 50.0]),
        "launch": rng.choice([0.0, 300.0, 2000.0]),
        "copies": {"host": Copying(0.0, rng.choice([0.0, 1e9]))},
    }
    return limits, Load(jobs, aborts), machine


@pytest.mark.parametrize("name", LANED)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9))
def test_everyone_ends_and_no_invariant_breaks(name: str, seed: int) -> None:
    """Random engines, loads, hosts and aborts: every request ends, blocks are owned once, nothing stands still."""
    limits, load, machine = random_case(seed)
    driver = Driver(limits, policy(name, machine), load, seed).run()
    assert set(driver.outcome) == set(range(len(load.jobs)))
    assert driver.scheduler.pool.free == limits.blocks
    assert all(pool.held == 0 for pool in driver.scheduler.pager.tiers.values())
    assert not driver.scheduler.requests
    assert not driver.scheduler.paged


@pytest.mark.parametrize("name", LANED)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_replaying_the_events_gives_the_same_commands(name: str, seed: int) -> None:
    """A recorded event stream, fed to a fresh scheduler with the same tables, yields every command again."""
    limits, load, machine = random_case(seed)
    driver = Driver(limits, policy(name, machine), load, seed, check=False).run()
    assert replay(limits, policy(name, machine), driver.records) == driver.commands


@pytest.mark.parametrize("name", LANED)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9))
def test_runs_are_what_single_iterations_are(name: str, seed: int) -> None:
    """Every token comes at the same time whether iterations are simulated one by one or in runs."""
    limits, load, machine = random_case(seed)
    stepped, fused = both(limits, lambda: policy(name, machine), load, seed)
    assert stepped == fused


class Whole(Driver):
    """A driver that looks where every request's cache is after each decision."""

    def _plan(self, now: int) -> None:
        super()._plan(now)
        moving = {request for flight in self.scheduler.pager.flights.values() for request in flight.requests}
        for request in set(self.scheduler.requests.values()) - moving:
            assert not (request.blocks and request.copy), f"{request.id} is in both tiers"
            held = len(request.blocks or request.copy)
            assert request.state is State.WAITING or held * 4 >= request.computed, (
                f"{request.id} is not whole"
            )


@pytest.mark.parametrize("name", LANED)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9))
def test_n1_a_request_is_whole_in_one_tier(name: str, seed: int) -> None:
    """All of its cache on the GPU or all of it on the host, but while it moves."""
    limits, load, machine = random_case(seed)
    driver = Whole(limits, policy(name, machine), load, seed).run()
    assert set(driver.outcome) == set(range(len(load.jobs)))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_n4_sub_batch_1_decodes_on_the_host_only(seed: int) -> None:
    """Prefills and the GPU's decodes are sub-batch 0's: who decodes on the host is in neither, and in one lane."""
    limits, load, machine = random_case(seed)
    driver = Driver(limits, policy("neo", machine), load, seed).run()
    decoding: set[int] = set()
    for step in steps(driver):
        decoding = decoding - set(step.left) | set(step.joined)
        lanes = step.lanes or Lanes()
        hosted = [*lanes.first, *lanes.second]
        assert len(set(hosted)) == len(hosted)
        assert not set(hosted) & (decoding | {chunk.request for chunk in step.chunks})
        assert set(lanes.staged) <= {chunk.request for chunk in step.chunks}
        decoding -= {id for id in decoding if id not in driver.todo and driver.outcome.get(id) == "aborted"}


def test_n6_a_prompt_bound_for_the_host_is_staged_and_holds_no_gpu_blocks_afterwards() -> None:
    """The GPU is full: a newcomer's prompt is computed there all the same, and its cache is the host's."""
    player = Player(sizes(max_repeat=1), policy("neo"), [(0, 70, 4), (1, 30, 3)])
    log = player.play(until=2)
    assert log[1] == "1: step1 decode 1@70 +0 1[0:30]! staged 1"
    held = player.scheduler.pool.held
    assert held == player.scheduler.blocks_for(71)
    assert player.scheduler.requests[1].copy_tier == "host"


def test_n8_in_an_iteration_of_the_gpu_alone_the_hosts_requests_stand_still() -> None:
    """A host that nothing hides is not used while the GPU has work; the request there gets no token."""
    slow = policy("neo", {"host": 1e6}, faithful=True)
    player = Player(sizes(max_repeat=1), slow, [(0, 70, 6), (1, 30, 3)])
    log = player.play(until=6)
    assert not any("host" in line for line in log[2:])
    assert player.todo[1] == 2  # the one that its prompt made


def test_n9_the_newest_is_swapped_out_to_the_front_and_the_oldest_comes_back_up_to_95_percent() -> None:
    """Memory runs out: the last to come goes first, ahead of whom the host has already; returns are in its order."""
    slow = {"host": 1e6}
    jobs = [(0, 32, 30), (0, 32, 30), (1, 30, 8)]
    player = Player(sizes(max_repeat=1), policy("neo", slow, faithful=True), jobs)
    log = player.play({10: Aborted(0)}, until=12)
    assert "staged 2" in log[1]
    assert [line for line in log if " host 1:" in line] == ["9: t0 out host 1:10", "10: t1 in host 1:10 2:8"]


@pytest.mark.parametrize(("prompt", "back"), [(71, True), (72, False)])
def test_n9_a_request_returns_up_to_19_of_20_blocks(prompt: int, back: bool) -> None:
    """95 % of 20 blocks is 19: beside one block in use, 18 may return, 19 may not."""
    jobs = [(0, 1, 9), (0, 70, 2), (1, prompt, 5)]
    log = Player(sizes(max_repeat=1), policy("neo", {"host": 1e6}, faithful=True), jobs).play(until=3)
    assert "staged 2" in log[1], log
    assert any("in host 2:18" in line for line in log) == back, log


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_n9_never_out_and_in_at_once(seed: int) -> None:
    """No decision swaps both ways."""
    limits, load, machine = random_case(seed)
    driver = Driver(limits, policy("neo", machine), load, seed).run()
    for commands in driver.decisions:
        assert len({command.kind for command in commands if isinstance(command, Transfer)}) < 2


def test_n10_once_a_prompt_goes_to_the_host_later_ones_do_too() -> None:
    """The third prompt would fit the GPU, and is staged: the second did not."""
    player = Player(sizes(max_repeat=1), policy("neo"), [(0, 40, 4), (0, 60, 4), (0, 20, 4)])
    assert player.play(until=1) == ["0: step0 0[0:40]! 1[0:60]! 2[0:20]! staged 1,2"]


def test_n10_the_host_keeps_room_for_all_of_the_gpu() -> None:
    """With 25 blocks on the host and 20 on the GPU, prompts get 5: the third of 2 blocks waits."""
    jobs = [(0, 76, 4), *[(0, 8, 4)] * 3]
    player = Player(sizes(max_repeat=1, tiers=(("host", 25),)), policy("neo"), jobs)
    assert player.play(until=1)[0].endswith("1[0:8]! 2[0:8]! staged 1,2")


def side(prompts: tuple[int, ...] = (), decodes: int = 0, tokens: int = 0) -> Side:
    """Return a sub-batch on the default machine."""
    made = Side(predictor())
    for number, prompt in enumerate(prompts):
        made.prefill(Request(number, 0, prompt, 1, 0, (), None))
    if decodes:
        made.decode(decodes, tokens)
    return made


def test_n11_what_remains_is_the_other_lanes_products_and_ones_own_attention_less_the_host() -> None:
    """By hand, on the default machine: products 1000 ns up to 128 tokens and 8 for each more, launch 100."""
    first, second = side((200,), 10, 1000), side()
    for id in range(2):
        request = Request(id, 0, 300, 9, 0, (), None)
        second.push(request)
    linear = 1000 + 8 * (210 - 128)
    attention = 200 * 2 + 1000 * 0.1
    assert remains([first, second]) == pytest.approx((1000 + attention - 100, linear - 620 - 100))


def test_n11_decodes_join_while_both_lanes_hide_the_host_and_alternate_to_the_slack() -> None:
    """First to sub-batch 1; after one that did not fit, nobody as long."""
    jobs = [(0, 64, 60), (1, 40, 30), (1, 60, 30), (1, 20, 30), (1, 60, 30), (1, 10, 30)]
    machine = {"host": 8.0, "launch": 100.0, "flat": 1000.0, "kv": 0.0}
    log = Player(sizes(max_repeat=1), policy("neo", machine, faithful=True), jobs).play(until=5)
    # Each side hides 900 ns. 1: 41 tokens, 348 ns. 2: 61, 508, to the side with more left. 3: 21 more for 1's, 516
    # against 508. 4: 61 more for 2's would be 996, so nobody of 61 or longer; 5 goes where 4 was tried.
    assert log[4] == "4: step4 decode 1@67 host0 2,5 host1 1,3"


@pytest.mark.parametrize(("beside", "staged"), [(126, True), (127, False)])
def test_n12_host_bound_prompts_leave_the_gpus_plan_while_128_tokens_remain(
    beside: int, staged: bool
) -> None:
    """With 127 tokens beside it (a decode is one) a prompt stays; with 128 it is dropped, and waits."""
    engine = sizes(blocks=60, max_repeat=1, max_num_batched_tokens=800)
    jobs = [(0, 236 - beside, 4), (1, beside, 3), (1, 60, 4)]
    log = Player(engine, policy("neo", {"host": 1e6}, faithful=True), jobs).play(until=2)
    assert ("staged 2" in log[-1]) == staged, log


def test_n13_lanes_only_where_they_serve_more_per_time() -> None:
    """Twice the products' time for twice the requests is no gain: beside four, four do not pay, five do."""
    machine = {"flat": 1000.0, "kv": 0.0, "host": 0.1, "launch": 0.0}
    for hosted, lanes in ((4, False), (5, True)):
        jobs = [(0, 16, 40)] * 4 + [(1, 20, 40)] * hosted
        log = Player(sizes(max_repeat=1), policy("neo", machine, faithful=True), jobs).play(until=5)
        assert ("host1" in log[-1]) == lanes, log


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_n14_prompts_start_in_their_order(seed: int) -> None:
    """Committed prefills are a prefix of the waiting queue: first starts follow arrival."""
    limits, load, machine = random_case(seed)
    driver = Driver(limits, policy("neo", machine), Load(load.jobs), seed).run()
    started: list[int] = []
    for step in steps(driver):
        started += [chunk.request for chunk in step.chunks if chunk.request not in started]
    taken = [id for id in range(len(load.jobs)) if driver.outcome[id] != "rejected"]
    assert started == sorted(taken, key=lambda id: (load.jobs[id][0], id))


# --- livelocks -------------------------------------------------------------------------------------------------


def test_a_long_request_alone_on_the_host_stands_still_as_released_and_not_here() -> None:
    """Longer than 95 % of the GPU, nobody else about: NEO decides nothing for ever; guarded, it goes back."""
    jobs = [(0, 60, 4), (1, 78, 2)]
    stuck = Player(sizes(max_repeat=1), policy("neo", {"host": 1e6}, faithful=True), jobs)
    log = stuck.play(until=200)
    assert set(stuck.todo) == {1}
    assert int(log[-1].split(":")[0]) < 10
    guarded = Player(sizes(max_repeat=1), policy("neo", {"host": 1e6}), jobs)
    guarded.play(until=200)
    assert not guarded.todo


def test_a_full_host_holds_back_the_gpu_as_released_and_not_here() -> None:
    """A prompt that fits the GPU waits for ever for host blocks that it does not need; guarded, it starts at once."""
    jobs = [(0, 40, 30), (1, 20, 4)]
    engine = sizes(max_repeat=1, tiers=(("host", 22),))
    starts = {}
    for faithful in (True, False):
        log = Player(engine, policy("neo", faithful=faithful), jobs).play(until=80)
        starts[faithful] = [int(line.split(":")[0]) for line in log if "1[0:20]" in line]
    assert starts == {False: [1], True: []}


def test_prompts_go_only_to_a_host_that_decodes() -> None:
    """On a host that nothing hides, NEO puts a prompt there and brings it back; guarded, it waits for the GPU."""
    jobs = [(0, 70, 6), (1, 30, 3)]

    def moves(faithful: bool) -> list[str]:
        log = Player(sizes(max_repeat=1), policy("neo", {"host": 1e6}, faithful=faithful), jobs).play()
        return [line for line in log if "staged" in line or " in host" in line]

    assert len(moves(True)) == 2
    assert moves(False) == []


@pytest.mark.parametrize(("back_ns", "staged"), [(25.0, 1), (27.0, 0)])
def test_prompts_go_to_any_host_from_which_a_return_is_cheap(back_ns: float, staged: int) -> None:
    """30 tokens are 8 blocks and take 4 x (1000 + 60) ns by themselves: 26.5 ns a block are a twentieth."""
    copies = {"host": Copying(0.0, back_ns)}
    made = policy("neo", {"host": 1e6, "copies": copies})
    log = Player(sizes(max_repeat=1), made, [(0, 70, 6), (1, 30, 3)]).play()
    assert sum("staged" in line for line in log) == staged


def test_all_of_the_gpu_is_used_while_the_host_decodes_nobody() -> None:
    """Of 20 blocks a request of 17 may return beside one of 3; NEO, which keeps 5 % free, has it wait."""
    jobs = [(0, 3, 9), (0, 4, 6), (0, 66, 3)]
    back = {}
    for faithful in (True, False):
        log = Player(sizes(max_repeat=1), policy("neo", {"host": 1e6}, faithful=faithful), jobs).play()
        back[faithful] = [line for line in log if " in host" in line]
    assert back == {True: ["9: t1 in host 2:17"], False: ["6: t1 in host 2:17"]}


def test_a_host_without_a_free_block_lets_somebody_start_over() -> None:
    """FastDecode with every block held and every request at the end of its last: the newest gives way, all end."""
    engine = sizes(max_repeat=1, tiers=(("host", 20),), max_model_len=80)
    jobs = [(0, 36, 30), (0, 36, 30)]
    guarded = Player(engine, policy("fastdecode"), jobs)
    guarded.play(until=300)
    assert not guarded.todo
    stuck = Player(engine, policy("fastdecode", faithful=True), jobs)
    stuck.play(until=300)
    assert set(stuck.todo) == {0, 1}


# --- bad sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "part"),
    [
        ("neo", {"tiers": ()}, "host's KV cache of 0 blocks"),
        (
            "fastdecode",
            {"tiers": (("host", 19),)},
            "19 blocks of 4 tokens holds no request of max_model_len 80",
        ),
        ("neo", {"prefix_caching": True}, "neither prefix caching nor adapters"),
        (
            "gpu-only",
            {"max_num_batched_tokens": 79},
            "max_num_batched_tokens 79 must be at least max_model_len 80",
        ),
    ],
)
def test_an_engine_that_cannot_have_lanes_is_refused(name: str, changes: dict[str, Any], part: str) -> None:
    """Before anything runs, naming the sizes."""
    with pytest.raises(ValueError, match=part):
        Player(sizes(**changes), policy(name), [])


def test_n15_a_decision_over_500_requests_takes_under_3_ms() -> None:
    """Median CPU time of deciding who of 500 requests on the host decodes."""
    engine = Limits(
        blocks=400, block_size=16, max_num_seqs=1024, max_num_batched_tokens=8192, max_model_len=6000,
        tiers=(("host", 200_000),), max_repeat=1,
    )  # fmt: skip
    load = Load([(0, 400, 5000, 0, ()) for _ in range(510)])
    machine = {"flat": 1e6, "token": 7e3, "host": 1.0, "launch": 100.0}
    driver = Driver(engine, policy("neo", machine), load, check=False, limit=900)
    times: list[int] = []
    with pytest.raises(AssertionError, match="no progress"):  # the driver's limit: enough decisions are in
        _timed(driver, times)
    hosted = len(driver.scheduler.paged)
    assert hosted > 480
    assert sorted(times[-20:])[10] < 3_000_000, (hosted, times[-20:])


def _timed(driver: Driver, times: list[int]) -> None:
    """Run a driver and note the CPU time (ns) of each of its calls that plan a step."""
    inner = driver._plan

    def plan(now: int) -> None:
        idle = driver.scheduler.step is None
        start = time.process_time_ns()
        inner(now)
        if idle:
            times.append(time.process_time_ns() - start)

    driver._plan = plan  # type: ignore[method-assign]
    driver.run()
