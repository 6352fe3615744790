"""Arenas on a GPU: two processes on one device share memory through CUDA IPC and through file descriptors."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from aquasim.runtime.arenas import (
    ArenaError,
    Extent,
    Handle,
    Mapping,
    available,
    create,
    open_handle,
    probe,
    recv_handle,
    send_handle,
)
from aquasim.runtime.copy import Copier, Descriptors, checksum, open_copier

pytestmark = pytest.mark.gpu

MIB = 1 << 20
SLAB = 2 * MIB
Start = Callable[..., Any]


@pytest.fixture(params=["cuda-ipc", "cuda-vmm"])
def backend(request: pytest.FixtureRequest) -> str:
    """Give each back end for GPU memory; skip one that does not work here, with its reason."""
    name: str = request.param
    reason = available()[name]
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    return name


@pytest.fixture(scope="module")
def copier() -> Iterator[Copier]:
    """Give a copier for the first GPU."""
    with open_copier(0) as made:
        yield made


def receive(donor: Any) -> Mapping:
    """Let a donor export, and map what it sends."""
    donor.say("export")
    with recv_handle(donor.sock) as handle:
        mapping = open_handle(handle)
    assert donor.answer() == handle.token
    return mapping


def weigh(value: int, nbytes: int) -> int:
    """Return the checksum of bytes of one value."""
    data = np.full(nbytes, value, dtype=np.uint8)
    return checksum(data.ctypes.data, nbytes)


def found(copier: Copier, mapping: Mapping, extent: Extent) -> int:
    """Return the checksum of an extent."""
    return int(copier.checksums([mapping.at(extent)], [extent.nbytes], copier.incoming)[0])


def fill(copier: Copier, mapping: Mapping, value: int, extent: Extent) -> None:
    """Write bytes of one value into an extent."""
    with copier.scratch(extent.nbytes) as local:
        local.write(np.full(extent.nbytes, value, dtype=np.uint8))
        copies = Descriptors.of_blocks(local.ptr, [0], mapping.at(extent), [0], extent.nbytes)
        copier.submit(copies, copier.outgoing).wait(30)


def free_bytes() -> int:
    """Return the GPU's free memory."""
    from aquasim.runtime.copy.cuda import runtime

    return int(runtime().memGetInfo()[0])


def test_donor_and_consumer_see_each_others_writes(backend: str, start: Start, copier: Copier) -> None:
    """A second process on the same GPU maps the memory; what either writes, the other reads."""
    donor = start(0)
    assert donor.ask("create", backend, 64 * MIB) == 64 * MIB
    donor.ask("fill", 3, MIB, 5 * MIB)
    mapping = receive(donor)
    with mapping:
        assert (mapping.nbytes, mapping.device, mapping.pinned) == (64 * MIB, copier.device, False)
        assert found(copier, mapping, Extent(MIB, 5 * MIB)) == weigh(3, 5 * MIB)
        assert found(copier, mapping, Extent(6 * MIB, MIB)) == 0
        fill(copier, mapping, 9, Extent(64 * MIB - 4096, 4096))
        assert donor.ask("checksum", 64 * MIB - 4096, 4096) == weigh(9, 4096)


