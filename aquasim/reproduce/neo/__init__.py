"""NEO (MLSys 2025; arXiv 2411.01142), claim by claim."""

from aquasim.reproduce.finding import Claim
from aquasim.reproduce.neo.both import Burst, Hosted
from aquasim.reproduce.neo.hosts import Hosts
from aquasim.reproduce.neo.lengths import FULL, LENGTHS
from aquasim.reproduce.neo.load import LOADS

TITLE = "NEO: Saving GPU Memory Crisis with CPU Offloading for Online LLM Inference (MLSys 2025)"
CLAIMS: dict[str, Claim] = {
    claim.key: claim for claim in (*LOADS, *LENGTHS, FULL, Hosts(), Burst(), Hosted())
}
"""Every claim by its key."""
