"""Fairness of time slices: what AQUA promises of service among equals, and what newcomers may take.

Bounds are in generated tokens. They are exact in the regime the mechanism is made for: a slice no longer than a
block, so that the one block of headroom that a decision leaves each request lasts for the slice. With longer
slices somebody may be paged out within one, and is then behind by up to another slice.
"""

from collections.abc import Iterable
from itertools import groupby

import pytest
from driver import Driver, Job, Load
from hypothesis import given, settings
from hypothesis import strategies as st
from loads import Mode

from aquasim.core import Limits, make_policy

SLICES = (1, 2, 6)
MODES = ("chunked", "prompt-only")
BLOCK = 8
LONGEST_TRANSFER = 4
"""Time units, which are decode iterations, that a transfer of the driver takes at most."""


def limits(blocks: int, mode: Mode) -> Limits:
    """Return an engine that prefills every prompt in one iteration and has all the tier space it wants."""
    return Limits(
        blocks=blocks,
        block_size=BLOCK,
        max_num_batched_tokens=1024,
        prefill=mode,
        tiers=(("host", 10_000),),
    )


def gaps(driver: Driver, ids: Iterable[int]) -> list[int]:
    """Return, after each instant with tokens, the spread of service among the unfinished of `ids`.

    Starts once all have their first token, ends when one or none is left.
    """
    have = dict.fromkeys(ids, 0)
    found = []
    for _, tokens in groupby(driver.tokens, key=lambda token: token[0]):
        have.update({id: count for _, id, count in tokens if id in have})
        left = [count for id, count in have.items() if count < driver.load.jobs[id][2]]
        if min(have.values()) > 0 and len(left) > 1:
            found.append(max(left) - min(left))
    return found


EQUALS = {
    "count": st.integers(2, 8),
    "prompt": st.integers(1, 31),
    "output": st.integers(10, 60),
    "spare": st.integers(0, 20),
    "seed": st.integers(0, 10**6),
}


def run_equals(
    policy: str, slice_length: int, mode: Mode, case: dict[str, int], **options: object
) -> list[int]:
    """Serve equal requests that come together and do not all fit; return their spread over time."""
    longest = -(-(case["prompt"] + case["output"]) // BLOCK)
    blocks = longest + 1 + case["spare"]
    jobs: list[Job] = [(0, case["prompt"], case["output"], 0, ())] * case["count"]
    chosen = make_policy(policy, slice_length=slice_length, **options)
    driver = Driver(limits(blocks, mode), chosen, Load(jobs), case["seed"], check=False).run()
    return gaps(driver, range(len(jobs)))


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("slice_length", SLICES)
@settings(max_examples=40, deadline=None)
@given(case=st.fixed_dictionaries(EQUALS))
def test_equals_never_differ_by_more_than_a_slice(
    slice_length: int, mode: Mode, clamp: bool, case: dict[str, int]
) -> None:
    """`cfs`: equal prompts that come together, too many for memory, stay within one slice of tokens.

    A prompt that did not fit beside the first ones starts an iteration late and catches up within the next slice.
    """
    spread = run_equals("cfs", slice_length, mode, case, clamp=clamp)
    assert max(spread[slice_length + 1 :], default=0) <= slice_length


@pytest.mark.parametrize("policy", ["cfs", "aqua"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("slice_length", SLICES)
@settings(max_examples=30, deadline=None)
@given(case=st.fixed_dictionaries(EQUALS))
def test_overlap_adds_at_most_a_slice_and_the_time_of_the_transfers(
    slice_length: int, mode: Mode, policy: str, case: dict[str, int]
) -> None:
    """Others go on meanwhile: equals stay within two slices and what fits in the time of a way out and in."""
    options = {"overlap": True} if policy == "cfs" else {}
    spread = run_equals(policy, slice_length, mode, case, **options)
    assert max(spread, default=0) <= 2 * slice_length + 2 * LONGEST_TRANSFER


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("slice_length", SLICES)
def test_the_bound_is_reached(slice_length: int, mode: Mode) -> None:
    """Three equals of which one fits differ by exactly one slice again and again: the bound is tight."""
    case = {"count": 3, "prompt": 8, "output": 40, "spare": 0, "seed": 0}
    spread = run_equals("cfs", slice_length, mode, case)
    assert max(spread) == slice_length
    assert spread.count(slice_length) > 1


def passed_by(slice_length: int, mode: Mode, blocks: int, arrival: int, seed: int) -> tuple[int, int]:
    """Let a request join two older equals of which all fit at first.

    Returns:
        How many instants with tokens passed the newcomer by before it had caught up with the least served, and
        the greatest difference after that.
    """
    jobs: list[Job] = [(0, 16, 80, 0, ()), (0, 16, 80, 0, ()), (arrival, 16, 80, 0, ())]
    policy = make_policy("cfs", slice_length=slice_length)
    driver = Driver(limits(blocks, mode), policy, Load(jobs), seed, check=False).run()
    have, missed, spread, caught_up = [0, 0, 0], 0, [], False
    for _, group in groupby(driver.tokens, key=lambda token: token[0]):
        tokens = {id: count for _, id, count in group}
        missed += have[2] > 0 and 2 not in tokens and not caught_up
        for id, count in tokens.items():
            have[id] = count
        caught_up = caught_up or have[2] >= min(have[:2])
        if caught_up and max(have) < 80:
            spread.append(max(have) - min(have))
    assert caught_up
    return missed, max(spread, default=0)


LATE = {"blocks": st.integers(13, 24), "arrival": st.integers(30, 59), "seed": st.integers(0, 10**6)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("slice_length", SLICES)
@settings(max_examples=30, deadline=None)
@given(case=st.fixed_dictionaries(LATE))
def test_a_later_arrival_is_served_first_until_it_has_caught_up(
    slice_length: int, mode: Mode, case: dict[str, int]
) -> None:
    """Unclamped: a newcomer decodes in every iteration until it has as many tokens as the least served.

    Then the bound holds.
    """
    missed, spread = passed_by(slice_length, mode, **case)
    assert missed == 0
    assert spread <= slice_length


def test_a_shortage_within_a_slice_does_not_hit_the_newcomer() -> None:
    """Of all running requests the least served is not the one to lose its memory."""
    assert passed_by(slice_length=2, mode="chunked", blocks=14, arrival=30, seed=0)[0] == 0


def old_tokens(clamp: bool, mode: Mode) -> list[int]:
    """Return when an old request generates its tokens around a stream of newcomers that is more than memory holds.

    Sixty newcomers of 24 tokens come every 6 iterations from 40 to 394; two or three requests fit.
    """
    jobs: list[Job] = [(0, 8, 80, 0, ()), *[(40 + 6 * i, 8, 24, 0, ()) for i in range(60)]]
    policy = make_policy("cfs", slice_length=6, clamp=clamp)
    driver = Driver(limits(12, mode), policy, Load(jobs), check=False).run()
    return [time for time, id, _ in driver.tokens if id == 0]


@pytest.mark.parametrize("mode", MODES)
def test_a_stream_of_newcomers_starves_an_old_request_unless_clamped(mode: Mode) -> None:
    """Released: not one token while memory is full of newcomers; clamped: two slices at least."""
    full, end = 100, 40 + 6 * 60
    assert not [time for time in old_tokens(False, mode) if full <= time < end]
    assert len([time for time in old_tokens(True, mode) if full <= time < end]) >= 2 * 6
