"""Tensors in leased memory: never stale, on the host when nothing is leased, off an extent when it is called back."""

import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from faked import KIB, PERIOD_S, Fake, data, same, side

from aquasim.runtime.copy import CopyError
from aquasim.runtime.tensors import Moves, PeerPool, PoolFullError
from aquasim.runtime.tensors.ranges import ALIGN, Ranges

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([float("nan"), -0.0, math.inf, 1e-45]),
        torch.randn(3, 5, dtype=torch.bfloat16).t(),
        torch.randn(4, dtype=torch.complex64).conj(),
        torch.tensor(7),
        torch.zeros(0, 3, dtype=torch.float16),
        torch.tensor([True, False]),
        torch.randn(2, 3, requires_grad=True),
    ],
    ids=lambda tensor: f"{tensor.dtype}{list(tensor.shape)}",
)
def test_m05_every_kind_of_tensor_is_bit_identical(fake: Fake, tensor: "torch.Tensor") -> None:
    """Host, leased memory, host: dtype, shape and bits are those of the tensor that was put."""
    kept = fake.pool.put(tensor)
    extent = fake.grant()
    fake.later()
    assert side(kept) == "peer"
    assert same(kept.get(), tensor.detach().resolve_conj())
    assert same(kept.to_torch_tensor(), tensor.detach().resolve_conj())
    fake.revoke(extent)
    fake.pool.respond()
    assert side(kept) == "host"
    assert same(kept.get(), tensor.detach().resolve_conj())
    assert (kept.nbytes, kept.dtype, kept.shape) == (tensor.nbytes, tensor.dtype, tuple(tensor.shape))


def test_m05_a_view_is_the_memory_itself_and_pins_it(fake: Fake) -> None:
    """A view costs no copy and shows what is written; while it or a slice lives nothing moves, frees or closes."""
    kept = fake.pool.put(data(KIB))
    view = kept.to_torch_tensor()
    assert kept.to_torch_tensor().data_ptr() == view.data_ptr()
    kept.write(data(KIB, 1))
    assert same(view, data(KIB, 1))
    part = view[5:7].numpy()
    del view
    fake.grant()
    assert fake.later() == Moves()
    for deed in (kept.free, fake.pool.close):
        with pytest.raises(BufferError, match="drop them first"):
            deed()
    del part
    assert fake.pool.respond() == Moves(promoted=KIB)
    assert same(kept.get(), data(KIB, 1))


def test_m05_a_lapsed_lease_sends_writes_to_the_host(fake: Fake) -> None:
    """The extent is not written to, reads go on, the newest contents count, and the tensor follows in `respond`."""
    extent = fake.grant()
    fake.pool.respond()
    kept, other = fake.pool.put(data(KIB)), fake.pool.put(data(KIB, 7))
    fake.held[extent] = False
    before = bytes(extent.mapping.view())
    view = kept.to_torch_tensor()
    with pytest.raises(BufferError):
        kept.write(data(KIB, 1))
    assert same(view, data(KIB))
    del view
    kept.write(data(KIB, 1))
    kept.write(data(KIB, 2))
    assert kept.where == "peer"
    assert same(kept.get(), data(KIB, 2))
    assert same(kept.to_torch_tensor(), data(KIB, 2))
    assert bytes(extent.mapping.view()) == before
    assert fake.pool.respond() == Moves(demoted=KIB)
    assert (kept.where, other.where) == ("host", "peer")
    assert same(kept.get(), data(KIB, 2))
    fake.held[extent] = True
    assert fake.later() == Moves(promoted=KIB)
    assert same(kept.get(), data(KIB, 2))


