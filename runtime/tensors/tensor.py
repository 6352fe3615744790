"""A tensor whose bytes a pool may move: asked for at every use, never remembered as a pointer."""

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from aquasim.runtime.tensors.flight import Flight
from aquasim.runtime.tensors.place import Place

if TYPE_CHECKING:
    import torch

    from aquasim.runtime.tensors.pool import PeerPool


class AquaTensor:
    """What `PeerPool.put` returns; for the pool's thread. It lasts until `free`, even if nobody refers to it.

    A view (`to_torch_tensor`) and everything that shares its storage pin the bytes: the pool does not move, free or
    redirect them while one is alive, so that no view can ever be stale. A torch tensor cannot check a generation when
    it is used, which is why the pool refuses instead. Drop views before `respond()`, else a donor waits for you.
    """

    def __init__(self, pool: "PeerPool", serial: int, place: Place, like: "torch.Tensor") -> None:
        self.dtype: torch.dtype = like.dtype
        """Type of the elements."""
        self.shape: tuple[int, ...] = tuple(like.shape)
        """Elements along each dimension."""
        self.nbytes = like.nbytes
        """Bytes of the contents."""
        self.device: torch.device = like.device
        """Where it was when it was put, and where `get` makes its results."""
        self._pool = pool
        self._serial = serial
        self._place: Place | None = place
        """None once it is freed."""
        self._staged: Place | None = None
        """Host memory with newer contents, written while the lease did not allow it; `respond` settles it."""
        self._base: weakref.ref[memoryview] | None = None
        """What all views that are alive keep alive."""
        self._flights: list[Flight] = []
        """Copies that run beside the caller, and may be done."""

    @property
    def where(self) -> Literal["peer", "host"]:
        """Where it is since the last `respond()`; raises ValueError once it is freed."""
        return self._held().stretch.kind

    @property
    def viewed(self) -> bool:
        """Whether a view is alive or a flight under way."""
        if self._flights:
            self._flights = [flight for flight in self._flights if not flight.done()]
        return bool(self._flights) or (self._base is not None and self._base() is not None)

    def to_torch_tensor(self) -> "torch.Tensor":
        """Return the contents as a view, without a copy; for reading, until the next `respond()`.

        Write with `write`, which asks the lease first. Do not let copies that run by themselves (`non_blocking`)
        outlive the view. Raises ValueError once it is freed, ArenaError for memory of a GPU (use `get`).
        """
        import torch

        place = self._current()
        if not self.nbytes:
            return torch.empty(self.shape, dtype=self.dtype)
        base = None if self._base is None else self._base()
        if base is None:
            base = place.view()
            self._base = weakref.ref(base)
        return torch.frombuffer(base, dtype=self.dtype).view(self.shape)

    def get(self, out: "torch.Tensor | None" = None) -> "torch.Tensor":
        """Copy the contents to `out`, or to a new tensor on `device`; return it when they are there.

        Raises ValueError once it is freed, and for an `out` of other dtype or shape, that is not contiguous, or is
        where the pool's copies do not reach.
        """
        import torch

        place = self._current()
        if out is None:
            out = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        self._check(out)
        if not out.is_contiguous() or out.is_conj() or out.is_neg():
            raise ValueError("out must be contiguous, neither conjugated nor negated lazily")
        self._pool._mover.read(place, out)
        return out

    def write(self, tensor: "torch.Tensor") -> None:
        """Replace the contents; reads give the new ones at once.

        Where the lease does not allow writes (it has lapsed, or the extent must be left), they go to host memory, and
        the tensor follows at the next `respond()`. Raises ValueError once it is freed and for another dtype or shape,
        PoolFullError if host memory is needed and full, BufferError if it is needed and views are alive; each time
        nothing has changed.
        """
        place = self._current()
        self._check(tensor)
        self._land()
        self._pool._write(self, place, tensor)

    def free(self) -> None:
        """Let go of the memory; twice is harmless. Raises BufferError, and nothing has changed, while viewed."""
        self._pool.free(self)

    def __repr__(self) -> str:
        place = "freed" if self._place is None else self.where
        return f"<AquaTensor {list(self.shape)} {self.dtype}: {self.nbytes} bytes, {place}>"

    def _held(self) -> Place:
        if self._place is None:
            raise ValueError(f"{self!r} is used after it was freed")
        return self._place

    def _current(self) -> Place:
        """Where the newest contents are."""
        held = self._held()
        return held if self._staged is None else self._staged

    def _land(self) -> None:
        """Wait for the flights that are under way."""
        while self._flights:
            self._flights.pop().wait()

    def _check(self, other: "torch.Tensor") -> None:
        """Raise ValueError for a tensor that cannot be exchanged with this one."""
        if (other.dtype, tuple(other.shape)) != (self.dtype, self.shape):
            raise ValueError(
                f"{other.dtype} {list(other.shape)} does not fit {self.dtype} {list(self.shape)}"
            )
        self._pool._mover.check(other)


def refuse_viewed(tensors: Iterable[AquaTensor]) -> None:
    """Raise BufferError if one of them has views or flights."""
    viewed = [tensor for tensor in tensors if tensor.viewed]
    if viewed:
        raise BufferError(f"views are alive, drop them first: {viewed}")
