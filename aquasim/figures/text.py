"""Strings from files, made fit for figures and pages: every character shown, none obeyed."""

from typing import Any

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of the text around them."""
_KEPT = "\n\t"


def shown(text: str) -> str:
    """Return text with control characters, turners and half characters made visible."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    code = ord(character)
    if character in _KEPT:
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if character in _TURNING:
        return f"<U+{code:04X}>"
    if 0x80 <= code < 0xA0 or 0xD800 <= code < 0xE000 or code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF:
        return "\ufffd"
    return character


def clean(value: Any) -> Any:
    """Return plain values with every string in them (keys are ours) as `shown`."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if not value or isinstance(value[0], int | float):  # long columns of numbers hold no strings
            return [clean(item) if isinstance(item, str | dict | list) else item for item in value]
        return [clean(item) for item in value]
    return value


def short(text: str, most: int = 60) -> str:
    """Return a name that fits a legend."""
    return text if len(text) <= most else f"{text[: most - 9]}…{text[-8:]}"
