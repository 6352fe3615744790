"""The Mooncake traces (kvcache-ai/Mooncake): one JSON object per line, with block hashes for prefix reuse."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from aquasim.workload.table import LATEST, IntArray
from aquasim.workload.traces.source import Options, Rows, TraceError, at_least_one, decode

FIELDS = ("timestamp", "input_length", "output_length", "hash_ids")

BLOCK = 512
"""Tokens per hash id; the last id of a request may stand for fewer."""


def read(path: Path, data: bytes, options: Options) -> Rows:
    """Read timestamp (milliseconds), input_length, output_length and hash_ids."""
    lines = decode(path, data).split("\n")
    records = [_record(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    prefix = [record[3] for record in records]
    numbers = np.array([record[:3] for record in records], np.float64)
    prompt, prompt_notes = at_least_one(numbers[:, 1].astype(np.int64), "prompt")
    output, output_notes = at_least_one(numbers[:, 2].astype(np.int64), "output")
    notes = prompt_notes + output_notes
    if not _is_chain(prefix):
        prefix = _chained(prefix)
        notes += ("hash_ids name blocks, not prefixes: they were chained",)
    arrival = np.rint(numbers[:, 0] * 1e6).astype(np.int64)
    return Rows(prompt, output, arrival, prefix=prefix, prefix_block=BLOCK, notes=notes)


def _record(path: Path, line: int, text: str) -> tuple[float, int, int, tuple[int, ...]]:
    try:
        record = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise TraceError.at(
            path, line, "not valid JSON, one object per line is needed (truncated?)"
        ) from None
    if not isinstance(record, dict) or any(name not in record for name in FIELDS):
        found = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise TraceError.at(path, line, f"found {found}; needed {', '.join(FIELDS)}")
    timestamp, prompt, output, ids = (record[name] for name in FIELDS)
    if type(timestamp) not in (int, float) or not 0 <= timestamp <= LATEST / 1e6:
        raise _error(path, line, "timestamp", timestamp, "milliseconds >= 0 are needed")
    for name, value in (("input_length", prompt), ("output_length", output)):
        if type(value) is not int or not 0 <= value <= 2**53:
            raise _error(path, line, name, value, "a whole number >= 0 is needed")
    # The set of types looks at every id at the speed of C.
    if not isinstance(ids, list) or not set(map(type, ids)) <= {int}:
        raise _error(path, line, "hash_ids", ids, "a list of whole numbers is needed")
    if len(ids) > -(-max(prompt, 1) // BLOCK):
        raise _error(
            path, line, "input_length", prompt, f"more is needed for {len(ids)} hash_ids of {BLOCK} tokens"
        )
    return timestamp, prompt, output, tuple(ids)


def _error(path: Path, line: int, name: str, value: Any, valid: str) -> TraceError:
    shown = json.dumps(value)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return TraceError.at(path, line, f"{name} is {shown}, {valid}")


def _is_chain(prefix: list[tuple[int, ...]]) -> bool:
    """Tell whether every id always follows the same id, so that an id stands for the whole prefix."""
    try:
        ids = np.fromiter(chain.from_iterable(prefix), np.int64)
    except OverflowError:
        return False
    if not ids.size:
        return True
    # An id's parent is the position of the one before it, as a rank in `ids`; a first id has parent -1.
    rank: IntArray = np.unique(ids, return_inverse=True)[1].reshape(-1)
    parent = np.append(-1, rank[:-1])
    starts = np.cumsum([0, *map(len, prefix)])[:-1]
    parent[starts[starts < ids.size]] = -1
    first = np.empty(int(rank.max()) + 1, np.int64)
    first[rank] = parent
    return bool((first[rank] == parent).all())


def _chained(prefix: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return chain hashes for block hashes: a number for each distinct (chain before it, block)."""
    known: dict[tuple[int, int], int] = {}
    result = []
    for ids in prefix:
        before, row = -1, []
        for block in ids:
            before = known.setdefault((before, block), len(known))
            row.append(before)
        result.append(tuple(row))
    return result
