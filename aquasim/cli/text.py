"""Strings of users' and of files, made fit for tables: every character shown, none obeyed."""

import re

_BRACKET = re.compile(r"(\\*)\[([a-zA-Z#/@][^\[]*?\])?|(\\+)$")
"""What rich would read as markup: a tag or a lone bracket, and the backslashes before it or at the end."""


def shown(text: str) -> str:
    """Return rich's markup for a text as it is, with control characters spelled out."""
    return _BRACKET.sub(_escaped, visible(text))


def visible(text: str) -> str:
    """Return a text with control characters spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _escaped(found: re.Match[str]) -> str:
    slashes, tag, last = found.groups()
    if last:
        return f"{last * 2}[bold][/bold]"  # backslashes count half before a tag, which may follow or not
    if tag:
        return f"{slashes * 2}\\[{tag}"
    return f"{slashes}\\["
