"""A sweep from its file to its results, and results from a folder where a sweep was."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aquasim.errors import UserError
from aquasim.records.atomic import new_file
from aquasim.sweep.check import Assignment
from aquasim.sweep.counts import with_counts
from aquasim.sweep.evaluate import Evaluator, Progress
from aquasim.sweep.executors import Backend, local
from aquasim.sweep.plan import Sweep, as_document
from aquasim.sweep.results import Results
from aquasim.sweep.store import Store

ABOUT, POINTS, SUMMARY = "sweep.json", "points.csv", "summary.csv"


@dataclass(frozen=True)
class Outcome:
    """Results, and what it took: points simulated now, points that were stored, processor seconds, notes."""

    results: Results
    ran: int
    found: int
    cpu_s: float
    notes: tuple[str, ...]


@contextmanager
def backend(workers: int | None, ray: str | None) -> Iterator[Backend]:
    """Give processes of this machine (its cores, at most 8, if not said), or a Ray cluster by its address."""
    if ray is not None:
        from aquasim.sweep.cluster import cluster

        with cluster(ray, workers) as joined:
            yield joined
    else:
        with local(workers or min(os.cpu_count() or 1, 8)) as pool:
            yield pool


def run_sweep(
    sweep: Sweep,
    folder: Path,
    where: Callable[[], AbstractContextManager[Backend]],
    progress: Progress | None = None,
    retry_failed: bool = False,
    metrics: tuple[str, ...] = (),
) -> Outcome:
    """Simulate what the folder's store lacks and fold it all.

    Args:
        sweep: what to run.
        folder: where rows are stored.
        where: gives the backend; not asked if nothing is left to run.
        progress: called with points done and to do.
        retry_failed: run failed points again.
        metrics: more columns of the results; ("*",) for all.

    Raises:
        UserError: the folder is taken, the cluster does not answer, and the like.
    """
    with Store(folder) as store:
        _describe(sweep, folder)
        with lazily(where) as lazy:
            evaluator = Evaluator(sweep.base.data, lazy, store, progress, retry_failed)
            assignments = _assignments(sweep, evaluator)
        results = Results(sweep, store, assignments, metrics)
        results.points, results.summary  # noqa: B018 (read while the store is ours)
        return Outcome(results, evaluator.ran, evaluator.found, evaluator.cpu_s, tuple(store.notes))


def _assignments(sweep: Sweep, evaluator: Evaluator) -> list[Assignment]:
    if sweep.file.search is not None:
        from aquasim.sweep.search import search

        return search(sweep, evaluator)
    evaluator.ensure(point for assignment in sweep.assignments for point in sweep.points(assignment))
    return sweep.assignments


def _describe(sweep: Sweep, folder: Path) -> None:
    with new_file(folder / ABOUT) as part:
        part.write_text(json.dumps(as_document(sweep), indent=1, default=str) + "\n", encoding="utf-8")


@contextmanager
def lazily(where: Callable[[], AbstractContextManager[Backend]]) -> Iterator[Backend]:
    """Give a backend that is opened when it is first asked for anything, and closed at the end."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield _Lazy(lambda: stack.enter_context(where()))


class _Lazy:
    def __init__(self, opened: Callable[[], Backend]) -> None:
        self._opened = opened
        self._backend: Backend | None = None

    def __getattr__(self, name: str) -> Any:
        if self._backend is None:
            self._backend = self._opened()
        return getattr(self._backend, name)


def write_tables(results: Results, folder: Path) -> None:
    """Write both tables as CSV beside the store.

    Raises:
        UserError: that is not possible.
    """
    for name, table in ((POINTS, with_counts(results.points)), (SUMMARY, results.summary)):
        try:
            with new_file(folder / name) as part:
                table.to_csv(part, index=False)
        except OSError as error:
            raise UserError(f"{folder / name}: cannot be written: {error.strerror}") from None
