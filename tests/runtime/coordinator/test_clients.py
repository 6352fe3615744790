"""The clients as libraries, in this process: an informer that lends, edges, and the cost of asking before a write."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from lease_stage import Stage, eventually

from aquasim.core.informers import QueueInformer
from aquasim.core.leases import Coordinator, Extent, Lease, Process
from aquasim.errors import UserError
from aquasim.runtime.arenas import Arena, ArenaError, Handle, create
from aquasim.runtime.arenas.memfd import allocate
from aquasim.runtime.coordinator import LeaseError, query
from aquasim.runtime.copy import open_copier
from aquasim.runtime.donor import DonorClient, client
from aquasim.runtime.donor.room import group_limits, host_room
from aquasim.runtime.donor.slabs import Slabs, split
from aquasim.runtime.peers import Mapped, PeerClient, map_extent

MIB = 1 << 20
ME = Process("me", 1)
EXTENT = Extent(ME, 0)


def test_an_engine_lends_through_an_informer(stage: Stage) -> None:
    """Little to do: the cache shrinks and is lent. A queue: it is reclaimed, and grows once all of it is back."""
    stage.coordinator()
    informer = QueueInformer(min_retain_bytes=MIB, max_bytes=4 * MIB)
    back: list[int] = []
    with DonorClient(stage.path, "gpu1", extent_bytes=MIB, regained=back.append) as donor:
        consumer = stage.consumer()
        consumer.ask("want", 2 * MIB)
        assert informer.inform(0, 0) == -3 * MIB
        donor.donate(informer.done_making_space())
        assert eventually(lambda: donor.lent == 2 * MIB)
        assert informer.inform(20, 0) == 0
        assert informer.reclaiming
        donor.reclaim(informer.donated_bytes)
        assert eventually(lambda: sum(back) == 3 * MIB)
        informer.returned()
        assert informer.inform(20, 0) == 3 * MIB
        assert (donor.donated, donor.owed) == (0, 0)


def test_a_consumer_in_this_process(stage: Stage) -> None:
    """Callbacks, reading, writing, leaving; asking before a write takes microseconds and no message."""
    stage.coordinator()
    donor = stage.donor()
    donor.ask("donate", 2 * MIB)
    usable: list[Mapped] = []
    leaving: list[Any] = []
    fds = len(os.listdir("/proc/self/fd"))
    peers = PeerClient(
        stage.path, "gpu0", usable=usable.append, evacuate=lambda *words: leaving.append(words)
    )
    with peers:
        peers.want(MIB)
        assert eventually(lambda: usable)
        (mapped,) = usable
        assert peers.extents() == [mapped]
        assert (mapped.bytes, mapped.mapping.nbytes, mapped.transport) == (MIB, MIB, "memfd: host memory")
        assert mapped.rate.nbytes == 4096
        assert min(mapped.rate.write, mapped.rate.read) > 0
        assert peers.may_write(mapped)
        mapped.mapping.view()[:3] = b"abc"
        assert bytes(donor.ask("peek", mapped.extent.number, 0, 3)) == b"abc"
        start = time.thread_time()
        for _ in range(1000):
            peers.may_write(mapped)
        assert time.thread_time() - start < 0.1
        donor.ask("reclaim", 2 * MIB)
        assert eventually(lambda: leaving)
        assert leaving == [(mapped, "reclaim")]
        assert (peers.may_write(mapped), peers.may_read(mapped)) == (False, True)
        peers.emptied(mapped)
        peers.emptied(mapped)
        assert (peers.may_write(mapped), peers.may_read(mapped)) == (False, False)
        assert eventually(lambda: donor.ask("regained") == 2 * MIB)
    peers.close()
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) == fds)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("gpu0")]


def test_closing_waits_for_whoever_is_told_of_an_extent(stage: Stage) -> None:
    """An engine that looks at its new extent when the client closes ends its look first; views of ours forbid it."""
    stage.coordinator()
    stage.donor().ask("donate", MIB)
    seen, go_on = threading.Event(), threading.Event()

    def look(mapped: Mapped) -> None:
        with mapped.mapping.view() as view:
            seen.set()
            go_on.wait(10)
            view[0] = 1

    peers = PeerClient(stage.path, "gpu0", usable=look)
    peers.start()
    peers.want(MIB)
    assert seen.wait(10)
    threading.Timer(0.1, go_on.set).start()
    view = peers.extents()[0].mapping.view()
    with pytest.raises(ArenaError, match="still alive"):
        peers.close()
    assert go_on.is_set()
    view.release()
    peers.close()
    assert peers.extents() == []
    assert eventually(lambda: stage.states() == ["free"])


def test_a_client_that_never_ran_or_is_over_says_so(tmp_path: Path) -> None:
    """Nothing hangs, nothing is allocated."""
    donor = DonorClient(tmp_path / "c.sock", "d")
    with pytest.raises(LeaseError, match="is not running"):
        donor.donate(MIB)
    assert donor.loans() == []
    donor.close()
    peers = PeerClient(tmp_path / "c.sock", "c")
    with pytest.raises(LeaseError, match="is not running"):
        peers.want(1)
    peers.close()
    peers.start()
    assert not peers.wait_connected(0.1)
    peers.close(timeout=0.1)
    with pytest.raises(LeaseError, match="is not running"):
        peers.want(1)


def test_arguments_that_make_no_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors name the value."""
    with pytest.raises(UserError, match="name 'a b'"):
        PeerClient(tmp_path / "c.sock", "a b")
    with pytest.raises(ValueError, match="extent_bytes is 0"):
        DonorClient(tmp_path / "c.sock", "d", extent_bytes=0)
    monkeypatch.setattr(client, "MOST_EXTENTS", 3)
    with DonorClient(tmp_path / "c.sock", "d", extent_bytes=MIB) as donor:
        with pytest.raises(ValueError, match="-1 bytes"):
            donor.donate(-1)
        with pytest.raises(LeaseError, match="3 is the limit"):
            donor.donate(4 * MIB)
        assert donor.donate(3 * MIB) == 3 * MIB
        with pytest.raises(LeaseError, match="make them larger"):
            donor.donate(1)
        donor.reclaim(3 * MIB)
        assert eventually(lambda: donor.loans() == [])


