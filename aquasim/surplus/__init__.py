"""How much memory a GPU can give, or needs: the profiler of a memory economy."""

from aquasim.surplus.judge import Judgement, judge
from aquasim.surplus.measured import read_sweep
from aquasim.surplus.produce import producer_room, producer_sweep
from aquasim.surplus.sweep import Point, Serve, rate_point, sweep

__all__ = [
    "Judgement",
    "Point",
    "Serve",
    "judge",
    "producer_room",
    "producer_sweep",
    "rate_point",
    "read_sweep",
    "sweep",
]
