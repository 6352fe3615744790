"""The result of one run, simulated or measured: its tables as numpy columns or DataFrames, its summary."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from aquasim.records.stats import Ints
from aquasim.records.tables import COLUMNS, KINDS, LEASE_EVENTS, SOURCES, Outcome, RunTables

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, Ints]

OUTCOMES = tuple(outcome.name.lower() for outcome in Outcome)

FIELDS: dict[str, tuple[str, ...]] = {
    table: ("engine", *names, "reason") if table == "requests" else ("engine", *names)
    for table, names in COLUMNS.items()
}
"""Every table's columns in a run: those of `COLUMNS` after the engine, and why a request was rejected."""


class Run:
    """One run: what was run (`meta`), on which engines, and what happened.

    Tables come as numpy columns (`columns`) and as DataFrames (`requests`, `steps`, ...; pandas is imported
    when one is asked for). A column named in `labels` holds indices into that list of names; DataFrames show
    the names. Times are nanoseconds from the start of the run, -1 where something did not happen.
    """

    def __init__(
        self, engines: Sequence[tuple[str, RunTables]], meta: Mapping[str, Any], name: str | None = None
    ) -> None:
        """Make a run of each engine's tables, which must not grow any more: one engine's are not copied.

        Args:
            engines: (name, tables) of each.
            meta: what was run, JSON-able: scenario, profile, versions, seed, notes. The summary reads
                `block_bytes` (bytes of one KV block), `blocks` (HBM blocks of an engine: a number, or one per
                engine name), `links` and `slo` from it.
            name: what to call the run; default: its engines.
        """
        tiers = sorted({tier for _, tables in engines for tier in tables.tiers})
        reasons = ["", *sorted({reason for _, tables in engines for reason in tables.reasons.values()})]
        parts = [_columns(tables, tiers, reasons) for _, tables in engines]
        labels = {
            "engine": [engine for engine, _ in engines],
            "outcome": list(OUTCOMES),
            "reason": reasons,
            "kind": list(KINDS),
            "tier": tiers,
            "source": list(SOURCES),
            "event": list(LEASE_EVENTS),
        }
        joined = {table: _join(table, [part[table] for part in parts]) for table in COLUMNS}
        self._hold(joined, labels, meta, name)

    @classmethod
    def of_columns(
        cls, tables: dict[str, Columns], labels: dict[str, list[str]], meta: Mapping[str, Any], name: str
    ) -> "Run":
        """Make a run of finished columns, as `columns` and `labels` give them."""
        run = cls.__new__(cls)
        run._hold(tables, labels, meta, name)
        return run

    def _hold(
        self,
        tables: dict[str, Columns],
        labels: dict[str, list[str]],
        meta: Mapping[str, Any],
        name: str | None,
    ) -> None:
        self.meta = dict(meta)
        self.labels = labels
        """Names that the columns `engine`, `outcome`, `reason`, `kind`, `tier`, `source` and `event` index."""
        self.name = ", ".join(self.engines) if name is None else name
        self.log: list[tuple[int, Any]] | None = None
        """The first engine's events for replay, if they were recorded. Not stored in run folders."""
        self.commands: list[Any] | None = None
        """What it decided on them, where a real executor noted that."""
        self._summaries: dict[tuple[tuple[str, float], ...], dict[str, Any]] = {}
        self._tables = tables
        self._bounds = {
            table: np.searchsorted(columns["engine"], range(len(self.engines) + 1)).tolist()
            for table, columns in tables.items()
        }

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.count(table):,} {table}" for table in ("requests", "steps", "transfers"))
        return f"<Run {self.name!r} on {', '.join(self.engines)}: {counts}>"

    def _repr_html_(self) -> str:
        """Show the run in a notebook: its figures and two charts."""
        # By name: who compiles or checks this module need not read Altair's 100,000 lines of types.
        shown: str = import_module("aquasim.report.notebook").run_html(self)
        return shown

    @property
    def engines(self) -> list[str]:
        """Names of the engines, in the order of the column `engine`."""
        return self.labels["engine"]

    def count(self, table: str) -> int:
        """Return the number of a table's rows."""
        return len(self._tables[table]["engine"])

    def columns(self, table: str, engine: int | None = None) -> Columns:
        """Return a table's columns (not to be written to), `engine` first, of all engines or of one."""
        columns = self._tables[table]
        if engine is None or len(self.engines) == 1:
            return dict(columns)
        rows = slice(*self._bounds[table][engine : engine + 2])
        return {name: column[rows] for name, column in columns.items()}

    def only(self, tenant: str) -> "Run":
        """Return the run of one tenant of several (`meta["tenants"]`): its engines' rows, its sizes.

        A tenant's engines are called as it is, or as it is with a dot and more.
        """
        mine = [i for i, e in enumerate(self.engines) if e == tenant or e.startswith(f"{tenant}.")]
        assert mine, f"no engine of {tenant}"
        bounds = mine[0], mine[-1] + 1
        tables = {}
        for table, columns in self._tables.items():
            rows = slice(self._bounds[table][bounds[0]], self._bounds[table][bounds[1]])
            tables[table] = {name: column[rows] for name, column in columns.items()}
            tables[table]["engine"] = tables[table]["engine"] - mine[0]
        labels = {**self.labels, "engine": [self.engines[i] for i in mine]}
        sizes = {key: self.meta[key].get(self.engines[mine[0]]) for key in ("blocks", "block_bytes")}
        return Run.of_columns(tables, labels, {**self.meta["tenants"][tenant], **sizes}, tenant)

    def summary(self, slo: Mapping[str, float] | None = None) -> dict[str, Any]:
        """Return the run in numbers (see `metrics.summarise`); `slo` defaults to that in `meta`.

        With several tenants: `tenants`, each one's figures by name, and `links`.
        """
        from aquasim.records.metrics import summarise

        if "tenants" in self.meta:
            from aquasim.records.tenants import summarise_tenants

            return {"tenants": summarise_tenants(self), "links": self.meta.get("links")}
        slo = self.meta.get("slo") if slo is None else slo
        key = tuple(sorted((slo or {}).items()))
        if key not in self._summaries:
            self._summaries[key] = summarise(self, slo)
        return dict(self._summaries[key])

    def metrics(self) -> "pd.DataFrame":
        """Return a row per request with its times in seconds (see `metrics.request_times`)."""
        from aquasim.records.frames import metrics_frame

        return metrics_frame(self)

    # --- tables as DataFrames ------------------------------------------------------------------------------

    @cached_property
    def requests(self) -> "pd.DataFrame":
        """A row per request that ended: when it came, ran first, got its first token, ended, and how."""
        return self._frame("requests")

    @cached_property
    def steps(self) -> "pd.DataFrame":
        """A row per step: iteration j of `iterations` lasted `first_ns + growth_ns * j`."""
        return self._frame("steps")

    @cached_property
    def spans(self) -> "pd.DataFrame":
        """A row per stay in the decode batch: a request decoded in the steps with a batch in it."""
        return self._frame("spans")

    @cached_property
    def chunks(self) -> "pd.DataFrame":
        """A row per prefill chunk."""
        return self._frame("chunks")

    @cached_property
    def preemptions(self) -> "pd.DataFrame":
        """A row per time a request lost its memory."""
        return self._frame("preemptions")

    @cached_property
    def transfers(self) -> "pd.DataFrame":
        """A row per transfer of KV blocks that landed."""
        return self._frame("transfers")

    @cached_property
    def moves(self) -> "pd.DataFrame":
        """A row per request in a transfer."""
        return self._frame("moves")

    @cached_property
    def fetches(self) -> "pd.DataFrame":
        """A row per object (an adapter) that came to the GPU."""
        return self._frame("fetches")

    @cached_property
    def work(self) -> "pd.DataFrame":
        """A row per unit of work of an engine without requests: a batch of images, a token of a long prompt."""
        return self._frame("work")

    @cached_property
    def leases(self) -> "pd.DataFrame":
        """A row per change of memory lent between GPUs."""
        return self._frame("leases")

    @cached_property
    def memory(self) -> "pd.DataFrame":
        """A row per change of a tier's size; tier "hbm" is the KV cache's."""
        return self._frame("memory")

    def _frame(self, table: str) -> "pd.DataFrame":
        from aquasim.records.frames import table_frame

        return table_frame(self, table)


