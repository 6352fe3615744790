"""First come, first served: admission control, what today's engines do."""

from aquasim.core.policies.base import Policy


class Fcfs(Policy):
    """vLLM V1: newcomers wait until their prompt fits; the last to come is preempted and recomputed.

    Source: `vllm/v1/core/sched/scheduler.py` 0.32, whose batches ours equal (tests/core/test_vllm_batches.py).
    With `prefill = "prompt-only"` it is vLLM 0.3 (`fcfs-v0`).
    """


class FcfsSwap(Policy):
    """vLLM V0's `preemption_mode = swap`: a preempted request moves to the host whole, and back whole.

    Nobody new starts while a paged request waits. The copy is given up on return, so each trip moves all.

    Args:
        overlap: transfers run beside compute instead of before the next iteration (not as released; chunked only).
    """

    pages = True
    keep_copies = False

    def __init__(self, *, overlap: bool = False) -> None:
        self.overlap = overlap
