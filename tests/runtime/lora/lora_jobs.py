"""Requests for adapters, and what an executor loaded for them."""

import random

import numpy as np
from lora_model import ADAPTERS

from aquasim.records.tables import COLUMNS
from aquasim.runtime.executor import Executor

NAMES = [adapter.name for adapter in ADAPTERS]
Jobs = list[tuple[list[int], int, str | None]]


def jobs(seed: int, count: int) -> Jobs:
    """Return prompts, lengths and adapters, some of them none."""
    rng = random.Random(seed)
    return [
        (
            [rng.randrange(97) for _ in range(rng.randint(3, 9))],
            rng.randint(3, 12),
            rng.choice([*NAMES, None]),
        )
        for _ in range(count)
    ]


def submit(executor: Executor, wanted: Jobs, turns: int = 0) -> dict[int, list[int]]:
    """Submit all, with some turns after each; return where their tokens will be."""
    told: dict[int, list[int]] = {}
    for id, (prompt, count, adapter) in enumerate(wanted):
        told[id] = []
        executor.submit(
            id, prompt, count, adapter=adapter, on_token=lambda id, token, last: told[id].append(token)
        )
        for _ in range(turns):
            executor.turn()
    return told


def fetches(executor: Executor, column: str) -> list[int]:
    """Return a column of what was loaded."""
    rows = np.frombuffer(executor.tables.rows["fetches"], np.int64).reshape(-1, len(COLUMNS["fetches"]))
    found: list[int] = rows[:, COLUMNS["fetches"].index(column)].tolist()
    return found
