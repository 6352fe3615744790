"""Lending from end to end between processes: grant, map, probe, reclaim in two phases, scrub, release."""

import json
import os
import time
from typing import Any

import pytest
from lease_stage import eventually

from aquasim.runtime.arenas import available

MIB = 1 << 20
HERE_WORKS = available()


def backend(name: str) -> Any:
    """A back end; those of GPUs are skipped with the reason where they are missing."""
    reason = HERE_WORKS[name]
    marks = [pytest.mark.gpu] if name.startswith("cuda") else []
    return pytest.param(name, marks=[*marks, pytest.mark.skipif(reason is not None, reason=str(reason))])


@pytest.mark.parametrize("name", [backend(name) for name in HERE_WORKS])
def test_memory_goes_to_a_consumer_and_comes_back(name: str, stage: Any) -> None:
    """Donated extents are granted, mapped and written; a reclaim has them left, and only then are they back."""
    stage.coordinator()
    donor = stage.donor(backend=name, extent_bytes=2 * MIB)
    consumer = stage.consumer(obey=False, device=0 if name.startswith("cuda") else "cpu")
    assert donor.ask("donate", 8 * MIB) == 8 * MIB
    consumer.ask("want", 4 * MIB)
    assert eventually(lambda: len(consumer.ask("extents")) == 2)
    assert all(row[4] for row in consumer.ask("extents"))
    for transport, write, read in consumer.ask("transports"):
        assert transport.startswith(name)
        assert min(write, read) > 0
    donor.ask("reclaim", 8 * MIB)
    assert eventually(lambda: donor.ask("regained") == 4 * MIB)
    assert eventually(lambda: consumer.ask("causes") == ["reclaim"] * 2)
    assert not any(row[4] for row in consumer.ask("extents"))
    assert donor.ask("regained") == 4 * MIB
    assert consumer.ask("verify") == []
    assert consumer.ask("leave") == 2
    assert eventually(lambda: donor.ask("regained") == 8 * MIB)
    assert eventually(lambda: stage.status()["extents"] == [])


