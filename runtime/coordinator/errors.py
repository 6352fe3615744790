"""What can go wrong between coordinator, donors and consumers."""


class LeaseError(RuntimeError):
    """Lending cannot go on as asked; the text says why, and what to do."""


class RefusedError(LeaseError):
    """The coordinator will not have this process, or this process will not have the coordinator, ever."""


class ProtocolError(ValueError):
    """Bytes that are no message, or a message out of place: the end of the connection they came over."""
