"""Copies on a GPU: every path against a plain copy, order between streams, checksums equal to the CPU's."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.runtime.arenas import Arena, create
from aquasim.runtime.copy import Copier, CopyError, Descriptors, HostEvent, Scratch, checksum, open_copier

pytestmark = pytest.mark.gpu

POOL = 1 << 20
MIB = 1 << 20


@pytest.fixture(scope="module")
def copier() -> Iterator[Copier]:
    """Give a copier for the first GPU with little staging, so that staging takes several rounds."""
    with open_copier(0, staging_bytes=64 << 10) as made:
        yield made


@pytest.fixture(scope="module")
def pools(copier: Copier) -> Iterator[tuple[Scratch, Scratch]]:
    """Give two pools on the GPU."""
    with copier.scratch(POOL) as first, copier.scratch(POOL) as second:
        yield first, second


@pytest.fixture(scope="module")
def host() -> Iterator[Arena]:
    """Give a pool of pinned host memory."""
    with create("host", POOL) as arena:
        assert arena.pinned
        yield arena


@st.composite
def pieces(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """Draw (source, destination, size) offsets with disjoint destinations; aligned to 16 bytes or not at all."""
    align = draw(st.sampled_from((1, 8, 16)))
    sizes = draw(st.lists(st.integers(1, 20_000), min_size=1, max_size=40))
    rows, at = [], 0
    for size in sizes:
        source = draw(st.integers(0, (POOL - size) // align)) * align
        rows.append((source, at, size))
        at += -(-size // align) * align
    return draw(st.permutations(rows))


def build(rows: list[tuple[int, int, int]], src: int, dst: int) -> Descriptors:
    """Turn offsets into descriptors."""
    columns = np.array(rows, dtype=np.int64).T
    return Descriptors(columns[0] + src, columns[1] + dst, columns[2])


@settings(deadline=None, max_examples=30)
@given(rows=pieces(), seed=st.integers(0, 2**16))
def test_every_path_moves_what_a_plain_loop_moves(
    rows: list[tuple[int, int, int]], seed: int, copier: Copier, pools: tuple[Scratch, Scratch], host: Arena
) -> None:
    """Within the GPU, to pinned host memory and from it: each path leaves the bytes that a loop in Python does."""
    source = np.random.default_rng(seed).integers(0, 256, POOL, dtype=np.uint8)
    expected = np.zeros(POOL, dtype=np.uint8)
    for src, dst, size in rows:
        expected[dst : dst + size] = source[src : src + size]
    zeros = np.zeros(POOL, dtype=np.uint8)
    on_host = np.frombuffer(host.view(), dtype=np.uint8)
    for path in ("auto", *copier.paths):
        pools[0].write(source)
        pools[1].write(zeros)
        copier.submit(build(rows, pools[0].ptr, pools[1].ptr), copier.outgoing, path).wait(30)
        assert np.array_equal(pools[1].read(POOL), expected), f"{path} on the GPU"
        on_host[:] = 0
        copier.submit(build(rows, pools[0].ptr, host.ptr), copier.outgoing, path).wait(30)
        assert np.array_equal(on_host, expected), f"{path} to the host"
        on_host[:] = source
        pools[1].write(zeros)
        copier.submit(build(rows, host.ptr, pools[1].ptr), copier.incoming, path, stable=True).wait(30)
        assert np.array_equal(pools[1].read(POOL), expected), f"{path} from the host"
    del on_host


@pytest.mark.parametrize("block", [256, 4096, 28 << 10, 2 << 20])
def test_whole_blocks_go_there_and_back(copier: Copier, block: int) -> None:
    """Scattered blocks of a pool survive a trip to other places of an extent, and back to yet others."""
    count = min(300, (64 * MIB) // block)
    rng = np.random.default_rng(block)
    data = rng.integers(0, 256, count * block, dtype=np.uint8)
    places = [rng.permutation(count) for _ in range(3)]
    with copier.scratch(data.size) as pool, create("host", data.size) as extent:
        for path in copier.paths:
            if block > 64 << 10 and path in ("gather", "scatter"):
                continue
            pool.write(data)
            out = Descriptors.of_blocks(pool.ptr, places[0], extent.ptr, places[1], block)
            copier.submit(out, copier.outgoing, path).wait(30)
            pool.write(np.zeros_like(data))
            back = Descriptors.of_blocks(extent.ptr, places[1], pool.ptr, places[2], block)
            copier.submit(back, copier.incoming, path, stable=True).wait(30)
            found = pool.read(data.size).reshape(count, block)
            assert np.array_equal(found[places[2]], data.reshape(count, block)[places[0]]), path


def test_the_batch_path_is_there_with_a_driver_that_has_it(copier: Copier) -> None:
    """From CUDA 12.8 on, no slower path stands in for it; kernels are always there."""
    from aquasim.runtime.copy.cuda import runtime

    assert ("batch" in copier.paths) == (runtime().driverGetVersion() >= 12080)
    assert "kernel" in copier.paths


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 100_000)), min_size=1, max_size=8))
def test_checksums_equal_the_cpus(
    stretches: list[tuple[int, int]], copier: Copier, pools: tuple[Scratch, Scratch]
) -> None:
    """Any lengths at any alignment, many at once: the GPU's result is the CPU's."""
    data = np.random.default_rng(len(stretches)).integers(0, 256, POOL, dtype=np.uint8)
    pools[0].write(data)
    starts, sizes = (np.array(column, dtype=np.int64) for column in zip(*stretches, strict=True))
    found = copier.checksums(starts + pools[0].ptr, sizes, copier.incoming)
    assert found.tolist() == [checksum(data.ctypes.data + start, size) for start, size in stretches]


def test_a_copy_waits_for_compute_and_its_event_for_the_copy(copier: Copier) -> None:
    """A swap-out that waits for compute's event carries what compute wrote last, though it was queued long before."""
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(4 * MIB, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    with create("host", tensor.numel()) as arena:
        torch.cuda._sleep(400_000_000)  # cycles: about 0.2 s
        tensor.fill_(7)
        compute = copier.compute(torch.cuda.current_stream().cuda_stream)
        copier.outgoing.wait(compute.record())
        copies = Descriptors.of_blocks(tensor.data_ptr(), range(4), arena.ptr, (2, 3, 0, 1), MIB)
        event = copier.submit(copies, copier.outgoing)
        assert not event.done()
        assert not any(arena.view())
        event.wait(30)
        assert bytes(arena.view()) == b"\7" * tensor.numel()


def test_compute_waits_for_a_copy(copier: Copier, pools: tuple[Scratch, Scratch]) -> None:
    """What the compute stream does after waiting for a swap-in sees its bytes, and polling disturbs torch not."""
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(POOL, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    pools[0].write(np.full(POOL, 5, dtype=np.uint8))
    slow = torch.cuda.Stream()
    with torch.cuda.stream(slow):
        torch.cuda._sleep(100_000_000)
    gate = copier.compute(slow.cuda_stream).record()
    copier.incoming.wait(gate)
    event = copier.submit(build([(0, 0, POOL)], pools[0].ptr, tensor.data_ptr()), copier.incoming)
    assert not event.done()
    copier.compute(torch.cuda.current_stream().cuda_stream).wait(event)
    assert int((tensor == 5).sum()) == POOL
    assert event.done()
    assert event.since(gate) > 0


def test_streams_are_our_own_and_do_not_wait_for_each_other(
    copier: Copier, pools: tuple[Scratch, Scratch]
) -> None:
    """Neither is a default stream; one that is held up does not hold up the other."""
    torch = pytest.importorskip("torch")
    outgoing, incoming = (getattr(stream, "handle", 0) for stream in (copier.outgoing, copier.incoming))
    assert len({outgoing, incoming, 0, 1, 2}) == 5
    torch.cuda._sleep(200_000_000)
    copier.outgoing.wait(copier.compute(torch.cuda.current_stream().cuda_stream).record())
    held = copier.submit(build([(0, 0, 64)], pools[0].ptr, pools[1].ptr), copier.outgoing)
    copier.submit(build([(64, 64, 64)], pools[0].ptr, pools[1].ptr), copier.incoming).wait(30)
    assert not held.done()
    held.wait(30)


def test_misuse_is_refused(copier: Copier, pools: tuple[Scratch, Scratch]) -> None:
    """Overlaps, foreign streams, a CPU's events, and kernels over memory that no GPU reaches safely."""
    overlapping = build([(0, 0, 64), (64, 63, 64)], pools[0].ptr, pools[1].ptr)
    with pytest.raises(ValueError, match="overlap"):
        copier.submit(overlapping, copier.outgoing)
    with pytest.raises(ValueError, match="outgoing or incoming"):
        copier.submit(build([(0, 0, 1)], pools[0].ptr, pools[1].ptr), copier.compute())
    with pytest.raises(ValueError, match="GPU events"):
        copier.outgoing.wait(HostEvent())
    pageable: Any = np.zeros(4096, dtype=np.uint8)
    with pytest.raises(CopyError, match="is not pinned"):
        copier.submit(build([(0, 0, 64)], pageable.ctypes.data, pools[1].ptr), copier.incoming, "kernel")
    with pytest.raises(CopyError, match="no GPU 99"):
        open_copier(99)


def test_a_gpu_is_named_by_its_uuid(copier: Copier) -> None:
    """The name is torch's too, and opens the same GPU."""
    torch = pytest.importorskip("torch")
    assert copier.device == f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    with open_copier(copier.device) as same:
        assert same.device == copier.device
