"""Messages as JSON and back, strictly: what is not exactly a message of the protocol is an error.

A message is an object of its fields and `type`, its name; named tuples inside are objects too, plain tuples are
arrays. Integers are not negative and below 2**64; nothing is missing, nothing is extra, nothing is converted.
"""

import json
import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from aquasim.core.leases import messages as core
from aquasim.errors import UserError
from aquasim.runtime.coordinator.errors import ProtocolError

Read = Callable[[Any], Any]
"""Turns a JSON value into a field's value, or raises ProtocolError."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
RESERVED = (core.COORDINATOR.name, core.LOCAL.name)


def natural(value: Any) -> int:
    """Read an integer from 0 up to 2**64."""
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ProtocolError("an integer of at least 0 is wanted")
    return value


def positive(value: Any) -> int:
    """Read an integer from 1 on."""
    if natural(value) == 0:
        raise ProtocolError("an integer of at least 1 is wanted")
    return int(value)


def flag(value: Any) -> bool:
    """Read true or false."""
    if type(value) is not bool:
        raise ProtocolError("true or false is wanted")
    return value


def name(value: Any) -> str:
    """Read a process's name: 1 to 64 letters, digits and _ . : - and no others."""
    if type(value) is not str or not _NAME.fullmatch(value):
        raise ProtocolError("a name is 1 to 64 letters, digits and _ . : -, the first a letter or digit")
    return value


def checked_name(word: str) -> str:
    """Return a name that a user gave; raises UserError for one that no process can have."""
    try:
        if word in RESERVED:
            raise ProtocolError(f"{word} is taken")
        return name(word)
    except ProtocolError as error:
        raise UserError(f"name {word!r}: {error}") from None


def text(limit: int) -> Read:
    """Read a string of at most `limit` characters."""

    def read(value: Any) -> str:
        if type(value) is not str or len(value) > limit:
            raise ProtocolError(f"a string of at most {limit} characters is wanted")
        return value

    return read


def one_of(*words: str) -> Read:
    """Read one of a few strings."""

    def read(value: Any) -> str:
        if type(value) is not str or value not in words:
            raise ProtocolError(f"one of {', '.join(words)} is wanted")
        return value

    return read


def optional(inner: Read) -> Read:
    """Read null, or what `inner` reads."""
    return lambda value: None if value is None else inner(value)


def many(inner: Read) -> Read:
    """Read an array of any length, all of one kind."""
    return lambda value: tuple(inner(item) for item in _array(value))


def row(*inner: Read) -> Read:
    """Read an array of exactly these."""

    def read(value: Any) -> tuple[Any, ...]:
        if len(_array(value)) != len(inner):
            raise ProtocolError(f"an array of {len(inner)} is wanted")
        return tuple(take(item) for take, item in zip(inner, value, strict=True))

    return read


def record(kind: type, **fields: Read) -> Read:
    """Read an object of exactly these fields into the named tuple `kind`."""

    def read(value: Any) -> Any:
        if type(value) is not dict or value.keys() != fields.keys():
            raise ProtocolError(f"{kind.__name__} has the fields {', '.join(fields) or 'none'}")
        return kind(**{key: _within(key, take, value[key]) for key, take in fields.items()})

    return read


def _array(value: Any) -> list[Any]:
    if type(value) is not list:
        raise ProtocolError("an array is wanted")
    return value


def _within(key: str, take: Read, value: Any) -> Any:
    try:
        return take(value)
    except ProtocolError as error:
        raise ProtocolError(f"{key}: {error}") from None


process = record(core.Process, name=name, run=natural)
extent = record(core.Extent, donor=process, number=natural)
lease = record(core.Lease, extent=extent, epoch=natural, bytes=positive, owner=process, expires=natural)
cause = one_of("reclaim", "revoked", "orphaned")
_row = record(core.Row, extent=extent, bytes=positive, epoch=natural, owner=optional(process), ready=flag)

FIELDS: dict[type, dict[str, Read]] = {
    core.Wake: {},
    core.Donate: {"extents": many(row(natural, positive))},
    core.Reclaim: {"bytes": natural},
    core.Regained: {"extent": extent, "bytes": positive},
    core.Scrub: {"extent": extent},
    core.Scrubbed: {"extent": extent},
    core.DonorReport: {"donor": process, "serial": natural, "owed": natural, "rows": many(_row)},
    core.Assign: {"consumer": process, "extents": many(row(extent, natural))},
    core.Free: {"extent": extent, "epoch": natural, "consumer": process, "scrub": flag},
    core.Want: {"bytes": natural},
    core.Usable: {"lease": lease},
    core.Evacuate: {"extent": extent, "epoch": natural, "cause": cause},
    core.Emptied: {"extent": extent, "epoch": natural},
    core.ConsumerReport: {
        "consumer": process,
        "serial": natural,
        "want": natural,
        "holds": many(row(extent, natural, positive)),
    },
    core.Granted: {"leases": many(lease)},
    core.Drain: {"leases": many(row(extent, natural)), "cause": cause},
    core.Closed: {"consumer": process, "extent": extent, "epoch": natural},
    core.Watch: {"process": process},
    core.Died: {"process": process},
    core.Overdue: {"extent": extent, "epoch": natural, "consumer": process},
}
"""Every message of `aquasim.core.leases`, field by field."""


def table(fields: dict[type, dict[str, Read]]) -> dict[str, Read]:
    """Return the readers of messages by type name."""
    return {kind.__name__: record(kind, **reads) for kind, reads in fields.items()}


LEASES = table(FIELDS)


def encode(message: NamedTuple) -> bytes:
    """Return a message as JSON."""
    values = {"type": type(message).__name__, **_plain(message)}
    return json.dumps(values, separators=(",", ":")).encode()


def decode(data: bytes, readers: dict[str, Read] = LEASES, kinds: Collection[type] | None = None) -> Any:
    """Return the message that JSON stands for, of one of `kinds` if given; raises ProtocolError."""
    values = _parse(data)
    word = values.pop("type", None) if type(values) is dict else None
    if type(word) is not str or word not in readers:
        raise ProtocolError("no message: its type is missing or unknown")
    if kinds is not None and word not in {kind.__name__ for kind in kinds}:
        raise ProtocolError(f"{word} is out of place here")
    return _within(word, readers[word], values)


def _plain(value: Any) -> Any:
    """Turn tuples into objects and arrays."""
    if hasattr(value, "_fields"):
        return {key: _plain(getattr(value, key)) for key in value._fields}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:  # of what came in, only where it went wrong may be said on
        raise ProtocolError(f"no JSON ({type(error).__name__})") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key twice")
    return values


def _no_number(word: str) -> Any:
    raise ValueError(word)
