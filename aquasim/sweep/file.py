"""Sweep files: which scenario, which values of which keys, how often, and what is sought."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from aquasim.errors import UserError
from aquasim.scenario.changes import flatten, parts_of
from aquasim.scenario.load import FOLDER
from aquasim.scenario.schema import Name, Positive, Table
from aquasim.sweep.ranges import MOST_SEEDS, Range, SampleTable, Seed, Value

SUFFIX = ".sweep.toml"
"""Sweep files that ship end so; others may be called as one likes."""

SeedCount = Annotated[int, Field(strict=True, ge=1, le=MOST_SEEDS)]
Text = Annotated[str, Field(min_length=1)]
Values = Annotated[tuple[Value, ...], Field(min_length=1)]


class SearchTable(Table):
    """`[search]`: `trials` points, each chosen by what came out before; `batch` of them at a time."""

    trials: Positive
    sampler: Literal["tpe", "random", "gp", "nsgaii"] = "tpe"
    seed: Annotated[Seed, Field(lt=2**32)] = 0
    """As large as Optuna's samplers take."""
    batch: Positive = 4
    """Trials chosen before the next results are looked at: the search is the same for any number of workers."""
    system: Name | None = None
    """The one that is tuned; if left out, the system is chosen among the sweep's like everything else."""
    ranges: dict[str, Range] = Field(min_length=1)


class SweepFile(Table):
    """A whole sweep file."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)

    question: str = ""
    source: str = ""
    expect: str = ""
    scenario: Text
    """A shipped scenario's name, or a path relative to this file."""
    systems: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """All of the scenario's if left out."""
    seeds: SeedCount | Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    """How many, from the scenario's own on, or which; each point is run with each."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of intervals over seeds."""
    objectives: Text | tuple[Text, ...] = ()
    """As "min ttft_p99"."""
    constraints: Text | tuple[Text, ...] = ()
    """As "throughput_tok_s >= 0.95 * fcfs.throughput_tok_s"."""
    fixed: dict[str, Value] = Field(default_factory=dict, alias="set")
    grid: dict[str, Values] = Field(default_factory=dict)
    """Every value with every value of the others."""
    rows: Annotated[tuple[dict[str, Value], ...], Field(min_length=1)] | None = Field(None, alias="list")
    """Points one by one."""
    sample: SampleTable | None = None
    search: SearchTable | None = None


def as_texts(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return one text, or several, as several."""
    return (given,) if isinstance(given, str) else tuple(given)


def find_sweep(name_or_path: str | Path) -> Path:
    """Return a sweep file by path, or one that ships by name.

    Raises:
        UserError: there is none.
    """
    path = Path(name_or_path)
    shipped = FOLDER / f"{name_or_path}{SUFFIX}"
    if path.is_file():
        return path
    if shipped.is_file() and ".." not in path.parts:
        return shipped
    known = sorted(p.relative_to(FOLDER).as_posix().removesuffix(SUFFIX) for p in FOLDER.rglob(f"*{SUFFIX}"))
    raise UserError(f"{path}: no such sweep file; those that ship: {', '.join(known)}")


def read_sweep(path: Path) -> tuple[SweepFile, str]:
    """Read a sweep file; return it and its text.

    Raises:
        UserError: one line with the file, the key, its line, its value, and what is valid.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not TOML: {error}") from None
    return parse_sweep(data, text, path), text


def parse_sweep(data: Mapping[str, Any], text: str, path: Path) -> SweepFile:
    """Check the tables of a sweep file; errors as `read_sweep`'s."""
    try:
        return SweepFile.model_validate(_flat(data))
    except ValidationError as error:
        raise UserError(_explain(error, text, path)) from None


def _flat(data: Mapping[str, Any]) -> dict[str, Any]:
    """Write scenario keys as dotted ones, however the file nests them."""
    found = dict(data)
    for name in ("set", "grid"):
        if isinstance(found.get(name), Mapping):
            found[name] = flatten(found[name])
    if isinstance(found.get("list"), list):
        found["list"] = [flatten(row) if isinstance(row, Mapping) else row for row in found["list"]]
    for name in ("sample", "search"):
        table = found.get(name)
        if isinstance(table, Mapping) and isinstance(table.get("ranges"), Mapping):
            found[name] = {**table, "ranges": flatten(table["ranges"], _is_range)}
    return found


def _is_range(table: Mapping[str, Any]) -> bool:
    return isinstance(table.get("kind"), str)


def _explain(error: ValidationError, text: str, path: Path) -> str:
    """Put the first of the validation's complaints in one line."""
    errors = [e for e in error.errors() if not _beside(e)] or error.errors()
    first = min(errors, key=lambda e: e["type"] == "missing")
    keys = [str(part) for part in first["loc"] if part not in ("linear", "log", "integer", "choice")]
    keys = [part for part in keys if not re.match(r"(constrained-|tuple\[|function-|str$|int$)", part)]
    name = ".".join(keys)
    if first["type"] == "missing":
        return f"{path}: key {name!r} is missing"
    where = f"{path}:{_line(text, first['loc'], keys)}"
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key {name!r}; {_valid(keys)}"
    message = first["msg"].removeprefix("Value error, ").replace("tuple", "list").replace("Tuple", "list")
    message = message[0].lower() + message[1:].removesuffix(" after validation, not 0")
    value = first.get("input")
    shown = "" if isinstance(value, Mapping) else f" is {value!r}"
    return f"{where}: {name}{shown}: {message}"


def _beside(error: ErrorDetails) -> bool:
    """Say whether a complaint is that of a single value about a list: those of the list say more."""
    return error["type"] in ("int_type", "string_type") and isinstance(error["input"], list | tuple)


def _line(text: str, place: tuple[int | str, ...], keys: Sequence[str]) -> int:
    """Return the line of what is at a place of the file: of a key of a `[[list]]`, in that row."""
    names = [key for key in keys if not key.isdigit()]
    rows = [found.end() for found in re.finditer(r"^[ \t]*\[\[[ \t]*list[ \t]*\]\]", text, re.MULTILINE)]
    if place[0] != "list" or len(place) < 2 or len(rows) <= (row := int(place[1])):
        return line_of(text, names)
    return text.count("\n", 0, rows[row]) + line_of(text[rows[row] :], names)


_TABLES: dict[str, type[Table]] = {"sample": SampleTable, "search": SearchTable}


def _valid(keys: Sequence[str]) -> str:
    if keys and "ranges" in keys:
        known = ["kind", "low", "high", "values"]
    else:
        table = _TABLES.get(keys[0], SweepFile) if len(keys) > 1 else SweepFile
        known = sorted(field.alias or name for name, field in table.model_fields.items())
    close = get_close_matches(keys[-1], known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(known)}"


def line_of(text: str, keys: Sequence[str]) -> int:
    """Return the line (from 1) of a file on which a key stands: written in full, by its last part, or 1."""
    wanted = [part for key in keys for part in parts_of(key)]
    for depth in range(len(wanted)):
        tail = [re.escape(part) for part in wanted[depth:]]
        pattern = re.compile(r"[\[\s\"'.]*" + r"[\"'\s]*\.[\"'\s]*".join(tail) + r"[\"'\s\]]*(=|\]|$)")
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.match(line) or (depth and pattern.search(line.split("=")[0] + "=")):
                return number
    return line_of(text, keys[:-1]) if len(keys) > 1 else 1
