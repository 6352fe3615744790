"""The head of a run folder, `meta.json`: read, and every key that others fold checked before they meet it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from aquasim.errors import UserError
from aquasim.records.metrics import SLO_KEYS
from aquasim.records.tables import KINDS, LEASE_EVENTS, SOURCES, Outcome

SCHEMA = 2
"""Version of the layout of run folders; `load` reads this one only."""
META = "meta.json"
LARGEST = 2**40
"""Above any size that a run has: blocks, bytes of a block."""

Check = Callable[[Any], bool]


class Rule(NamedTuple):
    """What stands under a key, by its path: a check, its words, and whether it may be left out (or null)."""

    key: str
    check: Check
    needed: str
    optional: bool = True


def read_head(folder: Path) -> dict[str, Any]:
    """Return `name`, `labels` and `meta` of a run folder.

    Raises:
        UserError: in one line, which file and key is missing, damaged or of another version.
    """
    path = folder / META
    if not path.is_file():
        reason = "no such folder" if not folder.exists() else f"no {META}"
        if inside := sorted(each.parent.name for each in folder.glob(f"*/{META}")):
            reason += f"; there are runs in it: {', '.join(inside)}"
        raise UserError(f"{folder}: not a run folder ({reason})")
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
        _check(head, path)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from error
    except RecursionError:
        raise UserError(f"{path}: nested too deeply") from None
    return head  # type: ignore[no-any-return]


def _check(head: Any, path: Path) -> None:
    """Raise UserError for the first key with something else than is read from it."""
    version = head.get("schema") if isinstance(head, dict) else None
    if version != SCHEMA:
        raise UserError(f"{path}: schema version {_cut(version)}; this aquasim reads {SCHEMA}")
    if missing := {"name", "labels", "meta"} - head.keys():
        raise UserError(f"{path}: no {', '.join(sorted(missing))}")
    for rules in (lambda _: HEAD, lambda _: META_RULES, _sizes, _tenants):
        for rule in rules(head):
            value = _at(head, rule.key)
            if (value is not None or not rule.optional) and not rule.check(value):
                raise UserError(f"{path}: key {rule.key}: {rule.needed} is needed, not {_cut(value)}")


def _at(head: dict[str, Any], key: str) -> Any:
    """Return what stands under a path; None where there is no such key."""
    value: Any = head
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _cut(value: Any) -> str:
    """Return a value on one line, and short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- what a value is ---------------------------------------------------------------------------------------


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _table(value: Any) -> bool:
    return isinstance(value, dict)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**63


def _size(value: Any) -> bool:
    return _whole(value) and 0 <= value <= LARGEST


def _count(value: Any) -> bool:
    return _whole(value) and 1 <= value <= LARGEST


def _number(value: Any) -> bool:
    return _whole(value) or (isinstance(value, float) and math.isfinite(value))


def _gpus(value: Any) -> bool:
    return isinstance(value, list) and all(_whole(gpu) and gpu >= 0 for gpu in value)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value)) and len(set(value)) == len(value)


def _bounds(value: Any) -> bool:
    return _table(value) and all(key in SLO_KEYS and _number(bound) for key, bound in value.items())


def _links(value: Any) -> bool:
    """Say whether every link is numbers by name, `bytes` and `capacity` among them."""
    return _table(value) and all(
        _table(link) and {"bytes", "capacity"} <= link.keys() and all(map(_number, link.values()))
        for link in value.values()
    )


def _unlike(value: Any) -> bool:
    return _names(value) and len(value) > 0


def _tenant(value: Any) -> bool:
    kinds = {"kind": _text, "gpus": _gpus, "slo": _bounds, "profile": _text}
    return (
        _table(value)
        and _text(value.get("kind"))
        and all(value.get(key) is None or check(value[key]) for key, check in kinds.items())
    )


# --- what a head needs -------------------------------------------------------------------------------------

LABELS: dict[str, tuple[str, ...]] = {
    "outcome": tuple(outcome.name.lower() for outcome in Outcome),
    "kind": KINDS,
    "source": SOURCES,
    "event": LEASE_EVENTS,
}
"""Lists of names that are the same in every run."""


def _listing(names: tuple[str, ...]) -> Check:
    return lambda value: value == list(names)


HEAD = (
    Rule("name", _text, "a text", False),
    Rule("labels", _table, "a table of lists of names", False),
    Rule("labels.engine", _unlike, "a list of one engine's name or more", False),
    *(Rule(f"labels.{key}", _names, "a list of unlike names", False) for key in ("reason", "tier")),
    *(Rule(f"labels.{key}", _listing(names), json.dumps(names), False) for key, names in LABELS.items()),
    Rule("meta", _table, "a table of what was run", False),
)
GPUS = "a list of GPUs' numbers"
META_RULES = (
    Rule("meta.scenario", _table, "a table"),
    Rule("meta.scenario.question", _text, "a text"),
    Rule("meta.scenario.baseline", _text, "a system's name"),
    Rule("meta.scenario.machine", _table, "a table"),
    Rule("meta.scenario.machine.gpus", _gpus, GPUS),
    Rule("meta.scenario.machine.donors", _gpus, GPUS),
    Rule("meta.scenario.model", _table, "a table"),
    Rule("meta.scenario.model.tp", lambda value: _count(value) and value <= 1024, "a number of GPUs"),
    Rule("meta.scenario.systems", _table, "a table"),
    Rule("meta.scenario.show", _names, "a list of tenants' names"),
    Rule("meta.system", _text, "a system's name"),
    Rule("meta.seed", _whole, "a whole number"),
    Rule("meta.gpus", _gpus, GPUS),
    Rule("meta.slo", _bounds, f"a table of seconds ({', '.join(SLO_KEYS)})"),
    Rule("meta.links", _links, "a table of links, with bytes, capacity and other numbers of each,"),
)
"""What may stand in `meta`, from the outside in."""


def _sizes(head: dict[str, Any]) -> tuple[Rule, ...]:
    """Return what sizes must be: of a run with tenants by engine, else one number, or blocks by engine."""
    engines, several = head["labels"]["engine"], "tenants" in head["meta"]

    def each(check: Check) -> Check:
        return lambda value: _table(value) and all(check(value.get(engine)) for engine in engines)

    if several:
        needed = "a table with a number for each of labels.engine"
        keys = (("blocks", _count), ("block_bytes", _size))
        return tuple(Rule(f"meta.{key}", each(check), needed, False) for key, check in keys)
    return (
        Rule("meta.blocks", lambda value: _count(value) or each(_count)(value), "a number of blocks"),
        Rule("meta.block_bytes", _size, "a number of bytes"),
    )


def _tenants(head: dict[str, Any]) -> tuple[Rule, ...]:
    """Return what must hold of tenants, if there are any: each has a table, and an engine called as it is."""
    if "tenants" not in head["meta"]:
        return ()
    engines = head["labels"]["engine"]

    def known(value: Any) -> bool:
        return _table(value) and all(
            any(e == name or e.startswith(f"{name}.") for e in engines) for name in value
        )

    def told(value: Any) -> bool:
        return all(map(_tenant, value.values()))

    return (
        Rule("meta.tenants", known, "a table by tenant, each with an engine of labels.engine,", False),
        Rule("meta.tenants", told, "a table of each tenant, with its kind,", False),
    )
