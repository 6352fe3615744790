"""Find the tables among files and folders, recognise each by its columns, and read it."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from aquasim.calibrate.importers import aisimulate, llmservingsim, network, vidur
from aquasim.calibrate.importers.table import TIMES, Format, Table
from aquasim.calibrate.samples import Samples
from aquasim.calibrate.store import is_sample_file, read_samples
from aquasim.errors import UserError

FORMATS = (*aisimulate.FORMATS, *llmservingsim.FORMATS, *network.FORMATS, *vidur.FORMATS)
_SUFFIXES = (".csv", ".csv.gz", ".parquet")


def read_paths(paths: Iterable[Path]) -> tuple[list[Samples], list[str]]:
    """Read every table among `paths` (files, or folders searched through); also notes on files left out.

    Raises UserError, one line that names file, column, row and value: for a file named that is no table of
    timings, a column that is missing, a time that is not above 0, mixed units, a single row, or no table at all.
    """
    found: list[Samples] = []
    notes: list[str] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.name.endswith(_SUFFIXES))
            for file in files:
                samples = read_table(file, strict=False)
                found += samples
                notes += [] if samples else [f"{file}: left out, not a table of timings we know"]
        else:
            found += read_table(path)
    if not found:
        raise UserError(f"{', '.join(map(str, paths))}: no table of timings found")
    return found, notes


def read_table(path: Path, *, strict: bool = True) -> list[Samples]:
    """Read one table, in any of the forms known; none for an unknown one unless `strict`.

    Raises UserError as `read_paths`.
    """
    if not path.name.endswith(_SUFFIXES):
        raise UserError(f"{path}: expected a file ending in {', '.join(_SUFFIXES)}")
    if is_sample_file(path):
        return [read_samples(path)]
    frame = _frame(path)
    form = _recognise(path, frame, strict)
    if form is None:
        return []
    if len(frame) < 2:
        raise UserError(f"{path}: {len(frame)} row; at least 2 are needed to fit anything")
    return form.convert(Table(path, frame))


def _frame(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, EOFError, ValueError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read: {reason}") from None
    return frame


def _recognise(path: Path, frame: pd.DataFrame, strict: bool) -> Format | None:
    """Return the format with the most columns of which the file has all.

    A file that lacks one column of a format of three and more is taken for a faulty one, not for another thing.
    """
    held = set(frame.columns)
    known = [form for form in FORMATS if held.issuperset(form.columns)]
    if known:
        return max(known, key=lambda form: len(form.columns))
    near = min(FORMATS, key=lambda form: (len(set(form.columns) - held), -len(form.columns)))
    lacking = [column for column in near.columns if column not in held]
    timed = bool(held & TIMES.keys()) or (near.timed in held)
    faulty = timed and len(lacking) == 1 and len(near.columns) > 2
    if not strict and not faulty:
        return None
    if len(lacking) * 2 > len(near.columns):
        forms = "; ".join(f"{form.name}: {', '.join(form.columns)}" for form in FORMATS)
        raise UserError(f"{path}: not a table of timings we know ({forms})")
    columns = ", ".join(near.columns)
    raise UserError(f"{path}: column {lacking[0]} is missing; a table of {near.name} has {columns}")
