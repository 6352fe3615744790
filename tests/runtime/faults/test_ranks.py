"""Two ranks of one engine, half the model and half the cache each, and each with memory of its own donor."""

import signal
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from fault_model import MIB, make_runner, make_scheduler
from fault_world import World
from lease_stage import Actor, eventually

from aquasim.runtime.executor import Executor
from aquasim.runtime.executor.ranks import Follower, OutOfStepError

NEAR = {"rank0": ["d0"], "rank1": ["d1"]}
BLOCKS = MIB // 4096
"""Blocks of half the heads in an extent."""


@pytest.fixture
def ranks(world: World) -> list[Actor]:
    """Give two ranks that lease an extent each, rank 0 from donor `d0`, rank 1 from `d1`."""
    world.lead = world.coordinator(near=NEAR)
    for name in ("d0", "d1"):
        world.lend(name)
    meet = str(Path(world.folder, "ranks"))
    started = [world.start("engine", f"rank{rank}", rank=rank, world=2, meet=meet) for rank in range(2)]
    for actor in started:
        actor.ask("want", MIB)
    world.engine = started[0]
    assert eventually(lambda: world.engine.ask("state")["peer"] == BLOCKS)
    return started


def in_step(ranks: list[Actor]) -> list[dict[str, Any]]:
    """Return both ranks' state once both have done the same."""
    assert eventually(lambda: not any(rank.ask("state")["busy"] for rank in ranks))
    states = [rank.ask("state") for rank in ranks]
    assert states[0]["steps"] == states[1]["steps"] > 0
    assert states[0]["peer"] == states[1]["peer"]
    assert states[0]["commands"] == states[1]["commands"]
    return states


def test_two_ranks_say_what_one_says(world: World, ranks: list[Actor]) -> None:
    """Each pages its own half out to its own donor and back; tokens, steps and commands are one rank's."""
    world.submit()
    world.finish()
    for state in in_step(ranks):
        assert state["moved"] > 20 * 4096
        assert state["most_held"] > 12
        assert state["repaired"] == 0
    assert [lease[0] for rank in ranks for lease in rank.ask("leases")] == ["d0", "d1"]
    world.leave(ranks[1])


@pytest.mark.parametrize("victim", [0, 1])
def test_one_ranks_donor_reclaims(world: World, ranks: list[Actor], victim: int) -> None:
    """The tier is as large as the poorer rank's: its memory goes back, both ranks go on in step without the tier."""
    ranks[victim].ask("hold", "out")
    world.submit()
    assert eventually(lambda: ranks[victim].ask("caught"))
    donor = world.donors[f"d{victim}"]
    donor.ask("reclaim", MIB)
    assert eventually(lambda: not ranks[victim].ask("leases")[0][3])
    ranks[victim].ask("free")
    assert eventually(lambda: donor.ask("regained") == MIB)
    world.finish()
    assert [state["peer"] for state in in_step(ranks)] == [0, 0]
    donor.ask("donate", MIB)
    assert eventually(lambda: world.engine.ask("state")["peer"] == BLOCKS)
    world.submit(4, first=8)
    world.finish()
    in_step(ranks)
    world.leave(ranks[1])


def test_one_ranks_donor_dies(world: World, ranks: list[Actor]) -> None:
    """kill -9 of rank 1's donor: its half of the pages is read and moved on, rank 0's is left alone."""
    world.submit()
    assert eventually(lambda: world.engine.ask("state")["most_held"] > 4)
    world.donors.pop("d1").kill()
    assert eventually(lambda: ranks[1].ask("leases") == [])
    world.finish()
    assert [state["repaired"] for state in in_step(ranks)] == [0, 0]
    world.leave(ranks[1])


def test_a_page_that_decays_at_one_rank_is_computed_again_at_both(world: World, ranks: list[Actor]) -> None:
    """Half a page is spoilt: both halves are computed again, in one pass, and no token changes."""
    world.submit()
    while not world.engine.ask("pause"):
        world.engine.ask("resume")
    assert world.donors["d1"].ask("flip", "rank1", 0, 3) > 0
    world.engine.ask("resume")
    world.finish()
    states = in_step(ranks)
    assert states[0]["repaired"] == states[1]["repaired"] > 0
    assert states[0]["spoilt"] == 0
    world.leave(ranks[1])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_lost_or_held_up(world: World, ranks: list[Actor], number: int) -> None:
    """Killed, it takes the engine with it, which says so; stopped and continued, nobody notices."""
    world.submit()
    assert eventually(lambda: world.engine.ask("state")["most_held"] > 4)
    ranks[1].signal(number)
    if number == signal.SIGSTOP:
        ranks[1].go()
        world.finish()
        in_step(ranks)
        world.leave(ranks[1])
    else:
        assert eventually(lambda: failure(world.engine))
        assert "rank 1 is gone" in failure(world.engine) or "Connection" in failure(world.engine)


def test_a_rank_that_computes_something_else_says_so() -> None:
    """Other tokens than rank 0's: it ends rather than going on with a cache of its own."""
    ours, theirs = Pipe()
    executor = Executor(make_scheduler("fcfs"), make_runner())
    follower = Follower(executor, theirs)
    orders: list[tuple[Any, ...]]
    orders = [("submit", 0, 0, [1, 2, 3], 4, {}), ("decide", 1), ("begin", 2), ("end", 3, {0: -1})]
    for words in orders:
        ours.send(words)
    with pytest.raises(OutOfStepError, match="we computed"):
        follower.run()
    ours.close()
    theirs.close()


def failure(engine: Actor) -> str:
    """Return why an engine has ended, or nothing."""
    try:
        engine.ask("state")
    except RuntimeError as error:
        return str(error)
    return ""
