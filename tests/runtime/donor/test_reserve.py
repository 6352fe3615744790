"""Addresses stay while memory comes and goes: the same bytes here and there, and nowhere twice."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from aquasim.runtime.arenas import ArenaError, open_handle
from aquasim.runtime.arenas.reserve import Reserved, granularity

torch = pytest.importorskip("torch")

MIB = 1 << 20


def resident() -> int:
    """Return the bytes of shared memory that this process has mapped and present."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssShmem:"))


def test_a_piece_leaves_and_comes_back_with_its_bytes() -> None:
    """What was written is at the same address after it came back; other pieces never notice."""
    kept = Reserved("memfd", [MIB, 2 * MIB, MIB])
    row = kept.tensor()
    row.copy_(torch.arange(4 * MIB) % 251)
    before = row.clone()
    kept.leave(1)
    assert [kept.home(index) for index in range(3)] == [True, False, True]
    assert torch.equal(row[:MIB], before[:MIB])
    assert torch.equal(row[3 * MIB :], before[3 * MIB :])
    kept.come(1)
    assert torch.equal(row, before)
    kept.close()


def test_memory_that_left_is_not_resident_here() -> None:
    """Resident bytes go down by what leaves and up again as it comes: nothing is kept aside."""
    size = 16 * MIB
    kept = Reserved("memfd", [size] * 4)
    full = resident()
    kept.leave(2)
    kept.leave(0)
    assert resident() == full - 2 * size
    kept.come(2)
    assert resident() == full - size
    kept.come(0)
    assert resident() == full
    kept.close()
    assert resident() == full - 4 * size


def test_who_it_is_lent_to_has_the_same_memory() -> None:
    """Written there while it is away, read here once it is back; scrubbed while it is away, zeros in both."""
    kept = Reserved("memfd", [MIB, MIB])
    row = kept.tensor()
    row.fill_(7)
    arena = kept.leave(1)
    with arena.export() as handle:
        theirs = open_handle(handle)
    seen = np.frombuffer(theirs.view(), np.uint8)
    assert (seen == 7).all()
    arena.scrub()
    assert not seen.any()
    seen[:] = 9
    kept.come(1)
    assert bool((row[MIB:] == 9).all())
    row[MIB:] = 1
    assert (seen == 1).all()
    del seen
    theirs.close()
    kept.close()


def test_addresses_without_memory_fault() -> None:
    """Touching a piece that is away ends the process: a wrong block table cannot go unnoticed."""
    kept = Reserved("memfd", [MIB, MIB])
    row = kept.tensor()
    kept.leave(1)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        row[MIB + 5].item()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGSEGV
    kept.close()


def test_sizes_and_back_ends_that_cannot_be_are_refused() -> None:
    """Sizes that are no whole pages, none at all, a back end without ranges; descriptors do not leak."""
    before = len(os.listdir("/proc/self/fd"))
    for sizes in ([], [MIB, 100], [0]):
        with pytest.raises(ArenaError, match="memfd needs multiples of 4096"):
            Reserved("memfd", sizes)
    with pytest.raises(
        ArenaError, match="'cuda-ipc' cannot be mapped at a given address; valid: memfd, cuda-vmm"
    ):
        granularity("cuda-ipc")
    kept = Reserved("memfd", [MIB] * 3)
    kept.leave(1)
    kept.close()
    kept.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.gpu
def test_a_gpus_range_keeps_its_addresses_too() -> None:
    """The same with CUDA's virtual memory: contents at the same addresses, scrubbed while it is away."""
    step = granularity("cuda-vmm", 0)
    kept = Reserved("cuda-vmm", [step, step, step], place=0)
    row = kept.tensor()
    assert row.data_ptr() == kept.ptr
    row.fill_(5)
    torch.cuda.synchronize()
    arena = kept.leave(1)
    assert int(row[:step].sum()) == 5 * step
    kept.come(1)
    assert int(row.to(torch.int64).sum()) == 15 * step
    arena = kept.leave(1)
    arena.scrub()
    kept.come(1)
    assert not row[step : 2 * step].any()
    kept.close()
