"""CPU time per decision, ours and vLLM's, on one workload: python tests/peer/bench.py PEER_ENVIRONMENT"""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "core"), str(TESTS / "peer")]

from batches import Workload, decide  # noqa: E402
from process import Vllm  # noqa: E402

from aquasim.core import Command, Event, Scheduler  # noqa: E402


class Timed:
    """Our scheduler with a stopwatch on both of its methods (around it: compiled classes are not subclassed)."""

    plan_s = handle_s = 0.0
    calls = 0

    def __init__(self, *arguments: Any) -> None:
        self._inner = Scheduler(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def plan(self, now: int) -> list[Command]:
        """Decide, and add up the time."""
        start = time.process_time()
        commands = self._inner.plan(now)
        Timed.plan_s += time.process_time() - start
        Timed.calls += 1
        return commands

    def handle(self, now: int, event: Event) -> None:
        """Record an event, and add up the time."""
        start = time.process_time()
        self._inner.handle(now, event)
        Timed.handle_s += time.process_time() - start


def load(*, caching: bool, usable: int) -> Workload:
    """Return 512 requests that arrive together, of which 256 run at a time if blocks last."""
    return {
        "num_blocks": usable + 1,
        "block_size": 16,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 2048,
        "max_model_len": 2048,
        "long_prefill_token_threshold": 0,
        "prefix_caching": caching,
        "requests": [{"step": 0, "prompt": 200 + i % 100, "output": 200 + i % 37} for i in range(512)],
    }


def ours(workload: Workload) -> tuple[float, float]:
    """Return our microseconds per call of `plan` and for the events of an iteration."""
    Timed.plan_s = Timed.handle_s = 0.0
    Timed.calls = 0
    with patch("aquasim.core.iterate.Scheduler", Timed):
        decide(workload)
    return 1e6 * Timed.plan_s / Timed.calls, 1e6 * Timed.handle_s / Timed.calls


def compare(vllm: Vllm, workload: Workload) -> str:
    """Return a row of the table."""
    answer = vllm.ask(workload)
    theirs = [1e6 * answer[key] / answer["calls"] for key in ("schedule_s", "update_s")]
    plan, handle = ours(workload)
    preemptions = sum(len(row["preempted"]) for row in answer["batches"])
    return f"{theirs[0]:14.0f}{theirs[1]:14.0f}{plan:10.1f}{handle:10.1f}{answer['calls']:12}{preemptions:13}"


def main(arguments: Sequence[str]) -> None:
    """Print a table of CPU microseconds per iteration."""
    loads = {
        "ample memory": load(caching=False, usable=10_000),
        "tight memory": load(caching=False, usable=5_000),
        "prefix cache": load(caching=True, usable=10_000),
    }
    print(f"{'us per iteration':16} vLLM schedule   vLLM update  our plan    handle  iterations  preemptions")
    with tempfile.TemporaryDirectory() as folder:
        vllm = Vllm(Path(arguments[0], "bin", "python"), Path(folder, "stderr.txt"))
        for name, workload in loads.items():
            print(f"{name:16}{compare(vllm, workload)}")
        vllm.close()


if __name__ == "__main__":
    main(sys.argv[1:])
