"""Many points of a scenario: planned, simulated wherever there are processors, stored, and folded.

`load_sweep` reads and checks a file, `run_sweep` simulates what a folder does not have yet and returns `Results`:
DataFrames of points and of candidates, with intervals over seeds, constraints, and the Pareto front.
"""

from aquasim.sweep.file import find_sweep
from aquasim.sweep.plan import Overrides, Sweep, load_sweep
from aquasim.sweep.results import Results
from aquasim.sweep.run import Outcome, backend, run_sweep

__all__ = ["Outcome", "Overrides", "Results", "Sweep", "backend", "find_sweep", "load_sweep", "run_sweep"]
