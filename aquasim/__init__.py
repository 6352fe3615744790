"""aquasim: who runs, whose state moves, and where to, when GPU memory runs out.

import aquasim
run = aquasim.simulate("burst-h100", system="aqua", changes=["workload.arrivals.rate=2"])
run.summary()["ttft_p99"]
run.requests                      # a pandas DataFrame; also .steps, .spans, .transfers, ...
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aquasim.api import simulate as simulate

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load `simulate` when it is first asked for: importing the package imports nothing heavy."""
    if name == "simulate":
        from aquasim.api import simulate

        return simulate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
