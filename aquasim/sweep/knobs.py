"""What is turned to find a limit: the rate of requests, memory of peers, bandwidth of a link, length of slices."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aquasim.core import POLICIES
from aquasim.errors import UserError
from aquasim.scenario import schema
from aquasim.scenario.changes import Change, join, split
from aquasim.scenario.schema import Scenario, WorkloadTable
from aquasim.scenario.server import LlmTable
from aquasim.sweep.axes import refuse_foreign
from aquasim.sweep.base import Base
from aquasim.sweep.boundary import Scale
from aquasim.sweep.check import BadKeyError, check_keys


@dataclass(frozen=True)
class Knob:
    """A quantity: its key, its unit, what a value changes, and the value now (None: unknown)."""

    key: str
    unit: str
    now: float | None
    changes: Callable[[float], tuple[Change, ...]]
    scale: Scale = field(default_factory=Scale)
    about: str = ""
    """What the value means, where the key does not say it."""
    without: str = ""
    """What 0 does without, where it is not a value like others."""

    def text(self, value: float) -> str:
        """Return a value with its unit."""
        shown = f"{value:,.0f}" if value >= 1e4 or value == int(value) else f"{value:.4g}"
        left = f" (without {self.without})" if self.without and value == 0 else ""
        return f"{shown}{self.unit_of(value)}{left}"

    def unit_of(self, value: float) -> str:
        """Return the unit behind a value: one iteration, two iterations."""
        return self.unit.removesuffix("s") if value == 1 and self.unit == " iterations" else self.unit


def key_knob(base: Base, key: str, now: float | None = None, unit: str = "", integer: bool = False) -> Knob:
    """Return the knob of a numeric key.

    Raises:
        UserError: there is no such key, or it holds no number.
    """
    refuse_foreign([key], base.systems, lambda key: f"--key {key}", "scenario")
    now = _number(base, key) if now is None else now
    probe: float = 1 if now is None else now
    try:
        check_keys(base, [[((key, int(probe) if integer else probe),)]], base.systems)
    except BadKeyError as error:
        raise UserError(f"--key {key}: {error.reason}") from None
    whole = integer or _is_whole(base, key)

    def changes(value: float) -> tuple[Change, ...]:
        return ((key, round(value) if whole else value),)

    return Knob(key, unit, now, changes, Scale(integer=whole))


def _number(base: Base, key: str) -> float | None:
    value: Any = base.scenario.model_dump()
    for part in split(key):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) or None
    if value is not None:
        raise UserError(f"--key {key}: is {str(value)[:60]}, not a number")
    return None


def _is_whole(base: Base, key: str) -> bool:
    """Say whether a key refuses fractions."""
    try:
        check_keys(base, [[((key, 1.5),)]], base.systems)
    except BadKeyError:
        return True
    return False


def rate_knob(base: Base) -> Knob:
    """Return what says how fast requests come: a rate, a factor on all phases or on a trace's times.

    Raises:
        UserError: the arrivals have no rate; the text says what to name instead.
    """
    where, table = _workload(base)
    arrivals = table.arrivals
    if isinstance(arrivals, schema.PoissonTable | schema.GammaTable):
        return key_knob(base, f"{where}.arrivals.rate", arrivals.rate, "/s")
    if isinstance(arrivals, schema.FixedGapTable):
        key = f"{where}.arrivals.gap_s"
        return Knob(key, "/s", 1 / arrivals.gap_s, lambda rate: ((key, 1 / rate),), about="1 / gap_s")
    if isinstance(arrivals, schema.PiecewiseTable):
        return _phases_knob(f"{where}.arrivals.phases", arrivals.phases)
    if isinstance(arrivals, schema.ClosedLoopTable):
        return key_knob(base, f"{where}.arrivals.cap", arrivals.cap, " open", integer=True)
    if arrivals is None:
        return key_knob(base, f"{where}.rate_scale", table.rate_scale, "x")
    raise UserError(f"{where}.arrivals: everything arrives at once, there is no rate; name another --key")


def _phases_knob(key: str, phases: tuple[tuple[float, float], ...]) -> Knob:
    peak = max(rate for rate, _ in phases)

    def changes(factor: float) -> tuple[Change, ...]:
        return ((key, [[rate * factor, seconds] for rate, seconds in phases]),)

    return Knob(key, "x", 1.0, changes, about=f"1x: as in the scenario, {peak:g}/s at the peak")


def _workload(base: Base) -> tuple[str, WorkloadTable]:
    """Return the one workload, and where it is."""
    scenario = base.scenario
    if isinstance(scenario, Scenario):
        return "workload", scenario.workload
    serving = {name: t for name, t in scenario.tenants.items() if isinstance(t, LlmTable)}
    chosen = [name for name in serving if not scenario.show or name in scenario.show]
    if len(chosen) != 1:
        keys = ", ".join(join(("tenants", name, "workload", "...")) for name in serving)
        raise UserError(f"several tenants have requests; say whose rate with --key: {keys}")
    return join(("tenants", chosen[0], "workload")), serving[chosen[0]].workload


# --- sizes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """A knob with the values tried first; or why the system has none."""

    name: str
    knob: Knob | None
    values: tuple[float, ...] = ()
    why_not: str = ""


def size_knobs(base: Base, system: str) -> list[Size]:
    """Return the knobs of a system's peer memory, its link, and its slices.

    Raises:
        UserError: the scenario has several tenants.
    """
    if not isinstance(base.scenario, Scenario):
        raise UserError("size is for scenarios of one engine; with tenants, use sweep over their keys")
    return [_peer(base.scenario, system), _link(base.scenario, system), _slice(base.scenario, system)]


def _peer(scenario: Scenario, system: str) -> Size:
    from aquasim.sim.simulate import find_server

    tiers = scenario.systems[system].tiers
    if "peer" not in tiers or not scenario.machine.donors:
        return Size("peer memory", None, why_not="keeps no pages in a peer's memory")
    _, profile = find_server(scenario.machine.server, scenario.machine.profile)
    without = [tier for tier in tiers if tier != "peer"]

    def changes(gib: float) -> tuple[Change, ...]:
        found: tuple[Change, ...] = (("machine.peer_gib", gib),)
        return found if gib else (*found, (join(("systems", system, "tiers")), without))

    most = float(profile.memory_bytes // 2**30)
    scale = Scale(geometric=False, precision=0.25)
    now = scenario.machine.peer_gib
    knob = Knob("machine.peer_gib", " GiB", now, changes, scale, "per donor", "tier peer")
    return Size("peer memory", knob, tuple(scale.spread(0.0, most, 9)))


def _link(scenario: Scenario, system: str) -> Size:
    """Return the link that pages cross: between GPUs if the first tier is a peer's, else to the host."""
    from aquasim.sim.simulate import find_server

    tiers = scenario.systems[system].tiers
    if not tiers:
        return Size("link bandwidth", None, why_not="moves no pages")
    topology, profile = find_server(scenario.machine.server, scenario.machine.profile)
    nvlink = tiers[0] == "peer" and topology.peer != "pcie"
    key, link = ("machine.link_gbs", "nvlink") if nvlink else ("machine.pcie_gbs", "pcie_d2h")
    given = scenario.machine.link_gbs if nvlink else scenario.machine.pcie_gbs
    now = given or profile.links[link].bandwidth / 1e9
    what = "NVLink" if nvlink else "PCIe"
    knob = Knob(key, " GB/s", now, lambda gbs: ((key, gbs),), about=f"{what}, each way")
    return Size("link bandwidth", knob, tuple(knob.scale.spread(now / 256, now * 2, 10)))


def _slice(scenario: Scenario, system: str) -> Size:
    table = scenario.systems[system]
    options = getattr(POLICIES[table.policy].__init__, "__kwdefaults__", None) or {}
    if "slice_length" not in options:
        return Size("slice length", None, why_not=f"policy {table.policy} has no slices")
    now = float(table.options.get("slice_length", options["slice_length"]))
    key = join(("systems", system, "options", "slice_length"))
    scale = Scale(integer=True, precision=0.0)
    knob = Knob(key, " iterations", now, lambda length: ((key, round(length)),), scale)
    return Size("slice length", knob, tuple(float(2**power) for power in range(11)))
