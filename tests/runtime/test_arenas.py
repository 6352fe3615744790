"""Arenas on the CPU: real processes map what others lend, and nothing is lost, leaked or torn away."""

import fcntl
import mmap
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aquasim.runtime.arenas import (
    Arena,
    ArenaError,
    Extent,
    Handle,
    Mapping,
    available,
    create,
    encode,
    open_handle,
    probe,
    recv_handle,
    send_handle,
)
from aquasim.runtime.arenas.errors import hint
from aquasim.runtime.arenas.numa import node_of
from aquasim.runtime.copy import Descriptors, HostCopier, checksum, open_copier

PAGE = mmap.PAGESIZE
MIB = 1 << 20
BACKENDS = ("memfd", "host")

Start = Callable[..., Any]


def over_a_socket(handle: Handle) -> Handle:
    """Send a handle through a socket pair and return what arrives."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        send_handle(ours, handle)
        return recv_handle(theirs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_donor_and_consumer_see_each_others_writes(backend: str, start: Start) -> None:
    """A consumer maps a donor's memory over a socket; both ways, at any offset, the bytes are the same ones."""
    donor = start()
    assert donor.ask("create", backend, MIB) == MIB
    donor.ask("fill", 3, 100, 1000)
    donor.say("export")
    with recv_handle(donor.sock) as handle, open_handle(handle) as mapping:
        donor.answer()
        assert (mapping.nbytes, mapping.device, handle.pid) == (MIB, "cpu", donor.process.pid)
        assert mapping.view(Extent(100, 1000)) == b"\3" * 1000
        assert mapping.view(Extent(1100, 1))[0] == 0
        mapping.view()[-1] = 250
        assert donor.ask("checksum", MIB - 8, 8) == checksum(mapping.ptr + MIB - 8, 8) != 0


def test_a_consumer_in_another_process_writes_into_our_arena(start: Start) -> None:
    """The same with roles exchanged: the arena is here, the consumer there; what it wrote outlives it."""
    consumer = start()
    with create("memfd", MIB) as arena, arena.export() as handle:
        consumer.say("open")
        send_handle(consumer.sock, handle)
        assert consumer.answer() == MIB
        consumer.ask("fill", 5, 7, 9)
        consumer.kill()
        assert arena.view(Extent(7, 9)) == b"\5" * 9


def test_a_killed_donors_memory_lives_on_in_its_consumer(start: Start) -> None:
    """After kill -9 the consumer reads what the donor wrote, and writes on."""
    donor = start()
    donor.ask("create", "memfd", 8 * MIB)
    donor.ask("fill", 8, 7 * MIB, MIB)
    donor.say("export")
    with recv_handle(donor.sock) as handle, open_handle(handle) as mapping:
        donor.answer()
        donor.kill()
        assert mapping.view(Extent(7 * MIB, MIB)) == b"\10" * MIB
        mapping.view()[0] = 1
        assert mapping.view()[0] == 1


