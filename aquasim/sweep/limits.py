"""Capacity and sizes: the highest rate, or the least memory, bandwidth or slice, under an SLO."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from aquasim.errors import UserError
from aquasim.scenario.changes import Change
from aquasim.scenario.schema import Scenario
from aquasim.sweep.base import Base
from aquasim.sweep.boundary import Boundary, highest, lowest
from aquasim.sweep.check import metric_names
from aquasim.sweep.evaluate import Evaluator
from aquasim.sweep.knobs import Knob, Size
from aquasim.sweep.slo import Verdict, judge
from aquasim.sweep.terms import Constraint, Metrics, parse_constraint

COARSE = tuple(2.0**power for power in range(-3, 4))
"""Factors on the scenario's own value that are tried first."""
FURTHEST = 2.0**12
"""Factor beyond which nothing is tried."""
LONGER = 4
"""Times the requests, or the time, of the runs that show whether a rate lasts."""


@dataclass(frozen=True)
class Limit:
    """What was found for one system and one knob, with the verdict at every value tried."""

    system: str
    knob: Knob
    boundary: Boundary
    verdicts: dict[float, Verdict]
    longer: Verdict | None = None
    """The verdict of runs `LONGER` times as long at the limit, where a steady rate was asked for."""

    @property
    def at(self) -> Verdict | None:
        """The verdict at the limit."""
        return None if self.boundary.value is None else self.verdicts[self.boundary.value]

    @property
    def beyond(self) -> Verdict | None:
        """The verdict at the nearest value tried beyond it."""
        return None if self.boundary.beyond is None else self.verdicts[self.boundary.beyond]


@dataclass
class Judge:
    """Simulates values of a knob with every seed and judges them; remembers what it judged."""

    base: Base
    system: str
    knob: Knob
    bounds: Sequence[Constraint]
    seeds: Sequence[int]
    confidence: float
    evaluator: Evaluator
    verdicts: dict[float, Verdict] = field(default_factory=dict)

    def __call__(self, values: Sequence[float]) -> list[bool]:
        """Say which values meet the SLO.

        Raises:
            UserError: none of them can be simulated; the first one's reason.
        """
        new = [value for value in values if value not in self.verdicts]
        self.verdicts |= zip(new, self.judged([self.knob.changes(value) for value in new]), strict=True)
        found = [self.verdicts[value] for value in values]
        if found and all(verdict.failed for verdict in found) and len(self.verdicts) == len(found):
            raise UserError(f"{self.system} at {self.knob.key}={values[0]:g}: {found[0].failed}")
        return [verdict.meets for verdict in found]

    def judged(self, changes: Sequence[tuple[Change, ...]]) -> list[Verdict]:
        """Simulate each set of changes with every seed and judge it."""
        points = [[self.base.point(each, self.system, seed) for seed in self.seeds] for each in changes]
        self.evaluator.ensure(point for each in points for point in each)
        names = dict.fromkeys(name.metric for bound in self.bounds for name in bound.names())
        rows = self.evaluator.shelf.frame(list(names))
        keys = [[point.key for point in each] for each in points]
        return [judge(rows.loc[each], self.bounds, self.confidence) for each in keys]

    def limit(self, boundary: Boundary) -> Limit:
        """Return what was found."""
        return Limit(self.system, self.knob, boundary, self.verdicts)


def parse_slo(base: Base, texts: Sequence[str]) -> tuple[Constraint, ...]:
    """Read an SLO's bounds.

    Raises:
        UserError: there is none, or one is faulty or compares systems.
    """
    if not texts:
        raise UserError('give an SLO, for example --slo "ttft_p99 <= 1.0"')
    metrics = Metrics(metric_names(base.scenario), base.systems)
    found = tuple(parse_constraint(text, metrics, "--slo") for text in texts)
    for bound in found:
        for name in bound.names():
            if name.system is not None:
                raise UserError(
                    f"--slo {bound.text!r}: bounds the system at hand; leave out {name.system + '.'!r}"
                )
    return found


def capacity(judge: Judge, low: float | None = None, high: float | None = None) -> Limit:
    """Find the highest value of a knob up to which every tried one meets the SLO.

    Args:
        judge: of one system and knob.
        low: the least value tried; an eighth of the scenario's if left out, and less if that fails.
        high: the greatest; eight times the scenario's if left out, and more if that meets.

    Raises:
        UserError: a bound is nothing that the knob can be turned to, or none of the first values can be simulated.
    """
    return judge.limit(highest(judge, _range(judge, low, high), judge.knob.scale))


def lasting(judge: Judge, limit: Limit) -> Limit:
    """Add how runs `LONGER` times as long do at the limit: a short run ends before its queue has grown.

    Only a steady rate (Poisson, gamma or fixed gaps) of synthetic requests says what more of them are.
    """
    key = judge.knob.key.removesuffix(".rate").removesuffix(".gap_s")
    workload = judge.base.scenario.workload if isinstance(judge.base.scenario, Scenario) else None
    if limit.boundary.value is None or workload is None or workload.path or key != "workload.arrivals":
        return limit
    more = [
        (f"workload.{name}", LONGER * value)
        for name in ("requests", "duration_s")
        if (value := getattr(workload, name))
    ]
    (longer,) = judge.judged([(*judge.knob.changes(limit.boundary.value), *more)])
    return replace(limit, longer=longer)


def _range(judge: Judge, low: float | None, high: float | None) -> list[float]:
    """Return values to start from, so wide that the first meets and the last does not, if that can be."""
    knob = judge.knob
    _check_bound(knob, "--low", low)
    _check_bound(knob, "--high", high)
    if low is not None and high is not None:
        if low >= high:
            raise UserError(f"--low {low:g} --high {high:g}: low must be below high")
        return knob.scale.spread(low, high, len(COARSE))
    if knob.now is None:
        raise UserError(f"{knob.key} has no value in the scenario; give --low and --high")
    values = [knob.now * factor for factor in COARSE]
    values = [v for v in values if (low is None or v > low) and (high is None or v < high)]
    values += [end for end in (low, high) if end is not None]
    if knob.scale.integer:
        values = [float(max(1, round(value))) for value in values]
    values = sorted(set(values))
    met = judge(values)
    while high is None and met[-1] and values[-1] < knob.now * FURTHEST:
        values.append(values[-1] * 2)
        met += judge(values[-1:])
    while low is None and not met[0] and values[0] > knob.now / FURTHEST and not knob.scale.integer:
        values.insert(0, values[0] / 2)
        met = judge(values[:1]) + met
    return values


def _check_bound(knob: Knob, option: str, value: float | None) -> None:
    """Refuse what the knob cannot be turned to; its own bounds are a matter of the values tried."""
    if value is None:
        return
    if knob.scale.integer and (value < 1 or not value.is_integer()):
        raise UserError(f"{option} {value:g}: {knob.key} takes whole numbers from 1 on")
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{option} {value:g}: {knob.key} takes finite numbers above 0")


def least(judge: Judge, size: Size) -> Limit:
    """Find the least value of a knob that meets the SLO.

    Raises:
        UserError: none of the first values can be simulated.
    """
    return judge.limit(lowest(judge, size.values, judge.knob.scale))
