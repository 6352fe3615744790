"""Torch tensors that live in memory which others lend, and in host memory where that does not reach.

    with PeerPool(None, "adapters", want_bytes=4 << 30, host_bytes=8 << 30) as pool:
        weights = pool.put(tensor)          # in leased memory if there is room
        ...
        use(weights.to_torch_tensor())      # ask again at every use; drop it before respond()
        pool.respond()                      # between two iterations: the only place where anything moves

Importing needs numpy only; torch is loaded with the first tensor.
"""

from aquasim.runtime.tensors.flight import Flight, Part
from aquasim.runtime.tensors.pool import PeerPool
from aquasim.runtime.tensors.tensor import AquaTensor
from aquasim.runtime.tensors.words import Moves, PoolFullError

__all__ = ["AquaTensor", "Flight", "Moves", "Part", "PeerPool", "PoolFullError"]
