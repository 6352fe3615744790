"""Which keys of `[workload]` belong to which kind of workload."""

from pathlib import Path
from typing import Any

import pytest

from aquasim.errors import UserError
from aquasim.scenario.schema import WorkloadTable
from aquasim.scenario.workloads import make_workload

LENGTH = {"kind": "fixed", "tokens": 5}
SYNTHETIC = {"requests": 9, "arrivals": {"kind": "poisson", "rate": 1}, "prompt": LENGTH, "output": LENGTH}
STAND_IN = {"stand_in": "azure-code", "requests": 9}
TRACE_ONLY = {"format": "azure", "tokenizer": "t.json", "model": "GPT-4", "start_s": 1.0}
OWN_LENGTHS = {"prompt": LENGTH, "output": LENGTH, "shared_prefix": {"groups": 2, "tokens": 3}}


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [(SYNTHETIC, *each) for each in (TRACE_ONLY | {"rate_scale": 4.0}).items()]
    + [(STAND_IN, *each) for each in (TRACE_ONLY | OWN_LENGTHS | {"duration_s": 2.0}).items()],
)
def test_a_key_that_would_do_nothing_is_refused(table: dict[str, Any], key: str, value: object) -> None:
    """Each key of another kind of workload is named, with what to use instead; without it the table is fine."""
    assert len(make_workload(WorkloadTable.model_validate(table), 1, 16)) == 9
    with pytest.raises(UserError, match=rf"^workload\.{key}: does nothing for a .*; \w+"):
        make_workload(WorkloadTable.model_validate(table | {key: value}), 1, 16)


def test_a_trace_stands_over_what_a_file_describes(tmp_path: Path) -> None:
    """With `path` set over a stand-in, or over lengths, requests are the trace's; nothing is refused."""
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.1,374,44\n")
    for table in (STAND_IN, SYNTHETIC):
        made = make_workload(WorkloadTable.model_validate(table | {"path": str(trace)}), 1, 16)
        assert (made.prompt.tolist(), made.output.tolist()) == ([374], [44])
        unused = "stand_in" if table is STAND_IN else "prompt, output"
        assert f"workload.{unused}: not used, {trace} says what is requested" in made.notes


def test_a_stand_in_can_come_faster() -> None:
    """`rate_scale` divides a stand-in's times; a default that is spelled out changes nothing anywhere."""
    slow = make_workload(WorkloadTable.model_validate(STAND_IN), 1, 16)
    fast = make_workload(WorkloadTable.model_validate(STAND_IN | {"rate_scale": 2.0}), 1, 16)
    assert fast.arrival[-1] == pytest.approx(slow.arrival[-1] / 2)
    assert len(make_workload(WorkloadTable.model_validate(SYNTHETIC | {"rate_scale": 1.0}), 1, 16)) == 9
