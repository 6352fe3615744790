"""Objectives and constraints: "min METRIC", and sums and products of numbers and metrics compared.

    objective  = ("min" | "max") name
    constraint = sum ("<=" | ">=" | "<" | ">") sum
    sum        = product {("+" | "-") product}          (with spaces around + and -: names may contain hyphens)
    product    = factor {("*" | "/") factor}
    factor     = number | name | "-" factor | "(" sum ")"
    name       = [SYSTEM "."] METRIC                     (a metric's name, or the beginning of just one)

A name with a system is that system's figure at the same point; one without is the figure of whoever is judged.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from aquasim.errors import UserError


@dataclass(frozen=True)
class Name:
    """A metric, of one system or of whoever is judged."""

    metric: str
    system: str | None = None

    def __str__(self) -> str:
        return f"{self.system}.{self.metric}" if self.system else self.metric


@dataclass(frozen=True)
class Apply:
    """Two terms and what is done with them."""

    sign: str
    left: "Term"
    right: "Term"


Term = float | Name | Apply
Lookup = Callable[[Name], Any]
"""Returns numbers or arrays of them, NaN where undefined."""

_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def value_of(term: Term, lookup: Lookup) -> Any:
    """Compute a term: numbers or arrays, as `lookup` gives them. A division by zero is NaN."""
    if isinstance(term, Name):
        return lookup(term)
    if isinstance(term, Apply):
        left, right = value_of(term.left, lookup), value_of(term.right, lookup)
        if term.sign == "/":
            import numpy as np

            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(np.equal(right, 0), np.nan, np.divide(left, right))
        return _OPERATORS[term.sign](left, right)
    return term


def names_in(term: Term) -> Iterator[Name]:
    """List a term's metrics."""
    if isinstance(term, Name):
        yield term
    elif isinstance(term, Apply):
        yield from names_in(term.left)
        yield from names_in(term.right)


@dataclass(frozen=True)
class Objective:
    """What to make small or large."""

    text: str
    direction: Literal["min", "max"]
    name: Name

    def cost(self, lookup: Lookup) -> Any:
        """Return what is to be small."""
        value = lookup(self.name)
        return value if self.direction == "min" else -value


@dataclass(frozen=True)
class Constraint:
    """What has to hold."""

    text: str
    left: Term
    sign: str
    right: Term

    def names(self) -> list[Name]:
        """List the metrics it needs."""
        return [*names_in(self.left), *names_in(self.right)]

    def slack(self, lookup: Lookup) -> Any:
        """Return by how much it holds, negative where it does not, in the metric's unit; NaN if undefined."""
        left, right = value_of(self.left, lookup), value_of(self.right, lookup)
        return right - left if self.sign in ("<=", "<") else left - right

    def holds(self, slack: Any) -> Any:
        """Say whether a slack will do."""
        return slack >= 0 if "=" in self.sign else slack > 0

    def miss(self, lookup: Lookup) -> Any:
        """Return how far it is from holding, as a share of its right side (of 1 if that is 0); 0 where it holds."""
        import numpy as np

        slack, scale = self.slack(lookup), self.scale(lookup)
        return np.where(self.holds(slack), 0.0, np.abs(slack) / np.where(scale > 0, scale, 1.0))

    def scale(self, lookup: Lookup) -> Any:
        """Return the size of its right side; 0: there is no share of it, `miss` is a distance."""
        return abs(value_of(self.right, lookup))


class Metrics:
    """The names that may be used: metrics (those ending in a dot: any name that begins so) and systems."""

    def __init__(self, metrics: Iterable[str], systems: Iterable[str]) -> None:
        self.metrics = sorted(metrics)
        self.systems = sorted(systems, key=len, reverse=True)

    def name(self, text: str, where: str) -> Name:
        """Return the metric that a name stands for.

        Raises:
            UserError: there is none; the text names the nearest.
        """
        for system in self.systems:
            if text.startswith(f"{system}."):
                return Name(self._metric(text[len(system) + 1 :], where), system)
        return Name(self._metric(text, where))

    def _metric(self, text: str, where: str) -> str:
        if text in self.metrics or any(m.endswith(".") and text.startswith(m) for m in self.metrics):
            return text
        begins = [metric for metric in self.metrics if metric.startswith(f"{text}_")]
        if len(begins) == 1:
            return begins[0]
        if begins:
            raise UserError(f"{where}: {text!r} may be any of: {', '.join(begins)}")
        close = get_close_matches(text, self.metrics, 3)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise UserError(f"{where}: unknown metric {text!r}; {hint}known: {', '.join(self.metrics)}")


