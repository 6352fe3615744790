"""Reads placement files: TOML, every unknown key and bad value answered in one line that points at the spot."""

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aquasim.errors import UserError
from aquasim.place.problem import MIB, Model, Problem
from aquasim.scenario.load import _line

Positive = Annotated[int, Field(ge=1, le=100_000)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]


class Table(BaseModel):
    """A table of a placement file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ServersTable(Table):
    """`[servers]`: equal servers."""

    count: Annotated[int, Field(ge=1, le=10_000)]
    gpus: Annotated[int, Field(ge=1, le=1024)] = 8
    """On each."""
    hbm_gib: Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)] = 80.0
    """Of each GPU; what one GPU of imbalance costs in the objective."""


class ModelTable(Table):
    """`[models.NAME]`: equal jobs."""

    gib: Annotated[float, Field(ge=-100_000, le=10_000, allow_inf_nan=False)]
    """Per GPU, as the profiler says: + is given, - is needed. Rounded to the MiB."""
    replicas: Positive = 1
    tp: Positive = 1
    """GPUs of one job, all on one server."""
    kind: Annotated[str, Field(min_length=1)] = "llm"
    """llm, image, audio, lora, ...: a label."""
    bandwidth_gbs: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """GB/s that a GPU can lend or page at; the link's if left out."""


class PairingTable(Table):
    """`[pairing]`: how many donors a consumer GPU may have."""

    donors: Annotated[int, Field(ge=1, le=1024)] = 1


class PlacementFile(Table):
    """A whole placement file."""

    question: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the random baseline."""
    servers: ServersTable
    models: dict[Name, ModelTable] = Field(min_length=1)
    pairing: PairingTable = PairingTable()


TABLES: dict[str, type[Table]] = {"servers": ServersTable, "models": ModelTable, "pairing": PairingTable}


def load_problem(path: Path) -> Problem:
    """Read a placement file.

    Raises:
        UserError: one line that names the file, the key, its line, the value, and what is valid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    try:
        file = PlacementFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not TOML: {error}") from None
    except ValidationError as error:
        raise UserError(_explain(error, path, text)) from None
    problem = _problem(file)
    complaint = problem.complaint()
    if complaint is not None:
        keys, why = complaint
        raise UserError(f"{path}:{_line(text, keys)}: {'.'.join(keys)} {why}")
    return problem


def _problem(file: PlacementFile) -> Problem:
    """Convert GiB and GB/s to bytes."""
    models = tuple(
        Model(
            name,
            round(table.gib * 1024) * MIB,
            table.replicas,
            table.tp,
            table.kind,
            None if table.bandwidth_gbs is None else table.bandwidth_gbs * 1e9,
        )
        for name, table in file.models.items()
    )
    servers = file.servers
    hbm = round(servers.hbm_gib * 1024) * MIB
    return Problem(servers.count, models, servers.gpus, hbm, file.seed, file.pairing.donors)


def _explain(error: ValidationError, path: Path, text: str) -> str:
    """Put the first of the validation's complaints in one line."""
    first = min(error.errors(), key=lambda e: e["type"] == "missing")
    keys = tuple(str(part) for part in first["loc"] if part != "[key]")
    more = error.error_count() - 1
    tail = f" (and {more} more)" if more else ""
    where = f"{path}:{_line(text, keys)}"
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key {'.'.join(keys)!r}; {_valid_keys(keys)}{tail}"
    if first["type"] == "missing":
        return f"{path}: key {'.'.join(keys)!r} is missing{tail}"
    message = first["msg"][0].lower() + first["msg"][1:]
    shown = "" if isinstance(first["input"], dict) else f" is {first['input']!r}"
    return f"{where}: {'.'.join(keys)}{shown}: {message}{tail}"


def _valid_keys(keys: tuple[str, ...]) -> str:
    """List the keys of the table in which the last of `keys` is unknown, the nearest first."""
    table: type[BaseModel] = PlacementFile if len(keys) == 1 else TABLES.get(keys[0], PlacementFile)
    known = sorted(table.model_fields)
    close = get_close_matches(keys[-1], known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(known)}"
