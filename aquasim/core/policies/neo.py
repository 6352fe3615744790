"""NEO: some requests live in host memory and decode on its cores, beside the GPU (MLSys 2025)."""

from aquasim.core.policies.base import LaneRules, Policy


class Neo(Policy):
    """NEO's scheduler (appendix A): each iteration has two lanes or the GPU alone, whichever serves more per second.

    Needs a `Predictor`. `faithful` leaves out the guards against its livelocks.
    """

    pages = True
    keep_copies = False
    lanes = LaneRules()

    def __init__(self, *, faithful: bool = False) -> None:
        self.lanes = LaneRules(guarded=not faithful)


class GpuOnly(Policy):
    """NEO's baseline: the same engine, nothing on the host's cores; memory runs out: the newest is swapped out."""

    pages = True
    keep_copies = False
    lanes = LaneRules(host=False)


class FastDecode(Policy):
    """FastDecode+: every request's KV cache in host memory, all decode attention on its cores, two equal lanes.

    Needs a `Predictor`. `faithful` as for `Neo`.
    """

    pages = True
    keep_copies = False
    lanes = LaneRules(gpu=False)

    def __init__(self, *, faithful: bool = False) -> None:
        self.lanes = LaneRules(gpu=False, guarded=not faithful)