def test_reclaiming_some_takes_whole_extents_and_leaves_the_rest(stage: Any) -> None:
    """Half an extent reclaimed is one extent back; the others stay leased and writable."""
    stage.coordinator()
    donor, consumer = stage.donor(), stage.consumer()
    donor.ask("donate", 4 * MIB)
    consumer.ask("want", 4 * MIB)
    assert eventually(lambda: len(consumer.ask("extents")) == 4)
    donor.ask("reclaim", MIB // 2)
    assert eventually(lambda: donor.ask("regained") == MIB)
    assert [row[4] for row in consumer.ask("extents")] == [True] * 3
    assert consumer.ask("verify") == []


def test_the_next_holder_finds_zeros(stage: Any) -> None:
    """What a consumer leaves in an extent is overwritten before the next one gets it, under a greater epoch."""
    stage.coordinator()
    donor, first, second = stage.donor(), stage.consumer("c0"), stage.consumer("c1")
    donor.ask("donate", MIB)
    first.ask("want", MIB)
    assert eventually(lambda: first.ask("extents"))
    before = first.ask("extents")[0]
    first.ask("want", 0)
    second.ask("want", MIB)
    first.ask("give")
    assert eventually(lambda: second.ask("extents"))
    after = second.ask("extents")[0]
    assert (after[:2], after[2] > before[2]) == (before[:2], True)
    assert second.ask("verify") == []


def test_a_view_that_is_alive_keeps_an_extent(stage: Any) -> None:
    """Emptying an extent that is still looked at is refused and changes nothing; without the view it goes."""
    stage.coordinator()
    donor, consumer = stage.donor(), stage.consumer(obey=False)
    donor.ask("donate", MIB)
    consumer.ask("want", MIB)
    assert eventually(lambda: consumer.ask("extents"))
    consumer.ask("hold_view")
    with pytest.raises(RuntimeError, match="views or tensors"):
        consumer.ask("give")
    assert consumer.ask("extents")[0][4]
    consumer.ask("drop_views")
    consumer.ask("want", 0)
    consumer.ask("give")
    assert eventually(lambda: stage.states() == ["free"])


def test_pairs_decide_whose_memory_a_consumer_gets(stage: Any) -> None:
    """A consumer that is paired gets its donors' extents, nearest first, and nobody else's."""
    stage.coordinator(near={"c0": ["near", "far"]})
    for name in ("other", "far", "near"):
        stage.donor(name).ask("donate", MIB)
    assert eventually(lambda: len(stage.states()) == 3)
    consumer = stage.consumer()
    consumer.ask("want", MIB)
    assert eventually(lambda: [row[0] for row in consumer.ask("extents")] == ["near"])
    consumer.ask("want", 3 * MIB)
    assert eventually(lambda: [row[0] for row in consumer.ask("extents")] == ["near", "far"])


def test_an_extent_that_does_not_keep_what_is_written_is_not_used(stage: Any) -> None:
    """A probe that fails is told, the lease is closed, and nothing more is asked for until the engine does."""
    stage.coordinator()
    donor, consumer = stage.donor(), stage.consumer(drop=True)
    donor.ask("donate", 2 * MIB)
    consumer.ask("want", 2 * MIB)
    assert eventually(lambda: consumer.ask("failure") is not None)
    assert "does not keep what is written" in consumer.ask("failure")
    assert consumer.ask("extents") == []
    assert eventually(lambda: stage.states() == ["free", "free"])
    assert stage.status()["consumers"][0]["want_bytes"] < 2 * MIB


def test_children_cannot_touch_leased_memory(stage: Any) -> None:
    """A fork of a consumer has no mapping: it could write on when its parent is dead and the lease over."""
    stage.coordinator()
    donor, consumer = stage.donor(), stage.consumer()
    donor.ask("donate", MIB)
    consumer.ask("want", MIB)
    assert eventually(lambda: consumer.ask("extents"))
    assert consumer.ask("fork") == "SIGSEGV"


def test_too_much_memory_is_refused_and_nothing_is_lent(stage: Any) -> None:
    """A donor that asks for more than the machine has lends nothing, keeps nothing, and goes on."""
    stage.coordinator()
    donor = stage.donor(extent_bytes=1 << 45)
    assert eventually(lambda: donor.ask("connected"))
    before = donor.ask("fds")
    with pytest.raises(RuntimeError, match="ArenaError"):
        donor.ask("donate", 1 << 46)
    assert (donor.ask("loans"), donor.ask("fds")) == ([], before)


def test_closing_gives_everything_up(stage: Any) -> None:
    """A consumer that closes while its process lives gives its extents back; a donor leaves when nothing is held."""
    stage.coordinator()
    donor, consumer = stage.donor(), stage.consumer()
    donor.ask("donate", 3 * MIB)
    consumer.ask("want", 3 * MIB)
    assert eventually(lambda: len(consumer.ask("extents")) == 3)
    with pytest.raises(RuntimeError, match="cannot leave"):
        donor.ask("close")
    consumer.ask("close")
    assert eventually(lambda: stage.states() == ["free"] * 3)
    donor.ask("close")


def test_no_descriptor_is_leaked(stage: Any) -> None:
    """After many rounds of lending and reclaiming, everybody has as many descriptors open as before."""
    coordinator = stage.coordinator()
    donor, consumer = stage.donor(), stage.consumer()

    def lend() -> None:
        donor.ask("donate", 4 * MIB)
        consumer.ask("want", 4 * MIB)
        assert eventually(lambda: len(consumer.ask("extents")) == 4)
        consumer.ask("want", 0)
        donor.ask("reclaim", 4 * MIB)
        assert eventually(lambda: donor.ask("loans") == [])

    def counts() -> list[int]:
        return [donor.ask("fds"), consumer.ask("fds"), len(os.listdir(f"/proc/{coordinator.pid}/fd"))]

    def settled() -> list[int]:
        """Handles that were on their way are closed: counts that stay."""
        found, earlier = counts(), None
        while found != earlier:
            time.sleep(0.3)
            found, earlier = counts(), found
        return found

    lend()
    before = settled()
    for _ in range(3):
        lend()
    assert eventually(lambda: counts() == before), (before, counts())


def test_the_status_page_shows_who_holds_what_and_by_which_path(stage: Any) -> None:
    """Donors, consumers and extents with sizes, ages, epochs, transports and rates, as plain JSON."""
    stage.coordinator()
    donor, consumer = stage.donor(), stage.consumer()
    donor.ask("donate", 2 * MIB)
    consumer.ask("want", MIB)
    assert eventually(lambda: consumer.ask("extents"))
    assert eventually(lambda: any(extent["transport"] for extent in stage.status()["extents"]))
    seen = stage.status()
    assert [(d["name"], d["donated_bytes"], d["lent_bytes"]) for d in seen["donors"]] == [
        ("d0", 2 * MIB, MIB)
    ]
    assert [(c["name"], c["want_bytes"], c["held_bytes"]) for c in seen["consumers"]] == [("c0", MIB, MIB)]
    leased = [extent for extent in seen["extents"] if extent["state"] == "leased"]
    assert [(e["consumer"], e["epoch"], e["transport"]) for e in leased] == [("c0", 1, "memfd: host memory")]
    assert leased[0]["write_bytes_per_s"] > 0
    assert 0 < leased[0]["expires_in_s"] <= seen["lease_s"]
    assert donor.pid == seen["donors"][0]["pid"]
    json.dumps(seen)