def shared_memory() -> int:
    """Return the machine's shared memory in bytes, by its own count."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Shmem:"))


def eventually(condition: Callable[[], bool]) -> bool:
    """Look for up to five seconds."""
    limit = time.monotonic() + 5
    while not condition() and time.monotonic() < limit:
        time.sleep(0.01)
    return condition()


def test_memory_returns_when_the_last_of_donor_and_consumer_is_gone(start: Start) -> None:
    """A donor's death alone gives nothing back while a consumer maps; the machine has it once that one closes."""
    before, nbytes = shared_memory(), 256 * MIB
    donor = start()
    donor.ask("create", "memfd", nbytes)
    if shared_memory() - before < nbytes // 2:
        pytest.skip("this machine does not count shared memory")
    donor.say("export")
    with recv_handle(donor.sock) as handle:
        mapping = open_handle(handle)
    donor.answer()
    donor.kill()
    assert shared_memory() - before > nbytes // 2
    mapping.close()
    assert eventually(lambda: shared_memory() - before < nbytes // 2)


def test_a_donor_may_let_go_of_host_memory_while_it_is_mapped() -> None:
    """Closing the arena is safe; the consumer's bytes stay."""
    arena = create("memfd", PAGE)
    with arena.export() as handle, open_handle(handle) as mapping:
        arena.view()[:2] = b"ab"
        arena.close()
        assert bytes(mapping.view(Extent(0, 2))) == b"ab"


def test_memory_cannot_be_shrunk_under_a_consumer() -> None:
    """Neither size nor seals of an exported descriptor can be changed."""
    with create("memfd", 4 * PAGE) as arena, arena.export() as handle:
        assert handle.fd is not None
        for size in (PAGE, 8 * PAGE):
            with pytest.raises(PermissionError):
                os.ftruncate(handle.fd, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(handle.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_descriptors_that_could_be_torn_away_are_refused(tmp_path: Path) -> None:
    """An unsealed memfd, a plain file and one that is too small are not mapped."""
    with create("memfd", PAGE) as arena, arena.export() as handle:
        handle.nbytes = 2 * PAGE
        with pytest.raises(ArenaError, match=f"no sealed memory of {2 * PAGE} bytes: {PAGE} bytes"):
            open_handle(handle)
    unsealed = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, PAGE)
    with (
        Handle("memfd", "cpu", PAGE, 1, "t", fd=unsealed) as handle,
        pytest.raises(ArenaError, match="seals"),
    ):
        open_handle(handle)
    (tmp_path / "file").write_bytes(bytes(PAGE))
    handle = Handle("memfd", "cpu", PAGE, 1, "t", fd=os.open(tmp_path / "file", os.O_RDWR))
    with handle, pytest.raises(ArenaError, match=r"cannot be mapped|seals"):
        open_handle(handle)
    with pytest.raises(ArenaError, match="no file descriptor"):
        open_handle(handle)


def test_fifty_lives_of_an_arena_leave_no_descriptor_behind(descriptors: Callable[[], int]) -> None:
    """Make, export, send, receive, map, close; refused ones too."""
    before = descriptors()
    for _ in range(50):
        with create("memfd", PAGE) as arena, arena.export() as handle:
            with over_a_socket(handle) as received, open_handle(received) as mapping:
                assert mapping.nbytes == PAGE
            handle.nbytes *= 2
            with over_a_socket(handle) as received, pytest.raises(ArenaError):
                open_handle(received)
    with pytest.raises(ArenaError, match="no host memory"):
        create("memfd", 1 << 50)
    assert descriptors() == before


def test_closing_twice_is_harmless_and_use_after_it_is_an_error() -> None:
    """Whatever needs the memory says that it is closed."""
    arena = create("memfd", PAGE)
    with arena.export() as handle:
        mapping = open_handle(handle)
        handle.close()
    uses: tuple[Callable[[Arena | Mapping], object], ...]
    uses = (lambda r: r.ptr, lambda r: r.view(), lambda r: r.at(Extent(0, 1)), lambda r: r.scrub())
    for region in (arena, mapping):
        region.close()
        region.close()
        assert region.closed
        for use in uses:
            with pytest.raises(ArenaError, match="after it was closed"):
                use(region)
    with pytest.raises(ArenaError, match="after it was closed"):
        arena.export()


def test_memory_is_not_unmapped_under_a_view() -> None:
    """While a view or a tensor is alive, closing raises and changes nothing; afterwards it works."""
    arena = create("memfd", PAGE)
    view = arena.view()
    with pytest.raises(ArenaError, match="still alive"):
        arena.close()
    view[0] = 1
    assert arena.view(Extent(0, 1))[0] == 1
    view.release()
    arena.close()


def test_a_tensor_is_the_memory() -> None:
    """Torch writes into the mapping and reads from it, without a copy."""
    torch = pytest.importorskip("torch")
    with create("memfd", PAGE) as arena, arena.export() as handle, open_handle(handle) as mapping:
        tensor = mapping.tensor(Extent(16, 32))
        tensor.fill_(6)
        assert (tensor.dtype, tensor.shape, tensor.data_ptr()) == (torch.uint8, (32,), mapping.ptr + 16)
        assert arena.view(Extent(15, 34)) == b"\0" + b"\6" * 32 + b"\0"
        with pytest.raises(ArenaError, match="still alive"):
            mapping.close()
        del tensor


def test_scrubbing_an_extent_spares_its_neighbours() -> None:
    """Zeros inside, the bytes around untouched; a whole scrub clears all."""
    with create("memfd", PAGE) as arena:
        arena.view()[:] = b"x" * PAGE
        arena.scrub(Extent(100, 50))
        assert bytes(arena.view(Extent(99, 52))) == b"x" + bytes(50) + b"x"
        arena.scrub()
        assert bytes(arena.view()) == bytes(PAGE)


@pytest.mark.parametrize("extent", [Extent(-1, 1), Extent(0, 0), Extent(0, PAGE + 1), Extent(PAGE, 1)])
def test_extents_stay_inside(extent: Extent) -> None:
    """No address outside the arena is ever given out."""
    with create("memfd", 1) as arena:
        assert arena.nbytes == PAGE
        assert arena.at(Extent(PAGE - 1, 1)) == arena.ptr + PAGE - 1
        for use in (arena.at, arena.view, arena.scrub):
            with pytest.raises(ArenaError, match="not inside"):
                use(extent)


def test_exports_are_counted_until_they_are_taken_back() -> None:
    """Each export has a token of its own, to be given back once."""
    with create("memfd", PAGE) as arena, arena.export() as first, arena.export() as second:
        assert arena.lent == 2
        arena.take_back(first.token)
        assert arena.lent == 1
        with pytest.raises(ArenaError, match="no export"):
            arena.take_back(first.token)
        arena.take_back(second.token)


def message(values: str, length: int | None = None) -> bytes:
    """Frame a text as handles are framed."""
    return struct.pack("!I", len(values) if length is None else length) + values.encode()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (message('{"schema": "aquasim.arena/2"}'), "schema 'aquasim.arena/2', while this version reads"),
        (message("[]"), "schema None"),
        (message("no json"), "not a handle"),
        (message('{"schema": "aquasim.arena/1", "nbytes": "1"}'), "broken handle: backend, device, nbytes"),
        (message("{}", 1 << 30), "a message of 1073741824 bytes"),
        (message("{}", 3), "closed in the middle"),
        (b"", "closed in the middle"),
    ],
)
def test_foreign_messages_are_refused_and_their_descriptors_closed(
    data: bytes, text: str, descriptors: Callable[[], int]
) -> None:
    """The error says what came; a descriptor that came along is closed."""
    before = descriptors()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs, open(os.devnull) as file:
        if data:
            socket.send_fds(ours, [data], [file.fileno()])
        ours.close()
        with pytest.raises(ArenaError, match=text):
            recv_handle(theirs)
    assert descriptors() == before


