"""The scenario under a sweep, and the address of each of its points: a digest of all that its result depends on."""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aquasim.errors import UserError
from aquasim.scenario.changes import Change, as_toml, with_changes
from aquasim.scenario.load import find, load_scenario
from aquasim.scenario.schema import Scenario
from aquasim.scenario.server import ServerScenario
from aquasim.sweep.ranges import LARGEST_SEED

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("core", "hardware", "models", "producers", "records", "scenario", "sim", "workload")
"""Packages that results depend on."""
PROSE = frozenset({"question", "source", "expect", "baseline", "show", "ranges"})
"""Keys that no result depends on."""
FILES = frozenset({"path", "name", "model", "profile", "tokenizer"})
"""Keys whose value may be a file."""


class Point(NamedTuple):
    """One simulation: a system of the scenario with changed values and a seed."""

    key: str
    """Its address: equal for equal results."""
    changes: tuple[Change, ...]
    system: str
    seed: int


@dataclass(frozen=True)
class Base:
    """A scenario as its file has it, before changes."""

    name: str
    file: str
    data: Mapping[str, Any]
    scenario: Scenario | ServerScenario
    fixed: tuple[str, ...] = ()
    """Changes made for good, as `--set` takes them."""
    _known: dict[str, dict[str, str]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(cls, name_or_path: str, changes: tuple[Change, ...] = ()) -> "Base":
        """Read a scenario and set values of it for good.

        Raises:
            UserError: the scenario is faulty.
        """
        texts = tuple(f"{key}={as_toml(value)}" for key, value in changes)
        scenario = load_scenario(name_or_path, texts)
        path = find(name_or_path)
        data = with_changes(tomllib.loads(path.read_text(encoding="utf-8")), changes)
        shipped = path.suffix != ".toml" or path.is_relative_to(ROOT / "scenarios")
        return cls(name_or_path if shipped else path.stem, str(path), data, scenario, texts)

    @property
    def systems(self) -> tuple[str, ...]:
        """Names of the scenario's systems."""
        return tuple(self.scenario.systems)

    @property
    def seed(self) -> int:
        """The scenario's own seed."""
        return self.scenario.seed

    def seeds(self, count: int) -> tuple[int, ...]:
        """Return so many seeds, from the scenario's own on.

        Raises:
            UserError: they are larger than what is stored of them.
        """
        if self.seed + count - 1 > LARGEST_SEED:
            raise UserError(f"seed {self.seed} with {count:,} seeds: a seed is at most {LARGEST_SEED}")
        return tuple(range(self.seed, self.seed + count))

    def point(self, changes: tuple[Change, ...], system: str, seed: int) -> Point:
        """Return a point with its address.

        Raises:
            UserError: a change leads through a value that is no table.
        """
        return next(self.points(changes, (system,), (seed,)))

    def points(
        self, changes: tuple[Change, ...], systems: Iterable[str], seeds: Iterable[int]
    ) -> Iterator[Point]:
        """Return the points of every system with every seed, the seeds of one system together."""
        numbers = tuple(seeds)
        for system in systems:
            begun = self._begun(changes, system)
            for seed in numbers:
                yield Point(_ended(begun, seed), changes, system, seed)

    def _begun(self, changes: tuple[Change, ...], system: str) -> "Hash":
        """Return the digest of all but the seed; tokens of tables that no change touched are known."""
        tables = resolved(self.data, changes, system, self.seed)
        same = {name for name, table in tables.items() if table is self.data.get(name)}
        if tables["systems"].get(system) is self.data["systems"].get(system):
            same.add("systems")
        return _begin(tables, {name: text for name, text in self._tokens(system).items() if name in same})

    def _tokens(self, system: str) -> dict[str, str]:
        """Return the tokens of the tables without changes, made once for each system."""
        if system not in self._known:
            tables = resolved(self.data, (), system, self.seed)
            self._known[system] = {name: token(name, tables[name]) for name in tables if name != "seed"}
        return self._known[system]


def resolved(data: Mapping[str, Any], changes: tuple[Change, ...], system: str, seed: int) -> dict[str, Any]:
    """Return the tables of one simulation: the changed scenario with its seed and one system only."""
    tables = with_changes(data, changes)
    tables["seed"] = seed
    systems = tables.get("systems")
    if isinstance(systems, Mapping) and system in systems:
        tables["systems"] = {system: systems[system]}
    return tables


def address(tables: Mapping[str, Any]) -> str:
    """Return the digest of a simulation: its tables, the files and the profile they name, and our source."""
    return _ended(_begin(tables, {}), tables["seed"])


def _begin(tables: Mapping[str, Any], known: Mapping[str, str]) -> "Hash":
    names = sorted(name for name in tables if name not in PROSE and name != "seed")
    parts = [fingerprint(), *(known.get(name) or token(name, tables[name]) for name in names)]
    machine, model = tables.get("machine"), tables.get("model")
    if isinstance(machine, Mapping):
        name = str(model.get("name")) if isinstance(model, Mapping) else ""
        parts.append(_profile(str(machine.get("server")), str(machine.get("profile")), name))
    return sha256("\n".join(parts).encode())


def _ended(begun: "Hash", seed: int) -> str:
    whole = begun.copy()
    whole.update(f"\nseed={seed}".encode())
    return whole.hexdigest()[:32]


def token(name: str, table: Any) -> str:
    """Return what one table contributes to an address."""
    text = json.dumps(table, sort_keys=True, default=str)
    return f"{name}={text}{_files(text)}"


@cache
def fingerprint() -> str:
    """Return a digest of the source and data that results depend on."""
    whole = sha256()
    for package in SOURCES:
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in (".py", ".json", ".toml"):
                whole.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()[:16]


@lru_cache(maxsize=4096)
def _files(text: str) -> str:
    """Return digests of the files that a table, as JSON, names."""
    return "".join(_digest(path) for path in _paths(json.loads(text)))


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in FILES and isinstance(inner, str) and ("/" in inner or "." in inner):
                path = Path(inner).expanduser()
                if path.is_file():
                    yield path
            else:
                yield from _paths(inner)


@cache
def _digest(path: Path) -> str:
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "unreadable"


@cache
def _profile(server: str, profile: str, model: str) -> str:
    """Return a digest of the hardware profile that a machine means, or what stands for an unknown one."""
    from aquasim.hardware.local import DEVICES, LOCAL, load_cached
    from aquasim.models import load_model
    from aquasim.sim.simulate import find_server

    try:
        if server == LOCAL and profile == "None":
            cached = [load_cached(load_model(model), device) for device in DEVICES]
            blocks = [found.blocks for found in cached if found]
        else:
            blocks = [find_server(server, None if profile == "None" else profile)[1].blocks]
    except (UserError, ValueError, OSError):
        return "unknown"
    return sha256(json.dumps(blocks, sort_keys=True).encode()).hexdigest()
