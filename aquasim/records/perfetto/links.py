"""The links of a trace: a thread for each stored link, with a slice per copy that crossed it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from aquasim.records.perfetto.kinds import block_bytes
from aquasim.records.perfetto.tracks import Event, Track, process, rows
from aquasim.records.perfetto.write import Window, shown
from aquasim.records.run import Columns, Run

Ports = dict[str, list[tuple[Columns, str]]]
"""Copies by link: `start_ns`, `end_ns`, `bytes`, and what they are called."""


def link_events(run: Run, windows: list[Window], numbers: Iterator[int]) -> Iterator[Event]:
    """Give every stored link's copies, as far as records say which links they crossed.

    A copy's bytes are spread over its engine's GPUs. Ports of donors are drawn where each GPU has one.
    """
    links: dict[str, dict[str, float]] = run.meta.get("links") or {}
    if not links:
        return
    ports: Ports = {name: [] for name in links}
    for engine, window in enumerate(windows):
        for columns, name, way, tier in _copies(run, engine, window):
            gpus = gpus_of(run, engine)
            share = {**columns, "bytes": columns["bytes"] // max(1, len(gpus))}
            for port in _crossed(run, gpus, way, tier):
                whole = port.startswith("dram")  # all GPUs share it
                ports[port].append((columns if whole else share, f"{run.engines[engine]}: {name}"))
    pid = len(run.engines) + 1
    yield from process(pid, "links")
    for order, (name, link) in enumerate(links.items()):
        capacity = link.get("capacity") or 0.0
        title = f"{name} ({capacity / 1e9:,.3g} GB/s, busy {link.get('busy_s') or 0.0:,.3g} s)"
        yield from _link(Track(pid, title, order, numbers), ports[name], capacity)


def _link(track: Track, copies: list[tuple[Columns, str]], capacity: float) -> Iterator[Event]:
    """Give the copies that crossed one link, by their start."""
    if not copies:
        return
    names = [name for _, name in copies]
    joined = {key: np.concatenate([columns[key] for columns, _ in copies]) for key in copies[0][0]}
    joined["name"] = np.repeat(np.arange(len(copies)), [len(columns["bytes"]) for columns, _ in copies])
    for row in rows(joined, np.lexsort((joined["end_ns"], joined["start_ns"]))):
        about: dict[str, Any] = {"bytes": row["bytes"]}
        if row["end_ns"] > row["start_ns"]:
            rate = row["bytes"] / (row["end_ns"] - row["start_ns"])
            about["GB/s"] = rate
            about |= {"share": rate * 1e9 / capacity} if capacity else {}
        yield from track.put(names[row["name"]], row["start_ns"], row["end_ns"], about)


def _copies(run: Run, engine: int, window: Window) -> Iterator[tuple[Columns, str, str, str]]:
    """Give an engine's copies: when and how many bytes, what to call them, which way, and which tier."""
    table, size = run.columns("transfers", engine), block_bytes(run, engine)
    for way in ("out", "in"):
        for tier, name in enumerate(run.labels["tier"]):
            mine = (table["kind"] == run.labels["kind"].index(way)) & (table["tier"] == tier)
            sized = {**table, "bytes": table["blocks"] * (size or 0)}
            yield _picked(sized, "transfers", mine, window), f"pages {way}", way, name
    table = run.columns("fetches", engine)
    for code, source in enumerate(run.labels["source"]):
        yield _picked(table, "fetches", table["source"] == code, window), "fetch", "in", source
    table = run.columns("work", engine)
    for tier_name in ("peer", "host"):
        size_of = {**table, "bytes": table[f"{tier_name}_bytes"]}
        yield _picked(size_of, "work", size_of["bytes"] > 0, window), "work", "in", tier_name


def _picked(table: Columns, name: str, mine: np.ndarray, window: Window) -> Columns:
    picked = shown(name, table, window)
    picked = picked[mine[picked]]
    return {key: table[key][picked] for key in ("start_ns", "end_ns", "bytes")}


def gpus_of(run: Run, engine: int) -> list[int]:
    """Return an engine's GPUs; those of a tenant with several engines are shared out in order."""
    scenario = run.meta.get("scenario") or {}
    tenants = run.meta.get("tenants")
    if not tenants:
        named = run.meta.get("gpus") or (scenario.get("machine") or {}).get("gpus")
        return list(named or range((scenario.get("model") or {}).get("tp") or 1))
    name = next((t for t in tenants if _of(t, run.engines[engine])), None)
    gpus = list(tenants[name].get("gpus") or []) if name is not None else []
    mine = [e for e, called in enumerate(run.engines) if name is not None and _of(name, called)]
    each = len(gpus) // len(mine) if mine else 0
    return gpus[mine.index(engine) * each :][:each] if each else gpus


def _of(tenant: str, engine: str) -> bool:
    return engine == tenant or engine.startswith(f"{tenant}.")


def _crossed(run: Run, gpus: list[int], way: str, tier: str) -> list[str]:
    """Return the stored links that a copy between GPUs and a tier crosses."""
    links = run.meta["links"]
    to_host = "d2h" if way == "out" else "h2d"
    crossed = [f"gpu{gpu}.nvlink-{way}" for gpu in gpus] if tier == "peer" else []
    donors = ((run.meta.get("scenario") or {}).get("machine") or {}).get("donors") or []
    if tier == "peer" and len(donors) == len(gpus):
        crossed += [f"gpu{gpu}.nvlink-{'in' if way == 'out' else 'out'}" for gpu in donors]
    if tier == "host" or not any(name in links for name in crossed):
        crossed = [f"gpu{gpu}.{port}" for gpu in gpus for port in (to_host, "pcie")]
        drams = [name for name in links if name.startswith("dram")]
        crossed += drams if len(drams) == 1 else []
    return [name for name in crossed if name in links]
