"""AQUA's requirements M11 to M15: what its time slices decide."""

from itertools import combinations, pairwise

import pytest
from driver import Driver, Load
from hypothesis import given, settings
from hypothesis import strategies as st
from player import Player, limits

from aquasim.core import POLICIES, Limits, Step, make_policy
from aquasim.reproduce.jobs import shared
from aquasim.sim.tenants.plan import SystemPlan

MODES = ("fcfs", "cfs-host", "intended")


def test_m11_modes_share_everything_but_the_policy() -> None:
    """FCFS, slices over the host and slices over a peer run the same requests on the same engine."""
    plans = [SystemPlan.of(shared("aqua/s1-responsiveness"), mode) for mode in MODES]
    engines = [plan.llms["codellama"] for plan in plans]
    for one, other in combinations(engines, 2):
        assert one.engine == other.engine
        assert one.blocks == other.blocks
        assert (one.workload.arrival == other.workload.arrival).all()
        assert (one.workload.prompt == other.workload.prompt).all()
        assert (one.workload.output == other.workload.output).all()
    policies = [plan.tenants["codellama"].policy for plan in plans]  # type: ignore[union-attr]
    assert policies == ["fcfs-v0", "cfs", "cfs"]


@pytest.mark.parametrize("length", [1, 2, 6, 16])
def test_m11_a_slice_has_a_length_six_if_not_said(length: int) -> None:
    """Who runs changes every `length` decode iterations; six by default (five repeats)."""
    jobs = [(0, 7, 40), (0, 7, 40)]
    policy = make_policy("cfs", **({} if length == 6 else {"slice_length": length}))
    tiers = (("host", 64),)
    player = Player(limits(blocks=13, max_model_len=48, tiers=tiers), policy, jobs)
    changes = [int(line.split(":")[0]) for line in player.play(until=50) if "in host" in line]
    assert len(changes) > 1
    gaps = {b - a for a, b in pairwise(changes)}
    assert {gap % length for gap in gaps} == {0}
    assert min(gaps) == length
    assert make_policy("cfs").slice_length == 6


def test_m12_the_least_served_run_up_to_the_first_that_does_not_fit() -> None:
    """Ascending generated tokens, a block of headroom each, no backfill: behind one too large, a small one waits."""
    jobs = [(0, 13, 9), (0, 21, 9), (0, 1, 9)]  # 5, 7 and 2 of 11 blocks with headroom
    sizes = limits(blocks=11, max_model_len=32, tiers=(("host", 64),), prefill="prompt-only")
    decoded = {}
    for backfill in (False, True):
        log = Player(sizes, make_policy("cfs", slice_length=2, backfill=backfill), jobs).play(until=9)
        decoded[backfill] = [line for line in log if "decode" in line]
    assert "decode 1@" in decoded[False][1], decoded
    assert "decode 2@" in decoded[True][1], decoded


def test_m12_arrivals_come_before_decodes_and_evict_no_more_than_they_need() -> None:
    """A newcomer of one block displaces one of three running requests, and is prefilled before anybody decodes."""
    jobs = [(0, 11, 12), (0, 11, 12), (0, 11, 12), (3, 7, 4)]
    sizes = limits(blocks=12, max_model_len=24, tiers=(("host", 64),), prefill="prompt-only")
    log = Player(sizes, make_policy("cfs"), jobs).play(until=8)
    at3 = [line for line in log if line.startswith("3:")]
    assert next(line for line in at3 if "out host" in line).count(":") == 2, at3
    assert "3[0:7]!" in at3[-1], at3
    assert "decode" not in at3[-1], at3


def test_m13_page_outs_move_new_and_dirty_blocks_page_ins_all() -> None:
    """The second page-out of a request moves its last, dirty block and what is new; a page-in moves every block."""
    jobs = [(0, 14, 12), (0, 14, 12)]
    tiers = (("host", 64),)
    log = Player(
        limits(blocks=7, max_model_len=28, tiers=tiers), make_policy("cfs", slice_length=4), jobs
    ).play()
    moves = [line.split(": ", 1)[1].split() for line in log if " host " in line]
    outs: dict[str, list[int]] = {}
    ins: dict[str, list[int]] = {}
    for words in moves:
        for move in (word for word in words[3:] if ":" in word):
            request, blocks = move.split(":")
            (outs if words[1] == "out" else ins).setdefault(request, []).append(int(blocks))
    again = [blocks for each in outs.values() for blocks in each[1:]]
    assert again, log
    assert all(blocks <= 2 for blocks in again), outs
    assert all(outs[request][0] >= 4 for request in outs), outs
    assert all(blocks >= 4 for each in ins.values() for blocks in each), ins


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**9), length=st.integers(1, 8))
def test_m14_equals_stay_within_a_slice(seed: int, length: int) -> None:
    """Two prompts of one size admitted together never differ by more than a slice of tokens."""
    sizes = Limits(
        blocks=8, block_size=4, max_num_seqs=8, max_model_len=28, tiers=(("host", 99),), max_repeat=1
    )
    load = Load([(0, 12, 14, 0, ()), (0, 12, 14, 0, ())])
    driver = Driver(sizes, make_policy("cfs", slice_length=length), load, seed).run()
    counts = {0: 0, 1: 0}
    for _, request, made in driver.tokens:
        counts[request] = made
        assert abs(counts[0] - counts[1]) <= length or 14 in counts.values(), driver.tokens