def test_memory_that_must_not_go_early_goes_once_nobody_holds_it() -> None:
    """As with CUDA IPC: exports are taken back when their lease is over, and not before."""
    slabs = Slabs()
    memory = allocate(MIB)
    memory.free_while_mapped = False
    arena = Arena("memfd", memory)
    slabs.add(EXTENT, arena)
    for epoch in (1, 1, 2):
        slabs.hand(EXTENT, epoch).close()
    assert arena.lent == 1
    with pytest.raises(ArenaError, match="is lent out"):
        arena.close()
    assert slabs.release(EXTENT) == MIB
    assert arena.closed


def test_handing_out_scrubs_for_a_new_holder_only() -> None:
    """Asked again under the same epoch the bytes stay; under the next they are gone."""
    slabs = Slabs()
    with create("memfd", MIB) as arena:
        slabs.add(EXTENT, arena)
        slabs.hand(EXTENT, 1).close()
        arena.view()[5] = 9
        slabs.hand(EXTENT, 1).close()
        assert arena.view()[5] == 9
        slabs.hand(EXTENT, 2).close()
        assert arena.view()[5] == 0
        slabs.close(force=False)


@pytest.mark.parametrize(("nbytes", "sizes"), [(1, [1]), (10, [10]), (25, [10, 10, 5]), (20, [10, 10])])
def test_bytes_are_cut_into_extents(nbytes: int, sizes: list[int]) -> None:
    """Whole ones first; the last may be smaller."""
    assert split(nbytes, 10) == sizes


def test_gpu_memory_is_nothing_for_a_consumer_on_the_cpu() -> None:
    """Its addresses would not be the CPU's."""
    handle = Handle("cuda-ipc", "GPU-0", MIB, 1, "t")
    with open_copier("cpu") as copier, pytest.raises(ArenaError, match="memory of GPU-0"):
        map_extent(Lease(EXTENT, 1, MIB, ME, 0), handle, copier)


def test_memory_smaller_than_its_lease_is_refused() -> None:
    """Writing to the end of the lease would be fatal; nothing stays mapped."""
    lease = Lease(EXTENT, 1, 2 * MIB, ME, 0)
    with (
        create("memfd", MIB) as arena,
        arena.export() as handle,
        open_copier("cpu") as copier,
        pytest.raises(ArenaError, match="is smaller than"),
    ):
        map_extent(lease, handle, copier)


def test_room_is_what_machine_and_control_groups_leave(tmp_path: Path) -> None:
    """Some of both, and never negative."""
    room = host_room()
    assert room is None or room > 0
    assert all(limit > 0 and used >= 0 for _, limit, used in group_limits())


def test_a_coordinator_that_fails_ends_rather_than_going_on(stage: Stage) -> None:
    """An error of its own is not swallowed: it stops, with the error, and the next one is told everything."""
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from aquasim.core.leases import Coordinator;"
        "from aquasim.runtime.coordinator import Settings, serve;"
        "Coordinator._grant = lambda self: 1 / 0;"
        "serve(Settings(Path(sys.argv[1])), lambda: print('listening', flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(stage.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as broken:
        assert broken.stdout is not None
        assert broken.stdout.readline() == "listening\n"
        donor = stage.donor()
        donor.ask("donate", MIB)
        _, errors = broken.communicate(timeout=10)
    assert broken.returncode == 1
    assert "ZeroDivisionError" in errors
    assert not stage.path.exists()
    stage.coordinator()
    assert eventually(lambda: stage.states() == ["free"])


def test_a_status_of_many_extents_fits(stage: Stage) -> None:
    """As many extents as a donor may have are reported in one frame, and shown in several."""
    from types import SimpleNamespace

    from aquasim.core.leases import DonorReport, Row
    from aquasim.runtime.coordinator import status
    from aquasim.runtime.coordinator.channel import LIMIT
    from aquasim.runtime.coordinator.codec import encode
    from aquasim.runtime.coordinator.wire import PART, Answer

    me = Process("d" * 64, 2**63)
    rows = tuple(Row(Extent(me, n), 2**40, 2**20, me, False) for n in range(client.MOST_EXTENTS))
    report = DonorReport(me, 1, 0, rows)
    assert len(encode(report)) < LIMIT
    machine = Coordinator()
    machine.handle(1, report)
    server: Any = SimpleNamespace(machine=machine, started=0, sessions={}, paths={}, overdue={}, counts={})
    text = status.as_json(server)
    assert all(len(encode(Answer(text[n : n + PART], True))) < LIMIT for n in range(0, len(text), PART))
    donor = stage.donor(extent_bytes=4096)
    stage.coordinator()
    donor.ask("donate", 4096 * 5000)
    assert eventually(lambda: stage.states() == ["free"] * 5000)
    assert len(query(stage.path, "status")) > PART
