"""The lease protocol of `aquasim.core.leases` between real processes: one coordinator, donors, consumers.

They speak length-prefixed JSON frames (`channel`, `codec`, `wire`) over a Unix socket that only we can open
(`folder`); a handle's file descriptor travels beside its frame, donor to coordinator to consumer, when the consumer
asks for it, and stays nowhere. Who a process is can be proven by anybody, and so can its death (`identity`,
`deaths`), so that a coordinator can be killed and started again at any time: donors and consumers connect anew and
report, and the state is back. `link` is the clients' end of it; `aquasim.runtime.donor` and `aquasim.runtime.peers`
are what engines use.

The standard library is all it needs.
"""

from aquasim.runtime.coordinator.errors import LeaseError, ProtocolError, RefusedError
from aquasim.runtime.coordinator.folder import default_socket
from aquasim.runtime.coordinator.query import query
from aquasim.runtime.coordinator.serve import Settings, serve

__all__ = [
    "LeaseError",
    "ProtocolError",
    "RefusedError",
    "Settings",
    "default_socket",
    "query",
    "serve",
]
