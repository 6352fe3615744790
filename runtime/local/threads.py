"""How many cores compute: the others decide, copy pages and serve clients."""

import os

MOST = 8
"""Small products of a batch gain nothing from more."""


def use_threads() -> int:
    """Let torch compute on half of the cores, at least one and at most `MOST`; return how many."""
    import torch

    threads = max(1, min(MOST, (os.cpu_count() or 1) // 2))
    torch.set_num_threads(threads)
    return threads
