"""What came of one claim: figures with the range they take over what nobody published."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple, Protocol

from aquasim.reproduce.jobs import Job, Outcome


class Range(NamedTuple):
    """Least, median and greatest of some values."""

    low: float
    mid: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Range":
        """Return the range of at least one value."""
        found = sorted(values)
        assert found, "a range of nothing"
        return cls(found[0], median(found), found[-1])

    def text(self, unit: str = "") -> str:
        """Write it with three significant digits: one figure if all are the same."""
        low, mid, high = (f"{value:.3g}{unit}" for value in self)
        return mid if low == high else f"{mid} ({low} to {high})"


@dataclass(frozen=True)
class Row:
    """A figure under one system. `unit` stands behind it ("x": times the baseline)."""

    label: str
    value: Range
    unit: str = "x"


@dataclass(frozen=True)
class Finding:
    """A claim, what the paper says of it, what was simulated, over which range, and why they differ if they do.

    `paper` is the published number in the rows' unit, None where the claim is an order or was not published.
    """

    key: str
    title: str
    says: str
    paper: float | None
    rows: tuple[Row, ...]
    over: str
    why: str
    scenarios: tuple[str, ...]
    notes: tuple[str, ...] = ()
    figures: dict[str, Callable[[], Any]] = field(default_factory=dict, compare=False)
    """Charts by file name, made when they are wanted."""

    def as_json(self) -> dict[str, Any]:
        """Return everything but the figures."""
        return {
            "key": self.key,
            "title": self.title,
            "paper": self.says,
            "paper_value": self.paper,
            "simulated": [{"system": r.label, **r.value._asdict(), "unit": r.unit} for r in self.rows],
            "range": self.over,
            "why": self.why,
            "notes": list(self.notes),
            "scenarios": list(self.scenarios),
        }


class Claim(Protocol):
    """One claim of a paper: which simulations it needs and what follows from them."""

    @property
    def key(self) -> str:
        """Its name on the command line."""

    def jobs(self) -> Sequence[Job]:
        """Return what must be simulated."""

    def find(self, outcomes: "dict[Job, Outcome]") -> Sequence[Finding]:
        """Draw the figures from the outcomes."""
