"""How fast this core is right now: a fixed bit of work that resembles an engine's, timed again and again.

On shared machines a core's speed changes by half within seconds, whatever runs on it. The probe tells that speed, and
nothing of the engine: its work is always the same.
"""

import time

ROWS, WIDTH, OUTPUTS, GATHERED = 8, 384, 1024, 512


class Probe:
    """Calling it does the work once (some 0.2 ms on one core) and returns the CPU seconds it took. Needs torch."""

    def __init__(self) -> None:
        import torch

        made = torch.Generator().manual_seed(0)
        self._rows = torch.rand(ROWS, WIDTH, generator=made)
        self._weights = torch.rand(OUTPUTS, WIDTH, generator=made)
        self._table = torch.rand(4 * GATHERED, 128, generator=made)
        self._slots = torch.randint(0, 4 * GATHERED, (GATHERED,), generator=made)
        self._product = torch.nn.functional.linear
        self._gather = torch.nn.functional.embedding

    def __call__(self) -> float:
        """Do the work; return this thread's CPU seconds."""
        began = time.thread_time()
        self._product(self._rows, self._weights)
        self._gather(self._slots, self._table)
        total = 0
        for i in range(500):
            total += i
        return time.thread_time() - began
