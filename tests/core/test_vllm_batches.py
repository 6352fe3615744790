"""Our batches equal those recorded from vLLM's own V1 scheduler, and what running it beside ours has taught."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from batches import RECORDED, decide, first_difference

recorded = pytest.mark.skipif(not RECORDED.exists(), reason=f"no recorded batches in {RECORDED}")


def cases() -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return the recorded workloads and their batches."""
    with gzip.open(RECORDED, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    return [(row["workload"], [plain(batch) for batch in row["batches"]]) for row in rows]


def plain(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch whose preempted requests are sorted numbers."""
    return {**batch, "preempted": sorted(map(int, batch["preempted"]))}


def workload(requests: list[dict[str, Any]], **limits: Any) -> dict[str, Any]:
    """Return a workload in a small pool of blocks of 8 tokens."""
    defaults = {
        "block_size": 8,
        "max_num_seqs": 32,
        "max_num_batched_tokens": 512,
        "long_prefill_token_threshold": 0,
        "prefix_caching": False,
    }
    return {**defaults, **limits, "requests": requests}


@recorded
def test_every_recorded_batch_is_ours() -> None:
    """In all recorded workloads the same requests run, wait and are preempted in every iteration."""
    different = {i: first_difference(decide(load), batches) for i, (load, batches) in enumerate(cases())}

    assert len(different) == 120
    assert {i: text for i, text in different.items() if text} == {}


@recorded
@pytest.mark.parametrize("number", [16, 17])
def test_command_line_prints_recorded_batches(number: int, tmp_path: Path) -> None:
    """`aquasim schedule` prints one JSON line per iteration: the recorded ones (17 has prefixes to share)."""
    load, batches = cases()[number]
    file = tmp_path / "workload.json"
    file.write_text(json.dumps(load), encoding="utf-8")
    command = [sys.executable, "-m", "aquasim", "schedule", str(file), "--policy", "fcfs"]

    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert sum(len(batch["preempted"]) for batch in batches) >= 10
    assert first_difference([plain(json.loads(line)) for line in printed.splitlines()], batches) == ""


def test_equal_priorities_preempt_the_latest() -> None:
    """Among running requests of one priority that arrived together the last to arrive gives way, as in vLLM."""
    requests = [{"step": 0, "prompt": 8, "output": 4, "priority": 0} for _ in range(3)]

    batches = decide(workload(requests, num_blocks=4, max_model_len=24, policy="priority"))

    assert [batch["tokens"] for batch in batches[:2]] == [{"0": 8, "1": 8, "2": 8}, {"0": 1}]
    assert batches[1]["preempted"] == [1, 2]


def test_cache_is_used_up_before_a_prefill_gives_way() -> None:
    """A decoder before a prefilling request takes the last free block, also one with content, not the victim's.

    Request 5 was preempted; its block is the last free one. Request 1 needs a block and takes it; only then does
    request 4, in the middle of its prompt, find none and give way. So 5 finds nothing of its own any more.
    """
    text = list(range(45))
    other = text[:7] + list(range(100, 108))
    rows = [(97, text[:5], 36), (99, text[:9], 33), (101, text[:1], 32), (102, other, 24), (108, text, 5)]
    rows.append((109, text[:1], 11))
    requests = [{"step": step, "prompt": prompt, "output": output} for step, prompt, output in rows]

    batches = decide(
        workload(
            requests, num_blocks=21, max_model_len=79, long_prefill_token_threshold=7, prefix_caching=True
        )
    )

    at = {batch["i"]: batch for batch in batches}
    assert at[131]["preempted"] == [5]
    assert at[132]["preempted"] == [4]
    assert at[133]["tokens"] == {"4": 7, "5": 7}
