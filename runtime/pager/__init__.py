"""Moves KV blocks between the cache and tiers of other memory, as a scheduler's transfers say.

    pager = Pager(copier, Window(pool.ptr, pool.block_bytes))
    pager.tier("host").add("arena", arena.ptr, arena.nbytes)
    pager.start(transfer, flight.pages)
    ...
    for number in pager.landed():
        scheduler.handle(now, TransferDone(number))

Importing needs numpy only.
"""

from aquasim.runtime.pager.pager import Check, Landed, Pager
from aquasim.runtime.pager.slots import Pieces, Slots, Window

__all__ = ["Check", "Landed", "Pager", "Pieces", "Slots", "Window"]
