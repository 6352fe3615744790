"""Pure decode steps as CUDA graphs: one per batch size, over the arrays that the decode batch keeps anyway."""

from collections.abc import Callable
from typing import Any

import torch

Forward = Callable[[int], torch.Tensor]
"""(rows) -> logits `[rows, vocab]` of the first rows of the decode batch."""


_new_stream: Any = torch.cuda.Stream  # not typed in torch 2.13


def graph_sizes(capacity: int) -> list[int]:
    """Return batch sizes to capture: 1, 2, 4, 8, then every eighth, and `capacity` itself."""
    return sorted({size for size in (1, 2, 4, *range(8, capacity + 1, 8)) if size < capacity} | {capacity})


class DecodeGraphs:
    """Graphs of `forward` for several numbers of rows, captured while the batch is empty.

    Rows of nobody write to the pool's idle block, so that capturing changes no page. Inputs are read from the
    batch's own arrays at each replay: tokens, positions and block tables may change freely between steps, and copies
    stay outside. Graphs share one memory pool, largest first, so that together they take what the largest takes.
    """

    def __init__(self, forward: Forward, capacity: int, device: torch.device) -> None:
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._logits: dict[int, torch.Tensor] = {}
        self.sizes = graph_sizes(capacity)
        shared = None
        with torch.cuda.device(device), torch.inference_mode():
            for size in reversed(self.sizes):
                self._warm_up(forward, size)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=shared):
                    self._logits[size] = forward(size)
                shared = shared or graph.pool()
                self._graphs[size] = graph
            torch.cuda.synchronize(device)

    def run(self, rows: int) -> torch.Tensor:
        """Replay the smallest graph that holds `rows`; its logits `[rows, vocab]` last until the next replay."""
        size = next(size for size in self.sizes if size >= rows)
        self._graphs[size].replay()
        return self._logits[size][:rows]

    @staticmethod
    def _warm_up(forward: Forward, size: int) -> None:
        """Run twice beside the current stream: kernels are compiled and handles made before a capture may not."""
        side = _new_stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                forward(size)
        torch.cuda.current_stream().wait_stream(side)
