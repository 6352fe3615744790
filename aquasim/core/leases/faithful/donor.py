"""AQUA's released producer side: lease bytes out, take the whole lease back."""

from aquasim.core.leases.faithful.messages import (
    COORDINATOR_ID,
    LOCAL_ID,
    CreateStore,
    EndReclaim,
    Message,
    Offer,
    Poll,
    ReclaimStatus,
    Refused,
    RequestReclaim,
    ResizeStore,
    Returned,
    Sent,
    StartReclaim,
    StoreStatus,
)


class Donor:
    """The released donor protocol: lease what is free, take the whole lease back, poll until it is there."""

    def __init__(self, gpu: int) -> None:
        self.gpu = gpu
        self.created = False
        self.leased = 0
        """Bytes leased out: the store's capacity."""
        self.reclaiming = False
        self._polling = False

    def handle(self, now: int, message: Message) -> Sent:
        """Take a message from the engine or a reply of the coordinator; `now` plays no part."""
        match message:
            case Offer(bytes=size):
                return self._offer(size)
            case StartReclaim():
                assert self.leased, "nothing to reclaim"
                assert not self.reclaiming, "already reclaiming"
                self.reclaiming = True
                return [(COORDINATOR_ID, RequestReclaim(self.gpu, self.gpu))]
            case Poll() if self.reclaiming and not self._polling:
                self._polling = True
                return [(COORDINATOR_ID, ReclaimStatus(self.gpu, self.gpu))]
            case StoreStatus(can_reclaim=back):
                self._polling = False
                return self._take_back() if back and self.reclaiming else []
            case Refused(reason=reason):
                raise AssertionError(f"the coordinator refused GPU {self.gpu}: {reason}")
        return []

    def wake_at(self) -> None:
        """Never: the engine polls when it informs."""

    def _offer(self, size: int) -> Sent:
        assert size >= 0, f"offer of {size} bytes"
        assert not self.reclaiming, "offer during a reclaim"
        self.leased += size
        if self.created:
            return [(COORDINATOR_ID, ResizeStore(self.gpu, self.gpu, size))]
        self.created = True
        return [(COORDINATOR_ID, CreateStore(self.gpu, self.gpu, f"cuda:{self.gpu}", size))]

    def _take_back(self) -> Sent:
        """Shrink first, unmark second, so that nobody allocates in between."""
        back, self.leased, self.reclaiming = self.leased, 0, False
        return [
            (COORDINATOR_ID, ResizeStore(self.gpu, self.gpu, -back)),
            (COORDINATOR_ID, EndReclaim(self.gpu, self.gpu)),
            (LOCAL_ID, Returned(back)),
        ]

    def check(self) -> None:
        """Assert that only what is leased is reclaimed."""
        assert self.leased >= 0
        assert self.leased or not self.reclaiming
