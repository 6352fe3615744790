"""Messages as JSON: the same again for every message there is, and an error for everything else."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lease_messages import KINDS, values

from aquasim.core.leases import Closed, DonorReport, Extent, Lease, Message, Process, Row, messages
from aquasim.errors import UserError
from aquasim.runtime.coordinator import ProtocolError, codec, wire
from aquasim.runtime.coordinator.codec import decode, encode


def test_every_message_has_a_reader_of_exactly_its_fields() -> None:
    """A message that is added to the core, or a field, is missed here."""
    assert set(get_args(Message)) == set(codec.FIELDS)
    for kind, fields in codec.FIELDS.items():
        assert tuple(fields) == kind._fields  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_every_message_comes_back_equal(kind: str, data: st.DataObject) -> None:
    """decode(encode(m)) == m, of the same types all the way down."""
    message = data.draw(values(getattr(messages, kind)))
    again = decode(encode(message))
    assert type(again) is type(message)
    assert again == message
    assert encode(again) == encode(message)


ME = Process("d0", 7)
REPORT = DonorReport(ME, 1, 0, (Row(Extent(ME, 3), 64, 2, Process("c0", 1), False),))


def mutants(value: Any, path: tuple[Any, ...] = ()) -> Any:
    """Yield (what was done, the whole value changed so) for every place in a JSON value."""
    yield path, "a string", "x" * 2000
    yield path, "a negative number", -1
    yield path, "a float", 1.0
    yield path, "too great a number", 1 << 64
    yield path, "an object", {"a": 1}
    if isinstance(value, dict):
        for key, inner in value.items():
            yield path, f"no {key}", {k: v for k, v in value.items() if k != key}
            yield from mutants(inner, (*path, key))
        yield path, "something extra", value | {"extra": 1}
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from mutants(inner, (*path, index))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return `value` with `new` at a place."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("message", [REPORT, Closed(ME, Extent(ME, 0), 1)], ids=["report", "closed"])
def test_anything_else_is_an_error(message: Any) -> None:
    """Fields missing, extra, negative or of other types, anywhere: ProtocolError."""
    plain = json.loads(encode(message))
    tried = 0
    for path, what, new in mutants(plain):
        with pytest.raises(ProtocolError):
            print(path, what, decode(json.dumps(put(plain, path, new)).encode()))
        tried += 1
    assert tried > 40


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"type":"Nothing"}',
        b'{"type":["Wake"]}',
        b'{"type":"Wake","type":"Wake"}',
        b'{"type":"Want","bytes":true}',
        b'{"type":"Want","bytes":NaN}',
        b'{"type":"Want","bytes":1e3}',
        b'{"type":"Want","bytes":' + b"9" * 5000 + b"}",
        b'{"type":"Want","bytes":1}x',
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda text: text[:30],
)
def test_no_json_of_ours_is_an_error(text: bytes) -> None:
    """Other JSON, broken JSON, keys said twice, and nesting beyond all measure."""
    with pytest.raises(ProtocolError):
        decode(text)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_an_error(text: bytes) -> None:
    """Nothing but ProtocolError comes out of garbage."""
    with pytest.raises(ProtocolError):
        decode(text, wire.READERS)


def test_errors_do_not_quote_what_came_in() -> None:
    """Logs get these texts, and a handle may be in the wrong place."""
    secret = "5ec7e7" * 10
    for text in (secret, json.dumps({"type": secret}), json.dumps({"type": "Want", "bytes": secret})):
        with pytest.raises(ProtocolError) as caught:
            decode(text.encode())
        assert "5ec7e7" not in str(caught.value)


def test_a_handles_text_is_never_printed() -> None:
    """The message that carries it hides it."""
    assert "5ec7e7" not in repr(wire.Handed(Extent(ME, 0), 1, ME, "5ec7e7"))


@pytest.mark.parametrize("name", ["", "a b", "-a", "x" * 65, "coordinator", "local", "ä", 'a"b'])
def test_names_that_none_can_have(name: str) -> None:
    """A user's name is checked before anything starts."""
    with pytest.raises(UserError, match="name"):
        codec.checked_name(name)


def test_only_kinds_that_are_in_place_are_read() -> None:
    """A message that is right but not expected here is an error too."""
    assert decode(encode(Closed(ME, Extent(ME, 0), 1)), wire.READERS, (Closed,)).epoch == 1
    with pytest.raises(ProtocolError, match="out of place"):
        decode(encode(REPORT), wire.READERS, (Closed,))


def test_sizes_are_positive() -> None:
    """A lease of nothing is none."""
    with pytest.raises(ProtocolError):
        decode(encode(messages.Granted((Lease(Extent(ME, 0), 1, 0, ME, 5),))))