def test_a_killed_donors_memory_lives_until_its_consumer_closes(
    backend: str, start: Start, copier: Copier
) -> None:
    """After kill -9 the consumer reads and writes on; the GPU has its memory back when the mapping goes."""
    nbytes = 512 * MIB
    donor = start(0)
    donor.ask("create", backend, nbytes)
    donor.ask("fill", 8, 0, nbytes // 4)
    mapping = receive(donor)
    donor.kill()
    assert found(copier, mapping, Extent(0, nbytes // 4)) == weigh(8, nbytes // 4)
    fill(copier, mapping, 4, Extent(nbytes - MIB, MIB))
    assert found(copier, mapping, Extent(nbytes - MIB, MIB)) == weigh(4, MIB)
    held = free_bytes()
    mapping.close()
    assert free_bytes() - held > nbytes * 0.9


def test_a_killed_consumer_leaves_the_donors_memory_alone(backend: str, start: Start, copier: Copier) -> None:
    """What it wrote is there; once its death is noted, the arena closes and the GPU has its memory back."""
    consumer = start(0)
    arena = create(backend, 256 * MIB)
    with arena.export() as handle:
        consumer.say("open")
        send_handle(consumer.sock, handle)
        assert consumer.answer() == 256 * MIB
    consumer.ask("fill", 6, 0, MIB)
    consumer.kill()
    assert int(copier.checksums([arena.ptr], [MIB], copier.incoming)[0]) == weigh(6, MIB)
    arena.take_back(handle.token)
    held = free_bytes()
    arena.close()
    assert free_bytes() - held > 230 * MIB


def test_two_opens_are_counted(backend: str, start: Start, copier: Copier) -> None:
    """Closing one of two mappings of the same arena leaves the other one usable."""
    donor = start(0)
    donor.ask("create", backend, SLAB)
    donor.ask("fill", 2, 0, SLAB)
    first, second = receive(donor), receive(donor)
    first.close()
    first.close()
    assert found(copier, second, Extent(0, SLAB)) == weigh(2, SLAB)
    second.close()
    with receive(donor) as third:
        assert found(copier, third, Extent(0, SLAB)) == weigh(2, SLAB)


def test_ipc_memory_is_not_freed_under_an_importer(start: Start) -> None:
    """Closing is refused until the export is taken back; force overrides."""
    donor = start(0)
    donor.ask("create", "cuda-ipc", SLAB)
    donor.say("export")
    with recv_handle(donor.sock) as handle, open_handle(handle):
        donor.answer()
        with pytest.raises(ArenaError, match="lent out: 1 exports"):
            donor.ask("close")
    donor.ask("take_back", handle.token)
    donor.ask("close")
    with create("cuda-ipc", SLAB) as arena:
        arena.export()
        arena.close(force=True)


def test_vmm_memory_may_be_freed_under_an_importer(start: Start, copier: Copier) -> None:
    """The donor lets go; the consumer's bytes stay until it closes."""
    if available()["cuda-vmm"] is not None:
        pytest.skip(f"cuda-vmm: {available()['cuda-vmm']}")
    donor = start(0)
    donor.ask("create", "cuda-vmm", 64 * MIB)
    donor.ask("fill", 1, 0, MIB)
    with receive(donor) as mapping:
        donor.ask("close")
        assert found(copier, mapping, Extent(0, MIB)) == weigh(1, MIB)


def test_the_exporter_itself_cannot_open_an_ipc_handle_but_a_descriptor(backend: str, copier: Copier) -> None:
    """CUDA IPC refuses the same process, with a hint at PID namespaces; a VMM descriptor maps anywhere."""
    with create(backend, SLAB) as arena, arena.export() as handle:
        if backend == "cuda-ipc":
            with pytest.raises(ArenaError, match="PID"):
                open_handle(handle)
        else:
            with open_handle(handle) as mapping:
                fill(copier, mapping, 7, Extent(0, SLAB))
                assert int(copier.checksums([arena.ptr], [SLAB], copier.incoming)[0]) == weigh(7, SLAB)
        arena.take_back(handle.token)


@pytest.mark.parametrize(("asked", "made"), [(1, SLAB), (SLAB, SLAB), (SLAB + 1, 2 * SLAB)])
def test_sizes_are_whole_slabs_of_zeros(backend: str, asked: int, made: int, copier: Copier) -> None:
    """An arena shares no driver block with other memory, and nothing of earlier owners is left in it."""
    with create(backend, asked) as arena:
        assert arena.nbytes == made
        assert arena.device == copier.device
        assert int(copier.checksums([arena.ptr], [made], copier.incoming)[0]) == 0


def test_too_much_memory_is_an_error_that_says_so(backend: str, copier: Copier) -> None:
    """An allocation that cannot be had names CUDA's error, and the GPU works on."""
    with pytest.raises(ArenaError, match=r"(?i)memory.*\(error 2\)"):
        create(backend, 1 << 44)
    with create(backend, SLAB) as arena:
        assert probe(arena, copier, (4096,))


def test_scrubbing_an_extent_spares_its_neighbours(backend: str, start: Start, copier: Copier) -> None:
    """A consumer's scrub of an extent is zeros there and nothing else."""
    donor = start(0)
    donor.ask("create", backend, SLAB)
    donor.ask("fill", 5, 0, SLAB)
    with receive(donor) as mapping:
        mapping.scrub(Extent(4096, 8192))
        assert found(copier, mapping, Extent(4096, 8192)) == 0
        assert found(copier, mapping, Extent(0, 4096)) == weigh(5, 4096)
        assert found(copier, mapping, Extent(12288, 4096)) == weigh(5, 4096)


def test_a_probe_passes_on_every_path(backend: str, start: Start, copier: Copier) -> None:
    """The pattern goes into the other process's memory and back, at every size and by every path that fits."""
    donor = start(0)
    donor.ask("create", backend, 64 * MIB)
    with receive(donor) as mapping:
        for path in ("auto", "loop", "kernel", *(["batch"] if "batch" in copier.paths else [])):
            rates = probe(mapping, copier, path=path)
            assert [rate.nbytes for rate in rates] == [4 << 10, 64 << 10, 2 << 20, 64 << 20]
            assert rates[-1].write > 5e9, "slower than any host link: this is not the memory of this GPU"
            assert rates[-1].read > 5e9
        assert found(copier, mapping, Extent(0, 64 * MIB)) == 0


def test_ten_lives_of_an_arena_leave_no_descriptor_and_no_memory_behind(
    backend: str, start: Start, descriptors: Callable[[], int]
) -> None:
    """After a first one, which loads what the driver keeps, nothing grows, neither here nor on the GPU."""
    donor = start(0)
    counts = []
    for _ in range(11):
        donor.ask("create", backend, 64 * MIB)
        donor.say("export")
        with recv_handle(donor.sock) as handle, open_handle(handle):
            token = donor.answer()
        donor.ask("take_back", token)
        donor.ask("close")
        with create(backend, 64 * MIB) as arena, arena.export() as handle:
            arena.take_back(handle.token)
        counts.append((descriptors(), free_bytes()))
    assert counts[-1][0] <= counts[1][0]
    assert counts[-1][1] >= counts[1][1] - SLAB


def test_broken_handles_are_refused(copier: Copier) -> None:
    """Too short, made up, without a descriptor, or with one that is no GPU memory: one clear error each."""
    for payload in ("", "zz", "00" * 63):
        with pytest.raises(ArenaError, match="64 bytes"):
            open_handle(Handle("cuda-ipc", copier.device, SLAB, 1, "t", payload))
    with pytest.raises(ArenaError, match=r"opening a CUDA IPC handle: .*\(error \d+\)"):
        open_handle(Handle("cuda-ipc", copier.device, SLAB, 1, "t", "00" * 64))
    if available()["cuda-vmm"] is None:
        with pytest.raises(ArenaError, match="no file descriptor"):
            open_handle(Handle("cuda-vmm", copier.device, SLAB, 1, "t"))
        with create("memfd", SLAB) as arena, arena.export() as handle:
            handle.backend = "cuda-vmm"
            with pytest.raises(
                ArenaError, match=r"cuMemImportFromShareableHandle: CUDA_ERROR\w+ \(error \d+\)"
            ):
                open_handle(handle)


def test_gpu_memory_has_no_view(backend: str) -> None:
    """Neither a memoryview nor a tensor on the CPU: its pointer is for copies."""
    with create(backend, SLAB) as arena:
        for view in (arena.view, arena.tensor):
            with pytest.raises(ArenaError, match="copy by pointer"):
                view()


def test_a_consumer_pins_host_memory_too(start: Start, copier: Copier) -> None:
    """A donor's host memory is pinned in both processes, so that a GPU copies it directly and by kernels."""
    donor = start("cpu")
    donor.ask("create", "host", 8 * MIB)
    donor.ask("fill", 3, 0, 8 * MIB)
    with receive(donor) as mapping, copier.scratch(8 * MIB) as local:
        assert mapping.pinned
        copies = Descriptors.of_blocks(mapping.ptr, range(8), local.ptr, range(8), MIB)
        copier.submit(copies, copier.incoming, "kernel", stable=True).wait(30)
        assert local.read(8 * MIB).tobytes() == b"\3" * (8 * MIB)
        assert probe(mapping, copier)
