"""Our core scheduler and vLLM's own decide alike, iteration by iteration, on random workloads.

There are no exceptions: any difference fails. What makes the two comparable: requests arrive one after the other,
also before the same iteration (vLLM breaks ties of priority by arrival time, `Request.__lt__`); each samples
tokens of its own, so generated text is never shared; a prompt and its output fit `max_model_len`, which fits the
pool (vLLM's engine refuses longer prompts before its scheduler sees them).
"""

import gzip
import json
from collections import Counter
from typing import Any

import pytest
from batches import RECORDED, decide, first_difference
from process import Vllm
from workloads import workloads

pytestmark = pytest.mark.peer


@pytest.mark.skipif(not RECORDED.exists(), reason=f"no recorded batches in {RECORDED}")
def test_driver_reproduces_recording(vllm: Vllm) -> None:
    """Our way of driving vLLM's scheduler gives the batches recorded by others, all of them."""
    with gzip.open(RECORDED, "rt") as lines:
        for number, case in enumerate(map(json.loads, lines)):
            recorded = [{**row, "preempted": sorted(map(int, row["preempted"]))} for row in case["batches"]]
            assert vllm.ask(case["workload"])["batches"] == recorded, f"case {number}"


@pytest.mark.parametrize(
    ("family", "count", "preemptions", "hits"),
    [
        ("chunked", 40, 400, 0),
        ("tight", 100, 1000, 0),
        ("small budget", 60, 150, 0),
        ("prefixes", 100, 1000, 100_000),
        ("identical", 100, 1000, 50_000),
        ("priority", 100, 1000, 0),
        ("priority, all else", 100, 300, 30_000),
    ],
)
def test_batches_equal(
    family: str, count: int, preemptions: int, hits: int, vllm: Vllm, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same requests run, wait and are preempted, with the same tokens and blocks, in every iteration."""
    seen: Counter[str] = Counter()
    different = []
    for number, workload in enumerate(workloads(family, count)):
        answer = vllm.ask(workload)
        difference = first_difference(decide(workload), answer["batches"])
        if difference:
            different.append(f"{family} {number}:\n{difference}")
        seen.update(counts(answer))
    with capsys.disabled():
        print(f"\n{family}: {count} workloads, {dict(seen)}")
    assert not different, f"{len(different)} of {count} differ, such as\n" + "\n".join(different[:3])
    assert seen["preemptions"] >= preemptions, "the workloads no longer press memory"
    assert seen["hit tokens"] >= hits, "the workloads no longer share prefixes"


def counts(answer: dict[str, Any]) -> dict[str, int]:
    """Return how much of what an answer holds."""
    return {
        "iterations": len(answer["batches"]),
        "preemptions": sum(len(row["preempted"]) for row in answer["batches"]),
        "hit tokens": answer["hit_tokens"],
    }