def test_m05_a_failed_copy_changes_nothing(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """When copies fail, tensors are where they were, and no room is lost."""
    kept = fake.pool.put(data(KIB))
    fake.grant()

    def fail(rows: Any) -> None:
        raise CopyError("no")

    with monkeypatch.context() as patch:
        patch.setattr(fake.pool._mover, "copy", fail)
        with pytest.raises(CopyError):
            fake.pool.respond()
        with pytest.raises(CopyError):
            fake.pool.put(data(KIB))
    fake.pool.check()
    assert kept.where == "host"
    assert fake.pool.room == (16 * KIB, 63 * KIB)
    assert fake.pool.respond() == Moves(promoted=KIB)


def test_m06_host_first_and_leased_memory_when_it_comes(fake: Fake) -> None:
    """Without a lease tensors are on the host; a grant moves nothing until `respond`, then also new ones go there."""
    kept = fake.pool.put(data(KIB))
    fake.grant()
    assert side(kept) == "host"
    assert fake.pool.put(data(KIB)).where == "host"
    assert fake.pool.respond() == Moves(promoted=2 * KIB)
    assert side(kept) == "peer"
    assert fake.pool.put(data(KIB)).where == "peer"


def test_m06_at_most_once_per_period(fake: Fake) -> None:
    """A grant right after a move waits for the rest of the period; so does coming back after a reclaim."""
    kept = [fake.pool.put(data(12 * KIB, seed)) for seed in range(2)]
    first = fake.grant()
    assert fake.pool.respond() == Moves(promoted=12 * KIB)
    assert [tensor.where for tensor in kept] == ["peer", "host"]
    fake.grant()
    assert fake.later(PERIOD_S - 0.1) == Moves()
    assert fake.later(0.1) == Moves(promoted=12 * KIB)
    fake.revoke(first)
    fake.grant()
    assert fake.later() == Moves(demoted=12 * KIB)
    assert fake.later(PERIOD_S - 0.1) == Moves()
    assert fake.later(0.1) == Moves(promoted=12 * KIB)


def test_m06_the_largest_go_first(fake: Fake) -> None:
    """Of what fits, the largest, then the oldest: 10 + 6 KiB of an extent of 16, not 4 + 6 + 4."""
    sizes = [4, 6, 4, 10]
    kept = [fake.pool.put(data(size * KIB)) for size in sizes]
    fake.grant()
    fake.pool.respond()
    assert [tensor.where for tensor in kept] == ["host", "peer", "host", "peer"]


def test_m06_both_sides_full(fake: Fake) -> None:
    """The error names the bytes asked for and free, and nothing has changed; no tensor spans two extents."""
    fake.grant()
    fake.grant()
    fake.pool.respond()
    kept = fake.pool.put(data(60 * KIB))
    with pytest.raises(
        PoolFullError, match=r"20480 bytes asked for; free are 32768 leased and 4096 host .* 16384"
    ):
        fake.pool.put(data(20 * KIB))
    assert fake.pool.room == (32 * KIB, 4 * KIB)
    assert issubclass(PoolFullError, MemoryError)
    assert same(kept.get(), data(60 * KIB))


def test_m07_a_reclaim_is_answered_at_once(fake: Fake) -> None:
    """All tensors of the extent are demoted within the period, only then it is given back; others stay."""
    first = fake.grant(4 * KIB)
    second = fake.grant(4 * KIB)
    fake.pool.respond()
    kept = [fake.pool.put(data(2 * KIB, seed)) for seed in range(4)]
    fake.revoke(first)
    assert all(tensor.where == "peer" for tensor in kept)
    assert first in fake.held
    assert fake.pool.respond() == Moves(demoted=4 * KIB)
    assert [tensor.where for tensor in kept] == ["host", "host", "peer", "peer"]
    assert list(fake.held) == [second]
    assert all(same(tensor.get(), data(2 * KIB, seed)) for seed, tensor in enumerate(kept))


def test_m07_what_cannot_leave_yet_is_told_and_stays_readable() -> None:
    """With views, or with nowhere to go, the extent is kept, and left as soon as that is possible."""
    fake = Fake(host_bytes=KIB)
    extent = fake.grant(4 * KIB)
    fake.pool.respond()
    viewed, large = fake.pool.put(data(KIB)), fake.pool.put(data(2 * KIB, 1))
    view = viewed.to_torch_tensor()
    fake.revoke(extent)
    assert fake.pool.respond() == Moves(held=3 * KIB)
    assert same(view, data(KIB))
    assert same(large.get(), data(2 * KIB, 1))
    del view
    assert fake.pool.respond() == Moves(demoted=KIB, held=2 * KIB)
    fake.grant(4 * KIB)
    assert fake.pool.respond() == Moves(demoted=2 * KIB)
    assert (large.where, len(fake.held)) == ("peer", 1)
    assert same(large.get(), data(2 * KIB, 1))
    fake.pool.close()


def test_misuse_is_refused(fake: Fake) -> None:
    """Freed tensors, other shapes, sparse tensors, tensors out of reach, sizes below 0."""
    kept = fake.pool.put(data(KIB))
    for other in (data(KIB + 1), torch.zeros(KIB)):
        with pytest.raises(ValueError, match="does not fit"):
            kept.write(other)
    with pytest.raises(ValueError, match="contiguous"):
        kept.get(data(2 * KIB)[::2])
    for strange in (torch.eye(3).to_sparse(), torch.zeros(3, device="meta")):
        with pytest.raises(ValueError, match=r"dense|meta"):
            fake.pool.put(strange)
    kept.free()
    kept.free()
    with pytest.raises(ValueError, match="after it was freed"):
        kept.get()
    with pytest.raises(ValueError, match="below 0"):
        PeerPool(None, "t", -1, 0)


def test_ranges_are_first_fit_and_join() -> None:
    """Holes are filled from the front, and neighbours become one again."""
    ranges = Ranges(4 * ALIGN + 1)
    assert [ranges.take(ALIGN) for _ in range(5)] == [0, ALIGN, 2 * ALIGN, 3 * ALIGN, None]
    for offset in (0, 2 * ALIGN, ALIGN):
        ranges.give(offset, 1)
    assert (ranges.free, ranges.largest) == (3 * ALIGN, 3 * ALIGN)
    assert ranges.take(3 * ALIGN) == 0


def test_torch_is_loaded_late() -> None:
    """Importing the package does not import torch."""
    code = "import sys, aquasim.runtime.tensors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
