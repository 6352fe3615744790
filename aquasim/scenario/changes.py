"""Changes of single scenario values: dotted keys as `--set` takes them, without touching what they change."""

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from aquasim.errors import UserError

Change = tuple[str, Any]
"""A dotted key and its value."""

_PART = re.compile(r"\s*(?:\"([^\"]*)\"|'([^']*)'|([^.\"']+))\s*(?:\.|$)")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


@lru_cache(maxsize=4096)
def split(key: str) -> tuple[str, ...]:
    """Return the parts of a dotted key; a part with dots stands in quotes.

    Raises:
        UserError: it is no such key.
    """
    parts, at = [], 0
    while at < len(key):
        found = _PART.match(key, at)
        if found is None:
            break
        parts.append(next(group for group in found.groups() if group is not None).strip())
        at = found.end()
    if at < len(key) or not parts or not all(parts) or key.endswith("."):
        raise UserError(f"{key!r} is no key; write path.to.key, for example workload.arrivals.rate")
    return tuple(parts)


def parts_of(text: str) -> tuple[str, ...]:
    """Return the parts of a key as it stands in a file; what is no key is one part."""
    try:
        return split(text.strip())
    except UserError:
        return (text,)


def join(parts: Iterable[str]) -> str:
    """Return the dotted key of its parts: the inverse of `split`."""
    return ".".join(part if _BARE.fullmatch(part) else _quoted(part) for part in parts)


def _quoted(part: str) -> str:
    return f'"{part}"' if '"' not in part else f"'{part}'"


def with_changes(data: Mapping[str, Any], changes: Iterable[Change]) -> dict[str, Any]:
    """Return `data` with values set: tables on the way are copied, everything else is shared.

    Raises:
        UserError: a key leads through a value that is no table.
    """
    result, copied = dict(data), set[tuple[str, ...]]()
    for key, value in changes:
        table, parts = result, split(key)
        for depth, part in enumerate(parts[:-1], 1):
            inner = table.get(part, {})
            if not isinstance(inner, Mapping):
                raise UserError(f"{key}: {part!r} is a value, not a table")
            if parts[:depth] not in copied:
                inner = dict(inner)
                copied.add(parts[:depth])
            table[part] = inner
            table = inner
        copied = {path for path in copied if path[: len(parts)] != parts}  # the new value is the caller's
        table[parts[-1]] = value
    return result


def flatten(table: Mapping[str, Any], is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Return a TOML table by dotted keys: `a.b = 1`, `[a] b = 1` and `"a.b" = 1` are the same.

    A table under a quoted key with dots is a value; others are gone into, except where `is_leaf` says so.
    """
    found: dict[str, Any] = {}
    for name, value in table.items():
        inner = isinstance(value, Mapping) and value and not (is_leaf is not None and is_leaf(value))
        if "." in name and _is_key(name):
            found[join(split(name))] = value
        elif inner:
            found |= {f"{join([name])}.{key}": each for key, each in flatten(value, is_leaf).items()}
        else:
            found[join([name])] = value
    return found


def _is_key(name: str) -> bool:
    try:
        return bool(split(name))
    except UserError:
        return False


def as_toml(value: Any) -> str:
    """Return a value as TOML text in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{as_toml(str(k))} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return str(value)


def parse_change(text: str) -> Change:
    """Return a change from "path.to.key=value" with a TOML value or a bare string.

    Raises:
        UserError: it is nothing of the kind.
    """
    key, sign, raw = text.partition("=")
    try:
        name = join(split(key.strip())) if sign else ""
    except UserError:
        name = ""
    if not name:
        raise UserError(f"--set {text}: write path.to.key=value, for example workload.arrivals.rate=2")
    try:
        return name, tomllib.loads(f"value = {raw.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return name, raw.strip()
