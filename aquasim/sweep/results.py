"""What a sweep found, as DataFrames: a row per point, and a row per candidate with means over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from aquasim.sweep.check import Assignment
from aquasim.sweep.evaluate import Shelf
from aquasim.sweep.intervals import factor
from aquasim.sweep.pareto import front
from aquasim.sweep.plan import Sweep
from aquasim.sweep.terms import Name
from aquasim.sweep.worker import FAILED, OK

if TYPE_CHECKING:
    import pandas as pd

USUAL = ("ttft_p99", "tpot_p50", "rct_p99", "throughput_tok_s")
"""Metrics shown where no objective says what matters."""


@dataclass(frozen=True)
class Results:
    """Rows of a shelf that belong to a sweep. A candidate is a system at one assignment of values.

    `points`: candidate, the keys that vary, system, seed, key (its address), status, error, metrics.
    `summary`: candidate, the keys, system, `n` seeds that ran, `failed` ones; of each metric its mean and (`.low`,
    `.high`) Student's t interval, NaN for one seed; `met`: all constraints hold for the means; `miss`: by which share
    (of 1 if its bound is 0) the worst one does not; `front`: on the Pareto front of those that meet; `best`: the
    least by the first objective.
    A candidate with a failed seed is on no front: its mean would be over other seeds than the others'.
    """

    sweep: Sweep
    shelf: Shelf
    assignments: Sequence[Assignment]
    metrics: tuple[str, ...] = ()
    """More metrics than objectives and constraints need; all in `points` if it is ("*",)."""

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """Metrics of the summary: the objectives', the constraints', those asked for, else the usual ones."""
        names = [each.name.metric for each in self.sweep.objectives]
        names += [name.metric for each in self.sweep.constraints for name in each.names()]
        more = [name for name in self.metrics if name != "*"]
        if not names and not more:
            more = list(USUAL) if "tenants" not in self.sweep.base.data else self._of_tenants()
        return tuple(dict.fromkeys([*names, *more]))

    def _of_tenants(self) -> list[str]:
        tenants = self.sweep.base.data["tenants"]
        return [f"tenants.{name}.ttft_p99" for name, table in tenants.items() if table.get("kind") == "llm"]

    @cached_property
    def points(self) -> "pd.DataFrame":
        """A row per point that ran or failed, in the sweep's order."""
        import pandas as pd

        sweep, counts = self.sweep, (len(self.sweep.systems), len(self.sweep.seeds))
        keys = [point.key for assignment in self.assignments for point in sweep.points(assignment)]
        size = counts[0] * counts[1]
        rows = self.shelf.frame(None if "*" in self.metrics else self.shown).reindex(keys)
        columns: dict[str, Any] = {"candidate": np.arange(len(keys)) // counts[1]}
        for key in sweep.keys:
            columns[key] = np.repeat(self._values(key), size)
        columns["system"] = np.tile(
            np.repeat(np.array(sweep.systems, object), counts[1]), len(self.assignments)
        )
        columns["seed"] = np.tile(np.array(sweep.seeds), len(self.assignments) * counts[0])
        columns["key"] = keys
        table = pd.concat([pd.DataFrame(columns), rows.reset_index(drop=True)], axis=1)
        return table[table["status"].notna()].reset_index(drop=True)

    def _values(self, key: str) -> Any:
        """Return a key's value in every assignment: numbers if they all are."""
        values = [dict(assignment).get(key) for assignment in self.assignments]
        if values and all(type(value) in (int, float) for value in values):
            return np.array(values)
        found = np.empty(len(values), object)
        found[:] = [
            value if isinstance(value, str | int | float | bool | None) else str(value) for value in values
        ]
        return found

    @cached_property
    def summary(self) -> "pd.DataFrame":
        """A row per candidate, in the sweep's order."""
        points = self.points
        grouped = points.groupby("candidate", sort=True)
        heads = ["candidate", *self.sweep.keys, "system"]
        table = grouped[heads].head(1).reset_index(drop=True)
        good = points[points["status"] == OK]
        means = good.groupby("candidate")[list(self.shown)].agg(["count", "mean", "std"])
        means = means.reindex(table["candidate"].to_numpy())
        counts = good.groupby("candidate").size().reindex(table["candidate"]).fillna(0)
        table["n"] = counts.to_numpy().astype(int)
        table["failed"] = (points["status"] == FAILED).groupby(points["candidate"]).sum().to_numpy()
        for metric in self.shown:
            n, mean, std = (means[metric][part].to_numpy() for part in ("count", "mean", "std"))
            half = std * np.array(
                [factor(int(k), self.sweep.file.confidence) if k > 1 else np.nan for k in n]
            )
            table[metric], table[f"{metric}.low"], table[f"{metric}.high"] = mean, mean - half, mean + half
        return self._judged(table)

    def _judged(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """Add what constraints and objectives say."""
        lookup = _Lookup(table, self.sweep.systems)
        whole = (table["failed"] == 0).to_numpy() & (table["n"] > 0).to_numpy()
        tuned = self.sweep.file.search.system if self.sweep.file.search else None
        if tuned is not None:
            whole &= (table["system"] == tuned).to_numpy()
        misses = [np.broadcast_to(c.miss(lookup), len(table)) for c in self.sweep.constraints]
        miss = np.max(misses, axis=0) if misses else np.zeros(len(table))
        table["miss"] = np.where(np.isnan(np.sum(misses, axis=0)) if misses else False, np.nan, miss)
        table["met"] = whole & (table["miss"] == 0).to_numpy()
        table["front"] = table["best"] = False
        if self.sweep.objectives:
            costs = np.column_stack([each.cost(lookup) for each in self.sweep.objectives])
            costs[~table["met"].to_numpy()] = np.nan
            table["front"] = front(costs)
            if not np.isnan(costs[:, 0]).all():
                table.loc[int(np.lexsort(costs.T[::-1])[0]), "best"] = True
        return table

    @property
    def best(self) -> "pd.Series[Any] | None":
        """The candidate with the least (greatest, where sought) first objective that meets every constraint."""
        rows = self.summary[self.summary["best"]]
        return rows.iloc[0] if len(rows) else None

    @property
    def nearest(self) -> "pd.Series[Any] | None":
        """Where nothing meets the constraints, the candidate that misses them by the least share."""
        table = self.summary
        rows = table[(table["failed"] == 0) & table["miss"].notna()]
        found = len(rows) > 0 and not table["met"].any()
        return rows.iloc[int(rows["miss"].to_numpy().argmin())] if found else None

    @property
    def off(self) -> str:
        """How far the nearest is from what it misses most: a share of the bound, a distance where that is 0."""
        near, table = self.nearest, self.summary
        if near is None:
            return ""
        lookup, at = _Lookup(table, self.sweep.systems), table.index.get_loc(near.name)
        misses = [np.broadcast_to(c.miss(lookup), len(table))[at] for c in self.sweep.constraints]
        worst = self.sweep.constraints[int(np.argmax(misses))]
        share = np.broadcast_to(worst.scale(lookup), len(table))[at] > 0
        return f"{near['miss']:.1%}" if share else f"{near['miss']:.4g}"

    @property
    def failures(self) -> "pd.DataFrame":
        """The points that failed, with their errors."""
        points = self.points
        heads = ["candidate", *self.sweep.keys, "system", "seed", "error"]
        return points.loc[points["status"] == FAILED, heads].reset_index(drop=True)


class _Lookup:
    """Columns of means for terms; another system's at the same assignment."""

    def __init__(self, table: "pd.DataFrame", systems: Sequence[str]) -> None:
        self._table, self._systems = table, systems

    def __call__(self, name: Name) -> Any:
        table = self._table
        if name.system is None:
            return table[name.metric].to_numpy()
        count = len(self._systems)
        own = table["candidate"] // count * count + self._systems.index(name.system)
        return table.set_index("candidate")[name.metric].reindex(own).to_numpy()
