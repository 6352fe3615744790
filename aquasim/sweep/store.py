"""A folder of rows by address: Parquet parts, each named by its own digest, and a log of what came since.

A row is appended to the log, one JSON line, as soon as it is known, and flushed: whatever kills the process, what
was stored stays. When the log is long, and at the end, it becomes a part, which appears whole or not at all. Of
rows with one address the last one counts, so a row that is in a part and still in the log does no harm.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from aquasim.errors import UserError
from aquasim.records.atomic import new_file
from aquasim.sweep import parts
from aquasim.sweep.worker import Row

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
HEAD, LOG, LOCK = "store.json", "log.jsonl", "lock"
LONG = 2000
"""Rows of the log at which it becomes a part; smaller parts are joined when a store is closed."""
SYNC_S = 1.0
"""Seconds after which the log is forced to the disk; what a crash of the machine itself may cost."""


class Store:
    """Rows by address, open for reading and writing by this process alone. Use it in a `with` block."""

    def __init__(self, folder: Path) -> None:
        """Open or make a store.

        Raises:
            UserError: another process writes there, the folder is something else, or cannot be written.
        """
        self.folder = folder
        self.notes: list[str] = []
        """What was wrong with its files, a line each."""
        try:
            _claim(folder)
            self._lock = _locked(folder)
            self.status = self._known()
            """Status of every stored address."""
            self._log = open(folder / LOG, "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
        self._synced = time.monotonic()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, rows: Iterable[Row]) -> None:
        """Store rows: they are there when this returns, also if the process is killed then.

        Raises:
            UserError: the disk is full, or the like.
        """
        kept = list(rows)
        self._recent += kept  # first: an interrupt between the two must not leave rows in the log alone
        try:
            self._log.write("".join(f"{json.dumps(row)}\n" for row in kept))
            self._log.flush()
            if time.monotonic() - self._synced > SYNC_S:
                os.fsync(self._log.fileno())
                self._synced = time.monotonic()
            self.status |= {row["key"]: row["status"] for row in kept}
            if len(self._recent) >= LONG:
                self._compact([])
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written: {error.strerror}") from None

    def frame(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """Return the rows by address (the index): status, error, and `columns`, or all metrics.

        A metric that no row has is a column of NaN.
        """
        return parts.frame(self._parts(), self._recent, columns)

    def metrics(self) -> list[str]:
        """Return the names of all metrics that a row has."""
        return parts.metrics(self._parts(), self._recent)

    def close(self) -> None:
        """Turn the log into a part, joined with small ones, and let others in."""
        if self._log.closed:
            return
        try:
            if self._recent:
                sizes = {path: parts.count(path) for path in self._parts()}
                self._compact([path for path, size in sizes.items() if size < LONG])
            self._log.close()
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written: {error.strerror}") from None
        finally:
            os.close(self._lock)

    # --- files ---------------------------------------------------------------------------------------------

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def _known(self) -> dict[str, str]:
        known: dict[str, str] = {}
        for left in self.folder.glob(".part.*"):
            left.unlink()
        for path in self._parts():
            if sha256(path.read_bytes()).hexdigest()[:16] != path.stem.split("-")[-1]:
                self._set_aside(path)
            else:
                known |= parts.statuses(path)
        self._recent = self._read_log()
        return known | {row["key"]: row["status"] for row in self._recent}

    def _set_aside(self, path: Path) -> None:
        """Rename a damaged file: the rest is of use, its points are simulated again, and it can be looked at."""
        aside = path.with_name(f"{path.name}.damaged")
        os.replace(path, aside)
        self.notes.append(f"{path}: damaged, now {aside.name}; its points are simulated again")

    def _read_log(self) -> list[Row]:
        """Return the log's rows; what a kill left of its last line is cut off."""
        path = self.folder / LOG
        text = path.read_bytes() if path.exists() else b""
        *lines, torn = text.split(b"\n")
        if torn:
            os.truncate(path, len(text) - len(torn))
        rows = [_row(line) for line in lines]
        if not parts.fits([row for row in rows if row is not None]):
            rows = [row if row is not None and parts.fits([row]) else None for row in rows]
        for number in [number for number, row in enumerate(rows, 1) if row is None]:
            self.notes.append(f"{path}:{number}: damaged; its point is simulated again")
        return [row for row in rows if row is not None]

    def _compact(self, old: Sequence[Path]) -> None:
        """Write the log, after the rows of old parts, as a new part; then drop both."""
        number = max([int(path.stem.split("-")[1]) for path in self._parts()], default=0) + 1
        fresh = self.folder / f".part.{os.getpid()}"
        parts.write(fresh, old, self._recent)
        with open(fresh, "rb") as file:
            digest = sha256(file.read()).hexdigest()[:16]
            os.fsync(file.fileno())
        os.replace(fresh, self.folder / f"part-{number:06d}-{digest}.parquet")
        self._log.truncate(0)
        self._recent = []
        for path in old:
            path.unlink()


def _row(line: bytes) -> Row | None:
    """Return a line of the log, or None if it is none."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    good = isinstance(row, dict) and row.keys() >= {*parts.ABOUT, "metrics"}
    good = good and isinstance(row["key"], str) and isinstance(row["metrics"], dict)
    return row if good and isinstance(row["status"], str) else None


def _claim(folder: Path) -> None:
    """Make the folder a store, unless it is one or holds anything else."""
    head = folder / HEAD
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: exists and is not a folder")
    if folder.is_dir() and not head.is_file() and any(folder.iterdir()):
        raise UserError(f"{folder}: the folder is not empty and not a sweep's; name another one with --out")
    folder.mkdir(parents=True, exist_ok=True)
    if not head.is_file():
        with new_file(head) as part:
            part.write_text(json.dumps({"schema": SCHEMA}) + "\n")
    try:
        schema: Any = json.loads(head.read_text())["schema"]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f'{head}: damaged; write {{"schema": {SCHEMA}}} into it if the folder is a sweep\'s'
        ) from None
    if schema != SCHEMA:
        raise UserError(
            f"{head}: schema {schema}, this version reads {SCHEMA}; name another folder with --out"
        )


def _locked(folder: Path) -> int:
    """Return the lock's descriptor. The system lets go of it when the process ends, however it does."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(handle, 32).decode(errors="replace").strip()
        os.close(handle)
        raise UserError(
            f"{folder}: another sweep (process {owner}) is writing there; wait for it, or give another --out"
        ) from None
    os.ftruncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    return handle