def _first_wait(log: list[str], request: int) -> int:
    """Iterations between a request's first page-out and its return."""
    out, back = (
        next(int(line.split(":")[0]) for line in log if f"{way} host {request}:" in line)
        for way in ("out", "in")
    )
    return back - out


def test_m14_a_later_arrival_is_served_first_unless_clamped() -> None:
    """A newcomer starts at zero and keeps its elder out until it has caught up; clamped, for one slice only."""
    jobs = [(0, 8, 30), (12, 8, 30)]
    sizes = limits(blocks=10, max_model_len=38, tiers=(("host", 64),))
    waits = {}
    for clamp in (False, True):
        log = Player(sizes, make_policy("cfs", slice_length=2, clamp=clamp), jobs).play(until=60)
        waits[clamp] = _first_wait(log, 0)
    assert waits == {False: 12, True: 2}  # the elder was 12 tokens ahead; a slice is 2


@pytest.mark.parametrize("policy", sorted(set(POLICIES) & {"cfs", "aqua", "mlfq"}))
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_m15_nobody_is_turned_away_while_swap_space_lasts(policy: str, seed: int) -> None:
    """With room in a tier for everybody, every request runs to its end and none is computed again."""
    sizes = Limits(blocks=10, block_size=4, max_num_seqs=8, tiers=(("host", 400),), max_repeat=4)
    load = Load([(i, 8 + i % 5, 6 + seed % 7, 0, ()) for i in range(12)])
    driver = Driver(sizes, make_policy(policy), load, seed).run()
    assert set(driver.outcome.values()) == {"finished"}
    prefilled = sum(c.tokens for step in driver.commands if isinstance(step, Step) for c in step.chunks)
    assert prefilled == sum(job[1] for job in load.jobs)


def test_m15_without_swap_space_pages_are_computed_again() -> None:
    """Where a tier is full the loser is recomputed, said by a chunk from token 0; nothing crashes, all finish."""
    sizes = Limits(
        blocks=8, block_size=4, max_num_seqs=8, max_model_len=28, tiers=(("host", 1),), max_repeat=1
    )
    load = Load([(0, 12, 14, 0, ()), (0, 12, 14, 0, ())])
    driver = Driver(sizes, make_policy("cfs", slice_length=4), load, 1).run()
    assert set(driver.outcome.values()) == {"finished"}
    starts = [c for step in driver.commands if isinstance(step, Step) for c in step.chunks if c.start == 0]
    assert len(starts) > 2


def turns(policy: str, count: int, blocks: int, tier: int) -> tuple[int, int]:
    """Return how often anybody lost its place, and the prompt tokens computed, of equal requests in slices of 4."""
    sizes = limits(blocks=blocks, max_model_len=48, tiers=(("host", tier),))
    driver = Driver(sizes, make_policy(policy, slice_length=4), Load([(0, 7, 30, 0, ())] * count), 1).run()
    assert set(driver.outcome.values()) == {"finished"}
    steps = [each for each in driver.commands if isinstance(each, Step)]
    tokens = sum(chunk.tokens for step in steps for chunk in step.chunks)
    return sum(len(step.preempted) for step in steps), tokens


def test_in_ours_nobody_makes_way_at_the_end_of_a_slice_whose_pages_no_tier_can_take() -> None:
    """Two in turns with a tier for both; with 3 blocks the first goes on, where `cfs` computes all again."""
    assert turns("aqua", 2, 12, 24)[0] > 4
    assert turns("aqua", 2, 12, 3)[0] <= 2
    assert turns("cfs", 2, 12, 3)[0] > 4


def test_in_ours_copies_of_those_that_run_make_room() -> None:
    """Four in memory for two, a tier for little more: residents' copies go, and no prompt is computed twice."""
    assert turns("aqua", 4, 20, 18) == (5, 4 * 7)
