"""What varies in a sweep, and what is set: each key once, and only of systems that the sweep has."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from aquasim.errors import UserError
from aquasim.scenario.changes import Change, as_toml, split
from aquasim.sweep.check import Axis
from aquasim.sweep.file import SweepFile, line_of
from aquasim.sweep.ranges import sample

MOST = 1_000_000
"""Points that a sweep may have."""


def axes_of(path: Path, file: SweepFile, text: str) -> list[Axis]:
    """Return what varies: each key of the grid, the list, the sample.

    Raises:
        UserError: nothing varies, or too much, or one key twice.
    """
    axes: list[Axis] = [[((key, value),) for value in values] for key, values in file.grid.items()]
    if file.rows is not None:
        axes.append([tuple(row.items()) for row in file.rows])
    if file.sample is not None:
        axes.append(sample(file.sample))
    if file.search is not None and axes:
        line = line_of(text, ["search"])
        raise UserError(f"{path}:{line}: search: not together with grid, list or sample")
    if file.search is None and not axes:
        raise UserError(f"{path}: nothing varies; give [grid], [[list]], [sample] or [search]")
    _refuse_twice(path, text, [_keys(axis) for axis in axes])
    points = 1
    for axis in axes:
        points *= len(axis)
    if points > MOST:
        raise UserError(f"{path}: {points:,} points; at most {MOST:,}, or sample them")
    return axes


def _keys(axis: Axis) -> dict[str, None]:
    return dict.fromkeys(key for assignment in axis for key, _ in assignment)


def _refuse_twice(path: Path, text: str, keys: Sequence[Iterable[str]]) -> None:
    seen: set[str] = set()
    for each in keys:
        if both := sorted(seen.intersection(each)):
            raise UserError(f"{path}:{line_of(text, [both[0]])}: {both[0]} varies twice")
        seen.update(each)


def refuse_lost(
    path: Path, file: SweepFile, text: str, axes: Sequence[Axis], changes: Sequence[Change]
) -> None:
    """Refuse values that are set, in the file or by `changes`, and that no point would have.

    Raises:
        UserError: what is set varies, or the whole table that it is in; or `seed` varies, which `seeds` replaces.
    """
    if "seed" in varying(file, axes):
        line = line_of(text, ["seed"])
        raise UserError(f"{path}:{line}: seed: give seeds = [...], every point is run with each of them")
    always = {key: split(key) for key in (file.search.ranges if file.search else ())}
    for axis in axes:
        times = Counter(key for assignment in axis for key, _ in assignment)
        always |= {key: split(key) for key, count in times.items() if count == len(axis)}
    for number, (key, value) in enumerate([*file.fixed.items(), *changes]):
        parts = split(key)
        for varies, way in always.items():
            if parts[: len(way)] == way:
                where = f"{path}:{line_of(text, [varies])}"
                if number >= len(file.fixed):
                    raise UserError(f"--set {key}={as_toml(value)}: {varies} varies in {where}; one of them")
                raise UserError(f"{where}: {varies} varies, and {key} is set; one of them")


def refuse_foreign(
    keys: Iterable[str], systems: Sequence[str], where: Callable[[str], str], whose: str = "sweep"
) -> None:
    """Refuse keys of other systems than the sweep's (or `whose` they are); `where` says where a key stands.

    Raises:
        UserError: there is one; the text lists the systems.
    """
    for key in keys:
        parts = split(key)
        if parts[0] == "systems" and len(parts) > 1 and parts[1] not in systems:
            raise UserError(f"{where(key)}: no system {parts[1]!r}; the {whose} has: {', '.join(systems)}")


def varying(file: SweepFile, axes: Sequence[Axis]) -> list[str]:
    """Return every key that varies, those of a search included."""
    found = [key for axis in axes for key in _keys(axis)]
    return [*found, *(file.search.ranges if file.search else ())]
