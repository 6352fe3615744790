"""Inter-token gaps and repeated work, from tables, against the same run told token by token."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from truths import Made, Truth

from aquasim.records.stats import Progressions
from aquasim.records.tokens import Account, account

TABLES = ("requests", "steps", "spans", "chunks")
SYSTEMS: dict[str, dict[str, Any]] = {
    "recompute": {"policy": "fcfs", "blocks": 40},
    "prompt-only": {"policy": "fcfs-v0", "blocks": 40, "prefill": "prompt-only"},
    "slices": {"policy": "cfs", "slice_length": 5, "tiers": (("peer", 500),)},
    "overlapped slices": {"policy": "aqua", "slice_length": 8, "tiers": (("peer", 40), ("host", 500))},
    "swap": {"policy": "fcfs-swap", "blocks": 40, "tiers": (("host", 500),)},
}


def _accounted(truth: Truth) -> Account:
    return account(*(truth.run.columns(table) for table in TABLES))


def _expanded(gaps: Progressions) -> Counter[int]:
    """Every gap with its count."""
    found: Counter[int] = Counter()
    columns = gaps.first, gaps.last, gaps.growth, gaps.weight
    for first, last, growth, weight in zip(*(column.tolist() for column in columns), strict=True):
        for value in range(first, last + 1, growth or 1):
            found[value] += weight
    return found


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 15))
def test_gaps_are_those_of_every_token(toy: Made, seed: int, count: int) -> None:
    """Whatever a scheduler does, the distribution is the one of all gaps between tokens of one request."""
    truth = toy(seed, count=count)

    assert _expanded(_accounted(truth).gaps) == Counter(truth.gaps())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_recomputed_tokens_were_computed_before(toy: Made, seed: int) -> None:
    """Chunk tokens count as recomputed exactly where the request had them before."""
    truth = toy(seed)

    assert _accounted(truth).recomputed == truth.recomputed


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.data())
def test_requests_still_alive_are_left_out(toy: Made, seed: int, data: st.DataObject) -> None:
    """Without their row in `requests`, requests count for nothing; the others stay exact."""
    truth = toy(seed)
    requests = truth.run.columns("requests")
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=12, max_size=12)))
    recorded = {name: column[kept] for name, column in requests.items()}
    found = account(recorded, *(truth.run.columns(table) for table in TABLES[1:]))
    for id in requests["request"][~kept].tolist():
        del truth.tokens[id]

    assert _expanded(found.gaps) == Counter(truth.gaps())


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_gaps_of_simulated_engines(engine: Made, system: dict[str, Any]) -> None:
    """The real engine's tables give the gaps of the tokens its commands make, and every token once."""
    truth = engine(**system)
    requests = truth.run.columns("requests")
    made = {id: len(times) for id, times in truth.tokens.items()}

    assert truth.run.count("preemptions") > 0 or system["policy"] == "fcfs-v0"
    assert made == dict(zip(requests["request"].tolist(), requests["output_tokens"].tolist(), strict=True))
    assert _expanded(_accounted(truth).gaps) == Counter(truth.gaps())
