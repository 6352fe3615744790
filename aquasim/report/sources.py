"""What a path holds: runs, a sweep, a validation, a reproduction, a calibration."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aquasim.errors import UserError
from aquasim.figures.text import short, shown
from aquasim.records.head import META
from aquasim.records.run import Run
from aquasim.records.store import load_or_say
from aquasim.report.sweeps import is_sweep, read_sweep

MOST_RUNS = 64
"""Runs on one page."""
LARGEST = 64 * 2**20
"""Bytes of a JSON file that are read."""


@dataclass
class Sources:
    """What was found: runs by path, and documents by what they are."""

    runs: list[tuple[Path, Run]] = field(default_factory=list)
    documents: list[tuple[str, Path, dict[str, Any]]] = field(default_factory=list)


def find(paths: Sequence[Path]) -> Sources:
    """Read everything that the paths hold.

    Raises:
        UserError: one line that names the path and what is wrong with it.
    """
    found = Sources()
    places: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        before = len(places) + len(found.documents)
        _collect(path, places, found)
        if len(places) + len(found.documents) == before:
            raise UserError(f"{path}: {_expected(path)}")
    places = list(dict.fromkeys(place.resolve() for place in places))
    if len(places) > MOST_RUNS:
        raise UserError(f"{paths[0]}: {len(places)} runs; a page holds at most {MOST_RUNS}, so name fewer")
    found.runs = [(place, load_or_say(place)) for place in places]
    return found


def _expected(path: Path) -> str:
    if path.is_file():
        return "not JSON that aquasim validate, reproduce or calibrate writes"
    commands = "sweep, validate, reproduce or calibrate"
    return f"no run in it: no {META}, in it or in a folder of it, and no result of {commands}"


def _collect(path: Path, places: list[Path], found: Sources) -> None:
    """Note the runs and documents of a path: itself, or what lies in it; runs two folders deep, too."""
    if path.name == "sweep.json" and is_sweep(path.parent):
        path = path.parent
    if path.is_file():
        _document(path, found)
        return
    if is_sweep(path):
        found.documents.append(("sweep", path, read_sweep(path)))
        return
    try:
        if (path / META).is_file():
            places.append(path)
            return
        for name in ("validation.json", "report.json"):
            if (path / name).is_file():
                _document(path / name, found)
        places += _within(path)
        if not places and not found.documents:
            for entry in sorted(path.glob("*.json")):
                _document(entry, found)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _within(path: Path) -> list[Path]:
    """Return the run folders that lie in a folder, or in one of its folders that is neither run nor sweep."""
    found: list[Path] = []
    for entry in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        if (entry / META).is_file():
            found.append(entry)
        elif not is_sweep(entry):
            found += [inner for inner in sorted(entry.iterdir()) if (inner / META).is_file()]
    return found


def _document(path: Path, found: Sources) -> None:
    try:
        if path.stat().st_size > LARGEST:
            return
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {str(error).splitlines()[0]}") from None
    kind = _kind(value)
    if kind is not None:
        found.documents.append((kind, path, value))


_KEYS = {
    "hardware": {"figures", "runs", "replay_equal", "scenario"},
    "replays": {"errors", "sums", "skipped"},
    "reproduction": {"title", "claims", "command"},
    "calibration": {"kernels", "links", "memory", "gemm", "title"},
}


def _kind(value: Any) -> str | None:
    """Say which command wrote a document, by its keys."""
    if not isinstance(value, dict):
        return None
    return next((kind for kind, keys in _KEYS.items() if keys <= value.keys()), None)


def labelled(runs: Sequence[tuple[Path, Run]]) -> list[tuple[str, Run]]:
    """Give each run a name of its own: the run's; of several with the same, as much of their paths as differs."""
    names = [run.name for _, run in runs]
    found: list[tuple[str, Run]] = []
    for (path, run), name in zip(runs, names, strict=True):
        same = [other for (other, _), called in zip(runs, names, strict=True) if called == name]
        base = label = short(shown(name if len(same) == 1 else _told_apart(path, same))) or "run"
        number = 2
        while any(label == other for other, _ in found):
            label, number = f"{base} ({number})", number + 1
        found.append((label, run))
    return found


def _told_apart(path: Path, others: Sequence[Path]) -> str:
    """Return the shortest end of a path that no other of them has."""
    for depth in range(1, len(path.parts)):
        ends = [other.parts[-depth:] for other in others]
        if ends.count(path.parts[-depth:]) == 1:
            return "/".join(path.parts[-depth:])
    return path.name
