"""One system of a scenario on this machine: a real model, real memory, real time, the records of a simulation."""

from aquasim.runtime.local.options import Options
from aquasim.runtime.local.run import run_local

__all__ = ["Options", "run_local"]
