"""From a sweep file to its points."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from aquasim.errors import UserError
from aquasim.scenario.changes import Change, as_toml, split
from aquasim.sweep.axes import axes_of, refuse_foreign, refuse_lost, varying
from aquasim.sweep.base import Base, Point
from aquasim.sweep.check import Assignment, Axis, BadKeyError, check_keys, metric_names
from aquasim.sweep.file import SweepFile, as_texts, line_of, read_sweep
from aquasim.sweep.ranges import all_ends
from aquasim.sweep.terms import Constraint, Metrics, Objective, parse_constraint, parse_objective


@dataclass(frozen=True)
class Overrides:
    """What the command line says in place of the file."""

    systems: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    seeds: int | None = None
    objectives: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    trials: int | None = None


@dataclass(frozen=True)
class Sweep:
    """A sweep, checked: the scenario, what varies, and what is sought."""

    name: str
    file: SweepFile
    base: Base
    systems: tuple[str, ...]
    seeds: tuple[int, ...]
    axes: tuple[Axis, ...]
    """Each a list of assignments; a candidate takes one of each."""
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys that vary."""
        found = [key for axis in self.axes for assignment in axis for key, _ in assignment]
        return tuple(dict.fromkeys([*found, *(self.file.search.ranges if self.file.search else ())]))

    @cached_property
    def assignments(self) -> list[Assignment]:
        """Every combination of the axes' assignments; a search has none of its own."""
        if self.file.search is not None:
            return []
        return [tuple(change for part in parts for change in part) for parts in product(*self.axes)]

    def points(self, assignment: Assignment, systems: Sequence[str] | None = None) -> Iterator[Point]:
        """Return the points of one assignment: every system with every seed."""
        return self.base.points(assignment, systems or self.systems, self.seeds)


def load_sweep(path: Path, given: Overrides | None = None) -> Sweep:
    """Read and check a sweep file.

    Raises:
        UserError: one line with the file, the key, its line and what is valid.
    """
    file, text = read_sweep(path)
    return make_sweep(path, file, text, given or Overrides())


def make_sweep(path: Path, file: SweepFile, text: str, given: Overrides) -> Sweep:
    """Resolve a sweep file's names and check its keys; `text` finds lines for errors."""
    own, file = file.systems, _with(file, given)
    base = _base(path, file, text, given, own)
    systems = _systems(path, file, text, base)
    axes = _axes(path, file, text, given, (*(own or base.systems), *systems))
    ends = [all_ends({key: of}) for key, of in file.search.ranges.items()] if file.search else []
    try:
        check_keys(base, [*axes, *ends], systems)
    except BadKeyError as error:
        raise UserError(f"{path}:{line_of(text, [error.key])}: {error.reason}") from None
    objectives, constraints = _sought(
        path, file, text, given, systems, Metrics(metric_names(base.scenario), base.systems)
    )
    sweep = Sweep(
        path.name.removesuffix(".toml").removesuffix(".sweep"),
        file,
        base,
        systems,
        _seeds(path, file, text, base),
        tuple(axes),
        objectives,
        constraints,
    )
    if file.search is not None and not sweep.objectives:
        raise UserError(f'{path}: a search needs an objective, for example objectives = ["min ttft_p99"]')
    return sweep


def _sought(
    path: Path, file: SweepFile, text: str, given: Overrides, systems: Sequence[str], metrics: Metrics
) -> tuple[tuple[Objective, ...], tuple[Constraint, ...]]:
    """Read objectives and constraints; errors in the file's own say where."""
    try:
        where = "" if given.objectives else f"{path}:{line_of(text, ['objectives'])}: "
        objectives = tuple(parse_objective(each, metrics) for each in as_texts(file.objectives))
        where = "" if given.constraints else f"{path}:{line_of(text, ['constraints'])}: "
        constraints = tuple(parse_constraint(each, metrics) for each in as_texts(file.constraints))
        for name in [name for each in constraints for name in each.names()]:
            if name.system is not None and name.system not in systems:
                raise UserError(f"{name}: system {name.system!r} is not in the sweep; add it to systems")
        return objectives, constraints
    except UserError as error:
        raise UserError(f"{where}{error}") from None