def test_a_handle_without_its_descriptor_is_refused() -> None:
    """A message that lost its descriptor, as over TCP, maps nothing."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs, create("memfd", PAGE) as arena, arena.export() as handle:
        ours.sendall(encode(handle))
        with pytest.raises(ArenaError, match="Unix sockets only"):
            recv_handle(theirs)


def test_a_handle_with_two_descriptors_is_refused(descriptors: Callable[[], int]) -> None:
    """The kernel passes one on and says that it cut the rest; nothing stays open."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs, create("memfd", PAGE) as arena, arena.export() as handle:
        before = descriptors()
        assert handle.fd is not None
        socket.send_fds(ours, [encode(handle)], [handle.fd] * 2)
        with pytest.raises(ArenaError, match="more than one"):
            recv_handle(theirs)
        assert descriptors() == before


def test_handles_cross_a_socket_whole_and_print_no_secret() -> None:
    """Every field arrives; a payload, which is a key to the memory, is in no repr."""
    handle = Handle("cuda-ipc", "GPU-1", 4096, 12, "ab", payload="5ec3e7")
    assert over_a_socket(handle) == handle
    assert "5ec3e7" not in repr(handle)


def test_cudas_errors_come_with_what_lies_behind_them_here() -> None:
    """The context error of separate PID namespaces says so; a code without a story says nothing."""
    assert "PID namespace" in hint(201)
    assert "exporter must be another, living process" in hint(400)
    assert hint(719) == ""


