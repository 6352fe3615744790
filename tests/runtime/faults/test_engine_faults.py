"""Faults of a machine on which an engine pages into other processes' memory: no token changes, nothing hangs.

What has to be borne, and the tests of it: here with an engine, donors and a coordinator as processes, elsewhere (in
coordinator/, executor/, pager/, ...) of the parts.

| fault | tests |
|---|---|
| donor killed, idle or in the middle of a copy | `test_donors_are_killed_...`, `test_a_killed_donors_pages_...` |
| engine killed | `test_the_engine_is_killed_...`, `test_a_killed_consumers_extents_...` |
| engine stopped past its lease | `test_the_engine_is_stopped_...`, `test_a_stopped_consumer_writes_nothing_...` |
| donor stopped | `test_donors_are_stopped`, `test_a_stopped_donor_is_aged_out_...` |
| coordinator killed or stopped | `test_the_coordinator_is_lost_...`, executor/test_leased, coordinator/test_faults |
| reclaim during page-out, page-in, prefetch | `test_a_reclaim_...`; between copies: executor/test_leased |
| nothing to lend, no room to map | `test_without_peers_...`, `test_too_much_memory_is_refused_...` |
| a page decays | `test_bits_flip_in_...`, pager/test_pager, executor/test_executor |
| a page of a shared prefix decays | `test_whoever_shares_a_spoilt_block_...` |
| wrong epoch, stale handle, PID taken anew | coordinator/test_handles, coordinator/test_identity, test_forgery |
| restored is not a no-op | `test_nothing_happens`: bytes moved; `test_bits_flip_and_nobody_looks`: output changes |
| slow path taken in silence | `test_nothing_happens`: transport; `test_a_probe_finds_bytes_that_never_arrived` |
| disk full | test_disk |
| tensor-parallel ranks: one's donor reclaims or dies | test_ranks |
| anything at random | test_chaos, coordinator/test_chaos; random schedules: core/test_invariants |
"""

import time
from typing import Any

import pytest
from fault_model import JOBS, MIB, SHARED, alone
from fault_world import World
from lease_stage import LEASE_S, eventually

SERIAL: dict[str, Any] = {"slice_length": 2}
MOMENTS = {
    "page-out": ("out", SERIAL),
    "page-in": ("in", SERIAL),
    "prefetch": ("in", {"slice_length": 2, "overlap": True}),
}
"""Which copies to hold up, and how the engine pages: before compute, or beside it."""
moments = pytest.mark.parametrize("moment", MOMENTS)


def catch(world: World, moment: str) -> None:
    """Open a world and hold up copies between the engine and its peers; some wait when this returns."""
    direction, options = MOMENTS[moment]
    world.open(options=options)
    world.engine.ask("hold", direction)
    world.submit()
    assert eventually(lambda: world.engine.ask("caught"))


def must_leave(world: World) -> bool:
    """Whether the engine knows that it has to leave all it leases."""
    leases = world.engine.ask("leases")
    return not any(writable for *_, writable in leases)


def test_nothing_happens(world: World) -> None:
    """Pages go out and come back over the path that was meant; the tokens are those of uninterrupted requests."""
    world.open()
    world.submit()
    state = world.finish()
    assert state["moved"] > 20 * 8192
    assert state["most_held"] > 12
    assert state["transports"] == ["memfd: host memory"]
    assert state["repaired"] == state["spilt"] == 0
    world.leave()


@moments
def test_a_reclaim_in_the_middle_of_a_copy(world: World, moment: str) -> None:
    """Both donors want their memory back while pages are on their way: they have it once those have landed."""
    catch(world, moment)
    for donor in world.donors.values():
        donor.ask("reclaim", MIB)
    assert eventually(lambda: must_leave(world))
    time.sleep(0.1)
    assert sum(donor.ask("regained") for donor in world.donors.values()) < 2 * MIB
    world.engine.ask("free")
    assert eventually(lambda: [d.ask("regained") for d in world.donors.values()] == [MIB, MIB])
    state = world.finish()
    assert state["repaired"] == state["peer"] == 0
    world.leave()


def test_one_donor_after_the_other_has_its_memory_back(world: World) -> None:
    """Each time what is parked there moves over to the other extent, byte for byte, while requests are served."""
    world.open()
    for turn, name in enumerate(("d0", "d1", "d0", "d1")):
        world.submit(8, first=8 * turn)
        assert eventually(lambda: world.engine.ask("state")["held"] > 8)
        world.donors[name].ask("reclaim", MIB)
        assert eventually(lambda: len(world.engine.ask("leases")) == 1)
        world.donors[name].ask("donate", MIB)
        assert eventually(lambda: len(world.engine.ask("leases")) == 2)
    assert world.finish()["repaired"] == 0
    world.leave()


@moments
def test_donors_are_killed_in_the_middle_of_a_copy(world: World, moment: str) -> None:
    """kill -9 of both while pages are on their way: what is parked with them is read and moved on."""
    catch(world, moment)
    for donor in world.donors.values():
        donor.kill()
    assert eventually(lambda: must_leave(world))
    world.engine.ask("free")
    assert eventually(lambda: world.engine.ask("leases") == [])
    assert world.finish()["repaired"] == 0
    world.donors.clear()
    world.leave()


