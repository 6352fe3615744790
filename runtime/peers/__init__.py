"""A process that uses memory which others lend.

def moved_away(loan):        # the engine's thread, after its copies are done
    peers.emptied(loan)

peers = PeerClient(None, "gpu0", device=0, usable=queue.put, evacuate=leaving.put)
peers.start()
peers.want(4 << 30)
...
if peers.may_write(loan):    # local: no message, no waiting
    copier.submit(...)       # to loan.mapping.ptr
"""

from aquasim.runtime.peers.client import PeerClient
from aquasim.runtime.peers.mapped import Mapped, map_extent

__all__ = ["Mapped", "PeerClient", "map_extent"]
