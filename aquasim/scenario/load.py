"""Reads scenario files: by name or path, with single values changed, and with errors that point at the spot."""

import re
import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from aquasim.errors import UserError
from aquasim.scenario.changes import parse_change, parts_of, split, with_changes
from aquasim.scenario.schema import Scenario
from aquasim.scenario.server import ServerScenario, merged

FOLDER = Path(__file__).resolve().parent.parent / "scenarios"


def scenario_names() -> list[str]:
    """Names of the scenarios that ship with the package, with the folder of those that belong together."""
    names = (path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.toml"))
    return sorted(name for name in names if "." not in name)  # NAME.place.toml is for `place`


def find(name_or_path: str) -> Path:
    """Return the file of a scenario given by name or path.

    Raises:
        UserError: there is none; the text lists the names.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.exists():
        if not path.is_file():
            raise UserError(f"{path}: no such scenario file")
        return path
    shipped = FOLDER / f"{name_or_path}.toml"
    if shipped.is_file() and name_or_path in scenario_names():
        return shipped
    close = get_close_matches(name_or_path, scenario_names(), 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(f"unknown scenario {name_or_path!r}; {hint}known: {', '.join(scenario_names())}")


def load_scenario(name_or_path: str, changes: Iterable[str] = ()) -> Scenario | ServerScenario:
    """Read a scenario and apply `changes`, each "path.to.key=value" with a TOML value or a bare string.

    A file with `[tenants]` is a `ServerScenario`.

    Raises:
        UserError: one line that names the file, the key, its line, the value, and what is valid.
    """
    path = find(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not TOML: {error}") from None
    given = [(parse_change(change), change) for change in changes]
    changed = {split(key): change for (key, _), change in given}
    try:
        data = with_changes(data, (change for change, _ in given))
    except UserError as error:
        raise UserError(f"--set {error}") from None
    scenario: Scenario | ServerScenario
    try:
        schema = ServerScenario if "tenants" in data else Scenario
        scenario = schema.model_validate(data)
    except ValidationError as error:
        raise UserError(_explain(error, path, text, changed)) from None
    if isinstance(scenario, ServerScenario):
        _check_systems(data, path, text, changed)
    if scenario.baseline is not None and scenario.baseline not in scenario.systems:
        valid = ", ".join(scenario.systems)
        raise UserError(f"{path}: baseline is {scenario.baseline!r}; the scenario's systems: {valid}")
    return scenario


def _check_systems(data: dict[str, Any], path: Path, text: str, changed: dict[tuple[str, ...], str]) -> None:
    """Validate the scenario as each of its systems changes it."""
    for name, changes in data["systems"].items():
        try:
            ServerScenario.model_validate(merged(data, changes))
        except ValidationError as error:
            raise UserError(_explain(error, path, text, changed, ("systems", name))) from None


def _explain(
    error: ValidationError,
    path: Path,
    text: str,
    changed: dict[tuple[str, ...], str],
    within: tuple[str, ...] = (),
) -> str:
    """Put the first of the validation's complaints in one line; the keys stand `within` a table."""
    first = min(error.errors(), key=lambda e: e["type"] == "missing")
    tagged = tuple(str(part) for part in first["loc"])
    keys = (*within, *_without_kinds(tagged))
    more = error.error_count() - 1
    tail = f" (and {more} more)" if more else ""
    change = next((c for k, c in changed.items() if keys[: len(k)] == k[: len(keys)]), None)
    where = f"--set {change}" if change else f"{path}:{_line(text, keys)}"
    name = ".".join(keys)
    kind = first["type"]
    if kind == "extra_forbidden":
        root = ServerScenario if error.title == ServerScenario.__name__ else Scenario
        return f"{where}: unknown key {name!r}; {_valid_keys(tagged, root)}{tail}"
    if kind == "missing":
        return f"{path}: key {name!r} is missing{tail}"
    message = first["msg"][0].lower() + first["msg"][1:]
    value = first.get("input")
    shown = "" if isinstance(value, dict) else f" is {value!r}"
    return f"{where}: {name}{shown}: {message}{tail}"


_KINDS = {
    "poisson",
    "gamma",
    "piecewise",
    "at-once",
    "closed-loop",
    "uniform",
    "lognormal",
    "histogram",
    "fixed",
}


def _without_kinds(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out the tags of alternatives that a validation error's path contains."""
    holders = {"arrivals", "prompt", "output"}
    tag = 2 if keys[:1] == ("tenants",) else -1
    return tuple(
        k for i, k in enumerate(keys) if i != tag and not (k in _KINDS and i and keys[i - 1] in holders)
    )


def _valid_keys(keys: tuple[str, ...], root: type[BaseModel]) -> str:
    """List the keys of the table in which the last of `keys` is unknown, the nearest first."""
    known = sorted(_fields(keys[:-1], root))
    close = get_close_matches(keys[-1], known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(known)}" if known else "it takes no such key"


def _fields(keys: tuple[str, ...], root: type[BaseModel]) -> set[str]:
    tables: list[Any] = [root]
    for key in keys:
        found: list[Any] = []
        for table in tables:
            if key in table.model_fields:
                found += _tables(table.model_fields[key].annotation)
            elif "kind" in table.model_fields and key in get_args(table.model_fields["kind"].annotation):
                found.append(table)
        tables = found or tables
    return {name for table in tables for name in table.model_fields}


def _tables(annotation: Any) -> list[type[BaseModel]]:
    """Return the tables that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for part in getattr(annotation, "__args__", ()) for table in _tables(part)]


def _line(text: str, keys: tuple[str, ...]) -> int:
    """Return the line (from 1) on which a key stands, or its table, or 1."""
    table: tuple[str, ...] = ()
    best, best_length = 1, 0
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?([^\]]+)\]", line)
        assignment = re.match(r"\s*([\w\-.\"']+)\s*=", line)
        if header:
            table = parts_of(header.group(1))
            here = table
        elif assignment:
            here = table + parts_of(assignment.group(1))
        else:
            continue
        same = min(len(here), len(keys))
        if here[:same] == keys[:same] and same > best_length:
            best, best_length = number, same
    return best