@pytest.mark.parametrize("moment", ["page-out", "page-in"])
def test_the_engine_is_killed_in_the_middle_of_a_copy(world: World, moment: str) -> None:
    """kill -9: the donors' memory is free and zeros, and a new engine under the old name leases it and answers."""
    catch(world, moment)
    world.kill_engine()
    assert eventually(lambda: world.states() == ["free"] * 2)
    assert all(donor.ask("empty") for donor in world.donors.values())
    world.engine = world.serve()
    world.again()
    assert world.finish()["moved"] > 0
    assert {epoch for _, _, epoch, _ in world.engine.ask("leases")} == {2}
    world.leave()


def test_the_engine_is_stopped_past_its_lease(world: World) -> None:
    """SIGSTOP with a copy on its way: nobody gets its memory meanwhile; nothing is written once others have it."""
    catch(world, "page-out")
    world.engine.stop()
    other = world.consumer("other")
    other.ask("want", 2 * MIB)
    assert eventually(lambda: world.states() == ["revoked"] * 2)
    time.sleep(LEASE_S)
    assert other.ask("extents") == []
    world.engine.go()
    world.engine.ask("want", 0)
    world.engine.ask("free")
    assert eventually(lambda: len(other.ask("extents")) == 2)
    assert world.finish()["repaired"] == 0
    assert world.engine.ask("leases") == []
    assert other.ask("verify") == []
    world.leave()


def test_donors_are_stopped(world: World) -> None:
    """SIGSTOP of both: their leases run out and pages move on; serving never waits for them. They may come back."""
    world.open()
    world.submit()
    assert eventually(lambda: world.engine.ask("state")["most_held"] > 0)
    for donor in world.donors.values():
        donor.stop()
    assert eventually(lambda: world.engine.ask("leases") == [])
    assert world.finish()["repaired"] == 0
    for donor in world.donors.values():
        donor.go()
    assert eventually(lambda: len(world.engine.ask("leases")) == 2)
    world.submit(4, first=8)
    assert world.finish()["peer"] == 256
    world.leave()


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_coordinator_is_lost_in_the_middle_of_a_copy(world: World, how: str) -> None:
    """Past all leases nothing is written to peers: pages move to memory of our own and serving goes on without."""
    catch(world, "page-in")
    getattr(world.lead, how)()
    assert eventually(lambda: must_leave(world))
    world.engine.ask("free")
    state = world.finish()
    assert state["spilt"] == 2
    assert state["repaired"] == 0
    world.lead.go() if how == "stop" else world.coordinator()
    assert eventually(lambda: len(world.engine.ask("leases")) == 2)
    world.leave()


def park(world: World, jobs: dict[int, int], **options: Any) -> None:
    """Have jobs served until pages are parked with peers, and pause there."""
    world.open(**options)
    world.ask(jobs)
    while not world.engine.ask("pause"):
        world.engine.ask("resume")
        time.sleep(0.005)


def spoil(world: World) -> None:
    """Flip a bit in every 64 bytes that are lent, and go on."""
    assert sum(donor.ask("flip", "engine", 0, 7) for donor in world.donors.values()) == 2 * MIB // 64
    world.engine.ask("resume")


def test_bits_flip_in_parked_pages(world: World) -> None:
    """Checksums tell; what was parked is computed again, and counted; the tokens are the same."""
    park(world, {id: id for id in range(8)})
    spoil(world)
    state = world.finish()
    assert state["repaired"] > 0
    assert state["spoilt"] >= state["repaired"]
    world.leave()


def test_bits_flip_and_nobody_looks(world: World) -> None:
    """Without checksums the same damage changes what is said: parked pages are really read."""
    park(world, {id: id for id in range(8)}, check="off")
    spoil(world)
    answers: dict[int, list[int]] = {}
    assert eventually(lambda: len(answers.update(world.engine.ask("take")) or answers) == 8)
    assert {id: alone(id) for id in range(8)} != answers
    assert world.engine.ask("state")["repaired"] == 0
    world.leave()


def test_whoever_shares_a_spoilt_block_says_what_it_would_say_alone(world: World) -> None:
    """Requests that begin alike share blocks; spoilt and computed again, they mislead none of them."""
    shared = {id: JOBS + id for id in range(SHARED)}
    park(world, shared, options={"slice_length": 2, "prefix_caching": True})
    spoil(world)
    assert world.finish()["repaired"] > 0
    world.ask({id + 100: job for id, job in shared.items()})
    world.finish()
    world.leave()


@pytest.mark.parametrize(("cause", "host"), [("donor", 60), ("donor", 0), ("lease", 4), ("lease", 0)])
def test_without_peers_it_pages_to_the_host_and_then_recomputes(world: World, cause: str, host: int) -> None:
    """A donor without memory to lend, an engine without room to map: the next tier does, or none; no deadlock."""
    world.coordinator()
    donor = world.donor("big", extent_bytes=256 * MIB if cause == "lease" else 1 << 50)
    world.donors["big"] = donor
    world.engine = world.serve(want=0, host=host)
    if cause == "donor":
        with pytest.raises(RuntimeError, match="ArenaError"):
            donor.ask("donate", 1 << 50)
        world.engine.ask("want", 256 * MIB)
    else:
        donor.ask("donate", 256 * MIB)
        world.engine.ask("limit_address_space", 128 * MIB)
        world.engine.ask("want", 256 * MIB)
        assert eventually(lambda: world.engine.ask("state")["failure"])
        assert "Cannot allocate memory" in world.engine.ask("state")["failure"]
        assert eventually(lambda: world.states() == ["free"])
    world.submit()
    state = world.finish()
    assert state["peer"] == 0
    assert (state["moved"] > 0) == (host > 0)
    world.leave()
