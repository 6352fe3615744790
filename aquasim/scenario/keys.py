"""What a scenario file may say: every key, read off its schema."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aquasim.scenario.schema import Scenario

WORDS = {int: "whole number", float: "number", bool: "true | false", str: "text"}


@dataclass(frozen=True)
class Key:
    """One key: its path, what it takes, its default (None: it must be given; "": it may be left out), its meaning."""

    path: str
    takes: str
    default: str | None
    about: str


def keys(table: type[BaseModel] = Scenario, path: str = "") -> Iterator[Key]:
    """Return all keys below a table, in the order of the file; of tables by `kind`, each kind's."""
    for name, field in table.model_fields.items():
        where = f"{path}.{name}" if path else name
        tables = [each for each in _parts(field.annotation) if _is_table(each)]
        if get_origin(field.annotation) is dict and _is_table(get_args(field.annotation)[1]):
            where, tables = f"{where}.NAME", [get_args(field.annotation)[1]]
        if not tables:
            yield Key(where, _takes(field.annotation), _default(field), _line(field.description))
        for each in tables:
            kind = each.model_fields.get("kind")
            if kind is not None:
                yield Key(f"{where}.kind", f'"{get_args(kind.annotation)[0]}"', None, _line(each.__doc__))
            yield from (key for key in keys(each, where) if key.path != f"{where}.kind")


def _parts(annotation: Any) -> list[Any]:
    """Return the members of a union, optional or annotated."""
    if get_origin(annotation) is Annotated:
        return _parts(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [part for each in get_args(annotation) for part in _parts(each)]
    return [] if annotation is type(None) else [annotation]


def _is_table(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _takes(annotation: Any) -> str:
    return " | ".join(_word(part) for part in _parts(annotation))


def _word(part: Any) -> str:
    if get_origin(part) is Literal:
        return " | ".join(repr(each) if isinstance(each, int) else f'"{each}"' for each in get_args(part))
    if get_origin(part) is tuple:
        inner = [each for each in get_args(part) if each is not Ellipsis]
        return f"[{', '.join(_takes(each) for each in inner)}{', ...' if Ellipsis in get_args(part) else ''}]"
    return "table" if get_origin(part) is dict else WORDS[part]


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    if value in (None, (), {}, ""):
        return ""
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f'"{value}"'
        if isinstance(value, str)
        else f"{value:g}"
    )


def _line(text: str | None) -> str:
    return " ".join((text or "").split())
