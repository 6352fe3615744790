"""Independent random streams from one seed, so that changing one distribution moves nothing else."""

from collections.abc import Sequence

import numpy as np

STREAMS = ("arrivals", "prompt", "output", "prefix", "adapter")
"""The named streams, in the order in which the seed's children are spawned."""


def stream(seed: int, name: str, client: Sequence[int] = ()) -> np.random.Generator:
    """Return the generator of the stream `name`: child `STREAMS.index(name)` of `SeedSequence(seed)`.

    `client` selects a grandchild, for a workload that is a sum of several clients.
    Raises ValueError when `name` is not one of `STREAMS` or `seed` is negative.
    """
    if name not in STREAMS:
        raise ValueError(f"stream {name!r} is unknown, valid: {', '.join(STREAMS)}")
    if seed < 0:
        raise ValueError(f"seed is {seed}, a whole number >= 0 is needed")
    key = (STREAMS.index(name), *client)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