def _with(file: SweepFile, given: Overrides) -> SweepFile:
    """Put the command line's words in the file's place."""
    update: dict[str, Any] = {}
    if given.systems:
        update["systems"] = given.systems
    if given.seeds is not None:
        update["seeds"] = given.seeds
    if given.objectives:
        update["objectives"] = given.objectives
    if given.constraints:
        update["constraints"] = given.constraints
    if given.trials is not None:
        if file.search is None:
            raise UserError("--trials is for a sweep file with [search] and its ranges")
        update["search"] = file.search.model_copy(update={"trials": given.trials})
    return file.model_copy(update=update)


def _base(path: Path, file: SweepFile, text: str, given: Overrides, own: tuple[str, ...] | None) -> Base:
    """Load the scenario with what is set; `own` are the systems that the file itself names."""
    beside = path.parent / file.scenario
    name = str(beside) if beside.is_file() else file.scenario
    try:
        plain = Base.load(name)
    except UserError as error:
        raise UserError(f"{path}:{line_of(text, ['scenario'])}: scenario: {error}") from None
    _refuse_strangers(path, file, text, given, own or (*plain.systems, *_new(file, given)))
    fixed = tuple(file.fixed.items())
    try:
        Base.load(name, fixed)
    except UserError as error:
        reason = str(error)
        key = next((key for key, _ in fixed if reason.startswith(f"--set {key}=")), "set")
        raise UserError(f"{path}:{line_of(text, [key])}: {reason.removeprefix('--set ')}") from None
    return Base.load(name, (*fixed, *given.changes))


def _refuse_strangers(
    path: Path, file: SweepFile, text: str, given: Overrides, systems: tuple[str, ...]
) -> None:
    """Refuse what is set of systems that the sweep does not have."""
    changes, known = dict(given.changes), tuple(dict.fromkeys((*systems, *given.systems)))
    refuse_foreign(file.fixed, known, lambda key: f"{path}:{line_of(text, [key])}: {key}")
    refuse_foreign(changes, known, lambda key: f"--set {key}={as_toml(changes[key])}")


def _new(file: SweepFile, given: Overrides) -> list[str]:
    """Return the systems that what is set makes: those given as a whole, or given a policy."""
    keys = [split(key) for key in (*file.fixed, *dict(given.changes))]
    return [key[1] for key in keys if key[0] == "systems" and key[2:] in ((), ("policy",)) and key[1:]]


def _systems(path: Path, file: SweepFile, text: str, base: Base) -> tuple[str, ...]:
    for system in file.systems or ():
        if system not in base.systems:
            valid = ", ".join(base.systems)
            raise UserError(
                f"{path}:{line_of(text, ['systems'])}: unknown system {system!r}; the scenario has: {valid}"
            )
    found = tuple(dict.fromkeys(file.systems or base.systems))
    if file.search is not None and file.search.system not in (None, *found):
        line = line_of(text, ["search", "system"])
        raise UserError(
            f"{path}:{line}: search.system {file.search.system!r} is not among: {', '.join(found)}"
        )
    return found


def _axes(path: Path, file: SweepFile, text: str, given: Overrides, systems: Sequence[str]) -> list[Axis]:
    """Return what varies, of these systems only, and nothing that is set."""
    axes, known = axes_of(path, file, text), tuple(dict.fromkeys(systems))
    refuse_foreign(varying(file, axes), known, lambda key: f"{path}:{line_of(text, [key])}: {key}")
    refuse_lost(path, file, text, axes, given.changes)
    return axes


def _seeds(path: Path, file: SweepFile, text: str, base: Base) -> tuple[int, ...]:
    if isinstance(file.seeds, tuple):
        return tuple(dict.fromkeys(file.seeds))
    try:
        return base.seeds(file.seeds or 1)
    except UserError as error:
        raise UserError(f"{path}:{line_of(text, ['seeds'])}: {error}") from None


def as_document(sweep: Sweep) -> Mapping[str, Any]:
    """Return what a store keeps of a sweep, as JSON."""
    return {
        "name": sweep.name,
        "question": sweep.file.question,
        "scenario": sweep.base.name,
        "systems": list(sweep.systems),
        "seeds": list(sweep.seeds),
        "keys": list(sweep.keys),
        "confidence": sweep.file.confidence,
        "objectives": [each.text for each in sweep.objectives],
        "constraints": [each.text for each in sweep.constraints],
        "fixed": {key: str(value) for key, value in sweep.file.fixed.items()},
    }