def parse_objective(text: str, metrics: Metrics) -> Objective:
    """Read an objective.

    Raises:
        UserError: it is none, or names what is unknown.
    """
    words = text.split()
    where = f"objective {text!r}"
    if len(words) != 2 or words[0] not in ("min", "max"):
        raise UserError(f'{where}: write "min METRIC" or "max METRIC", for example "min ttft_p99"')
    direction: Literal["min", "max"] = "min" if words[0] == "min" else "max"
    name = metrics.name(words[1], where)
    if name.system is not None:
        raise UserError(f"{where}: an objective is of whoever is judged; leave out {name.system + '.'!r}")
    return Objective(text, direction, name)


def parse_constraint(text: str, metrics: Metrics, what: str = "constraint") -> Constraint:
    """Read a constraint; errors as `parse_objective`'s."""
    where = f"{what} {text!r}"
    sides = re.split(r"(<=|>=|<|>)", text)
    if len(sides) != 3:
        raise UserError(f'{where}: write TERM <= TERM (or >=, <, >), for example "ttft_p99 <= 1.0"')
    left, sign, right = sides
    found = Constraint(
        text, _Parser(left, metrics, where).term(), sign, _Parser(right, metrics, where).term()
    )
    if not found.names():
        raise UserError(f"{where}: names no metric")
    return found


_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_][\w.-]*)|(?P<sign>[-+*/()]))"
)


_SECONDS = {
    "s": 1.0,
    "sec": 1.0,
    "seconds": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "ns": 1e-9,
    "min": 60.0,
    "h": 3600.0,
}


def _constant(term: Term) -> float | None:
    """Return the value of a term without metrics; None of others."""
    return None if any(True for _ in names_in(term)) else float(value_of(term, lambda name: math.nan))


class _Parser:
    """Reads one side of a constraint by recursive descent."""

    def __init__(self, text: str, metrics: Metrics, where: str) -> None:
        self.metrics, self.where = metrics, where
        self.read = self._tokens(text.rstrip())
        self.tokens = list(self.read)

    def _tokens(self, text: str) -> list[tuple[str, str]]:
        found, at = [], 0
        while at < len(text):
            token = _TOKEN.match(text, at)
            if token is None:
                raise UserError(
                    f"{self.where}: {text[at:].strip()!r} is neither a number nor a name nor + - * / ( )"
                )
            found.append((str(token.lastgroup), token[str(token.lastgroup)]))
            at = token.end()
        return found

    def term(self) -> Term:
        """Read everything."""
        found = self._chain(("+", "-"), lambda: self._chain(("*", "/"), self._factor))
        if self.tokens:
            self._refuse_unit()
            raise UserError(f"{self.where}: {self.tokens[0][1]!r} is one too many")
        return found

    def _chain(self, signs: Sequence[str], part: Callable[[], Term]) -> Term:
        found = part()
        while self.tokens and self.tokens[0][1] in signs:
            sign = self.tokens.pop(0)[1]
            right = part()
            if sign == "/" and _constant(right) == 0:
                raise UserError(f"{self.where}: a division by 0")
            found = Apply(sign, found, right)
            if (number := _constant(found)) is not None and not math.isfinite(number):
                raise UserError(f"{self.where}: too large a number")
        return found

    def _refuse_unit(self) -> None:
        """Say what a number with a unit of time is in seconds, if that is what is left."""
        last, unit = self.read[-len(self.tokens) - 1][1], self.tokens[0][1]
        if unit in _SECONDS and re.fullmatch(r"[\d.].*", last):
            seconds = f"{float(last) * _SECONDS[unit]:.12g}"
            raise UserError(
                f"{self.where}: times are in seconds, without a unit: {seconds} instead of {last}{unit}"
            )

    def _factor(self) -> Term:
        if not self.tokens:
            raise UserError(f"{self.where}: a number or a name is missing")
        kind, text = self.tokens.pop(0)
        if kind == "number":
            if not math.isfinite(float(text)):
                raise UserError(f"{self.where}: {text} is too large a number")
            return float(text)
        if kind == "name":
            return self.metrics.name(text, self.where)
        if text == "-":
            return Apply("*", -1.0, self._factor())
        if text != "(":
            raise UserError(f"{self.where}: {text!r} where a number or a name is needed")
        found = self._chain(("+", "-"), lambda: self._chain(("*", "/"), self._factor))
        if not self.tokens or self.tokens.pop(0)[1] != ")":
            raise UserError(f"{self.where}: a ) is missing")
        return found