def test_what_is_not_available_says_why() -> None:
    """Host memory is always there; for every other back end the reason given is the error raised."""
    reasons = available()
    assert reasons["memfd"] is None
    assert reasons["host"] is None
    for backend, reason in reasons.items():
        if reason is not None:
            with pytest.raises(ArenaError, match="not available here") as caught:
                create(backend, PAGE)
            assert reason in str(caught.value)
    with pytest.raises(ArenaError, match="there are memfd, host, cuda-ipc, cuda-vmm"):
        create("tape", PAGE)
    with pytest.raises(ArenaError, match="0 bytes"):
        create("memfd", 0)


@pytest.mark.parametrize("path", ["auto", "batch", "gather"])
def test_a_probe_returns_rates_and_leaves_zeros(path: str) -> None:
    """Sizes that fit are written and read back through the copy layer; nothing of the pattern stays."""
    with create("memfd", MIB) as arena, open_copier("cpu") as copier:
        rates = probe(arena, copier, (5, 4096, 65536, 2 * MIB), offset=PAGE, path=path)
        assert [rate.nbytes for rate in rates] == [5, 4096, 65536]
        assert all(rate.read > 0 and rate.write > 0 for rate in rates)
        assert not any(arena.view())
        with pytest.raises(ArenaError, match="no room"):
            probe(arena, copier, (2 * MIB,))


class Lossy(HostCopier):
    """A path that reports success and drops the last byte of what goes out, as an IOMMU may."""

    def _loop(self, copies: Descriptors, stream: Any, stable: bool) -> None:
        lost = int(stream is self.outgoing)
        super()._loop(Descriptors(copies.src, copies.dst, copies.sizes - lost), stream, stable)


def test_a_probe_finds_bytes_that_never_arrived() -> None:
    """A path that loses one byte is refused with the place."""
    with (
        create("memfd", PAGE) as arena,
        Lossy() as copier,
        pytest.raises(ArenaError, match=r"1 of 4096 bytes came back different, the first at 4095"),
    ):
        probe(arena, copier, (4096,))


def test_host_memory_can_be_bound_to_a_numa_node() -> None:
    """Where the kernel has NUMA, pages come from the node asked for; a node that is not there is an error."""
    if not (Path("/sys/devices/system/node/node0").exists() and Path("/proc/self/numa_maps").exists()):
        pytest.skip("this kernel has no NUMA")
    with create("host", MIB, place=0) as arena:
        assert placement(arena) == {"N0": MIB // PAGE}
    for place in (1000, -1, "GPU-0"):
        with pytest.raises(ArenaError, match="NUMA node"):
            create("host", MIB, place=place)
    assert node_of("ffff:ff:1f.7") is None


def placement(arena: Arena) -> dict[str, int]:
    """Return an arena's pages by node."""
    for line in Path("/proc/self/numa_maps").read_text().splitlines():
        words = line.split()
        if int(words[0], 16) == arena.ptr:
            return {node: int(pages) for node, pages in (w.split("=") for w in words if w[0] == "N")}
    raise AssertionError("the arena is not in numa_maps")


def test_pages_are_there_from_the_start() -> None:
    """Every page is present and mapped, so that no copy meets a page fault."""
    if not Path("/proc/self/pagemap").exists():
        pytest.skip("this kernel does not tell which pages are mapped")
    with create("memfd", 64 * PAGE) as arena, arena.export() as handle, open_handle(handle) as mapping:
        for region in (arena, mapping):
            assert resident(region.ptr, 64) == 64


def resident(ptr: int, pages: int) -> int:
    """Return how many pages from `ptr` on are mapped, by /proc/self/pagemap."""
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(ptr // PAGE * 8)
        return int((np.frombuffer(file.read(pages * 8), dtype=np.uint64) >> np.uint64(63)).sum())
