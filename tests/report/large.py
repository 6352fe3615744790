"""A run of as many requests as wanted, made of columns: nothing is simulated, but the tables fit together."""

from typing import Any

import numpy as np

from aquasim.records.run import FIELDS, Run
from aquasim.records.tables import KINDS, LEASE_EVENTS, SOURCES

MS = 1_000_000
LABELS = {
    "engine": ["big"],
    "outcome": ["finished", "rejected", "aborted"],
    "reason": [""],
    "kind": list(KINDS),
    "tier": ["host"],
    "source": list(SOURCES),
    "event": list(LEASE_EVENTS),
}
META = {
    "system": "big",
    "policy": "cfs",
    "blocks": 100_000,
    "block_bytes": 2**20,
    "seed": 3,
    "requests": 0,
    "notes": [],
    "profile": "h100",
    "model": "Llama-3.1-8B",
    "links": {"gpu0.d2h": {"bytes": 1, "capacity": 5e10, "busy_s": 1.0}},
    "scenario": {"question": "What does a long run look like?", "machine": {"server": "8xH100", "gpus": [0]}},
}


def large_run(count: int, seed: int = 0, **meta: Any) -> Run:
    """Return a run: a request arrives per step, is prefilled in it, decodes for 40 steps; a fifth is paged once."""
    random = np.random.default_rng(seed)
    steps = count + 60
    step = np.arange(steps)
    start = step * 20 * MS
    request = np.arange(count)
    wait = (random.pareto(2.0, count) * 30).astype(np.int64).clip(0, 5000) * MS
    first = np.minimum(request + 1, steps - 1)
    last = np.minimum(first + random.integers(5, 40, count), steps - 1)
    arrival = np.maximum(start[request] - wait, 0)
    paged = request[::5]
    out = start[first[paged]]
    tables = {
        "requests": {
            "request": request,
            "arrival_ns": arrival,
            "admitted_ns": start[request],
            "first_token_ns": start[request] + 20 * MS,
            "finished_ns": start[last] + 20 * MS,
            "prompt_tokens": random.integers(16, 2000, count),
            "output_tokens": last - first + 1,
            "cached_tokens": np.zeros(count, np.int64),
            "outcome": np.zeros(count, np.int64),
        },
        "spans": {"request": request, "first_step": first, "last_step": last, "lane": request % 2},
        "steps": {
            "step": step,
            "start_ns": start,
            "first_ns": np.full(steps, 20 * MS),
            "growth_ns": np.zeros(steps, np.int64),
            "iterations": np.ones(steps, np.int64),
            "batch": np.full(steps, 20),
            "context_tokens": np.full(steps, 9000),
            "prefill_tokens": np.full(steps, 500),
            "prefills": np.ones(steps, np.int64),
            "free_blocks": random.integers(0, 100_000, steps),
            "waiting": random.integers(0, 50, steps),
            "paged": random.integers(0, 9, steps),
        },
        "chunks": {
            "step": request,
            "request": request,
            "start_token": np.zeros(count, np.int64),
            "tokens": np.full(count, 500),
        },
        "preemptions": {"time_ns": out, "request": paged},
        "transfers": {
            "transfer": np.arange(2 * len(paged)),
            "start_ns": np.repeat(out, 2),
            "end_ns": np.repeat(out, 2) + 5 * MS,
            "kind": np.tile([0, 1], len(paged)),
            "tier": np.zeros(2 * len(paged), np.int64),
            "blocks": np.full(2 * len(paged), 40),
            "requests": np.ones(2 * len(paged), np.int64),
        },
        "moves": {
            "transfer": np.arange(2 * len(paged)),
            "request": np.repeat(paged, 2),
            "blocks": np.full(2 * len(paged), 40),
        },
    }
    return Run.of_columns(_whole(tables), LABELS, {**META, "requests": count, **meta}, "big")


def _whole(tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add the columns that all tables have, and empty tables."""
    found = {}
    for table, names in FIELDS.items():
        given = tables.get(table, {})
        size = len(next(iter(given.values()), ()))
        zeros = np.zeros(size, np.int64)
        found[table] = {name: np.asarray(given.get(name, zeros), np.int64) for name in names}
    return found
