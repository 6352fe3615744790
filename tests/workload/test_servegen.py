"""ServeGen: requests drawn from published distributions, on clients written here."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aquasim.workload import TraceError, Workload, read_trace


def rows(workload: Workload) -> list[list[int]]:
    """Return arrivals (ns), prompts and outputs."""
    return [workload.arrival.tolist(), workload.prompt.tolist(), workload.output.tolist()]


def client(folder: Path, number: int, trace: str, dataset: Any) -> None:
    """Write one ServeGen client, its trace packed and its data set plain."""
    (folder / f"chunk-{number}-trace.csv.gz").write_bytes(gzip.compress(trace.encode()))
    (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(dataset))


DAY = {
    "0": {"input_tokens": "{10: 0.5, 20: 0.5}", "output_tokens": "{0: 0.5, 3: 0.5}"},
    "21600": {"input_tokens": "{99: 1.0}", "output_tokens": "{7: 1.0}"},
}


@pytest.mark.parametrize("law", ["Gamma,0.04,7.0", "Gamma,1.0,9.0", "Weibull,0.5,3.0"])
def test_servegen_meets_the_rates_of_every_window(tmp_path: Path, law: str) -> None:
    """Expected counts are rate x 600 s, idle windows have none, whatever the fitted scale says.

    The counts' deviation is at most 5 (the gaps' CV) x sqrt(6000) = 390 for the most irregular law.
    """
    trace = f"0,10,1,{law}\n600,0,0,,0,0\n1200,0,0,,0,\n1800,20,1,{law}\n"
    client(tmp_path, 3, trace, DAY)
    found = read_trace(tmp_path, duration=2400, seed=5)
    counts = np.histogram(found.arrival / 1e9, [0, 600, 1800, 2400])[0]

    assert counts[1] == 0
    assert counts[0] == pytest.approx(6000, abs=4 * 390)
    assert counts[2] == pytest.approx(12000, abs=4 * 550)
    assert set(found.prompt.tolist()) == {10, 20}
    # A length of 0 counts as 1.
    assert set(found.output.tolist()) == {1, 3}
    assert found.notes[0] == "drawn from ServeGen's distributions of 1 clients with seed 5"


def test_servegen_lengths_follow_the_time_of_day(tmp_path: Path) -> None:
    """Each 6 h window has its histograms, and the published days repeat."""
    hours = "".join(f"{t},0.1,1,Gamma,1,1\n" for t in range(0, 60_000, 600))
    client(tmp_path, 3, hours, DAY)

    def prompts(start: float) -> set[int]:
        return set(read_trace(tmp_path, start=start, duration=3600).prompt.tolist())

    assert prompts(0) == {10, 20}
    assert prompts(21600) == {99}
    assert prompts(43200) == {10, 20}


def test_servegen_clients_are_independent_and_merge(tmp_path: Path) -> None:
    """A folder is the sum of its clients, each as when read alone; the limit takes the first."""
    client(tmp_path, 1, "0,1,1,Gamma,1,1\n", DAY)
    client(tmp_path, 12, "0,2,1,Weibull,0.8,1\n", DAY)
    both = read_trace(tmp_path, duration=600)
    one, two = (read_trace(tmp_path / f"chunk-{n}-trace.csv.gz", duration=600) for n in (1, 12))

    assert both.arrival.tolist() == sorted([*one.arrival.tolist(), *two.arrival.tolist()])
    assert rows(read_trace(tmp_path, limit=50)) == rows(both.head(50))


def test_servegen_errors(tmp_path: Path) -> None:
    """A missing half, an unbounded request, and bad contents name the file and the line."""
    with pytest.raises(TraceError, match=r"no chunk-N-trace\.csv"):
        read_trace(tmp_path, limit=1)
    client(tmp_path, 3, "0,1,1,Gamma,1,1\n", DAY)
    with pytest.raises(ValueError, match="give a limit or a duration"):
        read_trace(tmp_path)
    with pytest.raises(TraceError, match="no request in the time asked for"):
        read_trace(tmp_path, start=9999, duration=1)
    cases = [
        ("0,1,1,Gauss,1,1\n", r"trace\.csv\.gz:1: distribution is 'Gauss', Gamma or Weibull is needed"),
        ("0,0,0,,0,0\n600,1,1,Gamma,,1\n", r"trace\.csv\.gz:2: shape is '', a number > 0 is needed"),
        ("0,-1,1,Gamma,1,1\n", r"trace\.csv\.gz:1: rate is '-1', a finite number >= 0 is needed"),
        ("0,1,1,Gamma,1,1\n600,1\n", r"trace\.csv\.gz:2: 2 fields, 6 are needed"),
        ("0,1,1,Gamma,1,1\n300,1,1,Gamma,1,1\n", r"trace\.csv\.gz:2: start_s is less than 600 s after"),
    ]
    for trace, message in cases:
        client(tmp_path, 3, trace, DAY)
        with pytest.raises(TraceError, match=message):
            read_trace(tmp_path, limit=1)
    for dataset, message in (
        ([], "an object"),
        ({"x": {}}, "key 'x' is no start"),
        ({"0": {}}, "input_tokens of window 0: 'input_tokens'; the text of a dict"),
        ({"0": {"input_tokens": "__import__('os')"}}, "input_tokens of window 0: malformed"),
    ):
        client(tmp_path, 3, "0,1,1,Gamma,1,1\n", dataset)
        with pytest.raises(TraceError, match=message):
            read_trace(tmp_path, limit=1)
    (tmp_path / "chunk-3-dataset.json").unlink()
    with pytest.raises(TraceError, match=r"chunk-3-dataset\.json: client 3 has no such file"):
        read_trace(tmp_path, limit=1)
