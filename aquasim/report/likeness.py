"""Whether runs can be compared: the same model, machine, engine and workload, under different systems."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aquasim.records.run import Run

KEYS = ("model", "machine", "workload", "engine", "duration_s")
"""What of a scenario must be the same."""
OF_TENANTS = ("kind", "model", "workload")
"""What of each tenant; the rest is what systems change."""
MOST, MOST_LABELS, LONGEST = 8, 3, 60
"""Keys that are named, runs that are named for a value, and characters of a value."""


def differences(runs: Sequence[tuple[str, Run]]) -> dict[str, list[str]]:
    """Return the keys in which the runs' scenarios differ, each with its values and the runs that had them.

    Systems, seeds and words do not count. Nothing: the runs are of one experiment.
    """
    flat = [dict(_flat(_compared(run.meta))) for _, run in runs]
    found = {}
    for key in dict.fromkeys(key for each in flat for key in each):
        labels: dict[str, list[str]] = {}
        for (label, _), each in zip(runs, flat, strict=True):
            labels.setdefault(_value(each.get(key)), []).append(label)
        if len(labels) > 1:
            found[key] = [f"{value} ({_named(names)})" for value, names in labels.items()]
    return found


def in_words(found: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a line for each key, the first ones."""
    lines = [f"{key}: {'; '.join(values)}" for key, values in list(found.items())[:MOST]]
    more = list(found)[MOST:]
    return [*lines, f"and {len(more)} more: {', '.join(more)}"] if more else lines


def tables(found: Mapping[str, Any]) -> str:
    """Return the tables of a scenario that differ, as words."""
    names = [name for name in (*KEYS, "tenants") if any(key.split(".")[0] == name for key in found)]
    return " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), *names[-1:]])


def _compared(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a run's scenario makes it this experiment and no other."""
    scenario = meta.get("scenario") or {}
    kept = {key: scenario.get(key) for key in KEYS}
    tenants = scenario.get("tenants")
    if isinstance(tenants, Mapping):
        kept["tenants"] = {
            name: {key: table.get(key) for key in OF_TENANTS} if isinstance(table, Mapping) else table
            for name, table in tenants.items()
        }
    return kept


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Give every value that is no table, by its path."""
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{path}.{key}" if path else str(key))


def _value(value: Any) -> str:
    if value is None:
        return "not given"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _named(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
    return ", ".join(labels[:MOST_LABELS]) + more