def _columns(tables: RunTables, tiers: list[str], reasons: list[str]) -> dict[str, Columns]:
    """Return one engine's tables as views of its buffers, its names indexed as in the whole run."""
    found: dict[str, Columns] = {}
    for table, names in COLUMNS.items():
        flat = np.frombuffer(tables.rows[table], np.int64) if tables.rows[table] else np.zeros(0, np.int64)
        found[table] = dict(zip(names, flat.reshape(-1, len(names)).T, strict=True))
    found["requests"]["reason"] = _reasons(found["requests"]["request"], tables.reasons, reasons)
    if tables.tiers != tiers:
        renamed = np.array([tiers.index(tier) for tier in tables.tiers], np.int64)
        for table in ("transfers", "memory"):
            found[table]["tier"] = renamed[found[table]["tier"]]
    return found


def _reasons(requests: Ints, given: dict[int, str], reasons: list[str]) -> Ints:
    """Return, per request, the index of the reason it was given (0: none)."""
    if not given:
        return np.broadcast_to(np.int64(0), len(requests))
    place = {reason: index for index, reason in enumerate(reasons)}
    ids = np.fromiter(given, np.int64, len(given))
    codes = np.fromiter((place[reason] for reason in given.values()), np.int64, len(given))
    order = np.argsort(ids)
    ids, codes = ids[order], codes[order]
    near = np.minimum(np.searchsorted(ids, requests), len(ids) - 1)
    return np.where(ids[near] == requests, codes[near], 0)


def _join(table: str, parts: list[Columns]) -> Columns:
    """Put the engines' rows one after the other, `engine` first; one engine's stay views."""
    counts = [len(part[FIELDS[table][1]]) for part in parts]
    if len(parts) == 1:
        return {"engine": np.broadcast_to(np.int64(0), counts[0]), **parts[0]}
    columns = {"engine": np.repeat(np.arange(len(parts)), counts)}
    for name in FIELDS[table][1:]:
        columns[name] = np.concatenate([part[name] for part in parts])
    return columns
