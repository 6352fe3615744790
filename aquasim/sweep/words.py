"""What capacity and sizes assure, in words."""

from aquasim.sweep.intervals import share_at_least
from aquasim.sweep.knobs import Knob
from aquasim.sweep.limits import LONGER, Limit
from aquasim.sweep.slo import Verdict


def assured(limit: Limit) -> str:
    """Say in words what holds where, what does not, and what does not fit."""
    boundary, knob = limit.boundary, limit.knob
    end = "lowest" if boundary.side == "highest" else "highest"
    other = "highest" if boundary.side == "highest" else "lowest"
    parts = []
    if limit.at is not None and boundary.value is not None:
        if knob.without and boundary.value == 0:
            parts.append(f"none is needed, {knob.without} can go")
        parts.append(_said(knob, boundary.value, limit.at))
        if limit.beyond is None:
            parts.append(f"that is the {other} value tried")
    if limit.beyond is not None and boundary.beyond is not None:
        if limit.at is None:
            parts.append(f"not met at the {end} value tried")
        parts.append(_said(knob, boundary.beyond, limit.beyond))
    if boundary.strays:
        parts.append(f"NOT MONOTONE: {_strays(limit)}")
    if limit.longer is not None and not limit.longer.meets:
        parts.append(f"NOT LASTING: {_longer(limit.longer)}")
    return "; ".join(parts)


def _longer(verdict: Verdict) -> str:
    """Say how longer runs did, and what to do."""
    if verdict.failed is not None:
        return f"runs {LONGER} times as long cannot run ({verdict.failed})"
    means = ", ".join(
        f"{name} {found.mean:.4g}" for name, found in verdict.means.items() if found.mean is not None
    )
    return (
        f"{_count(verdict)} in runs {LONGER} times as long, {means}: the queue still grows; take longer runs"
    )


def _said(knob: Knob, value: float, verdict: Verdict) -> str:
    """Say how one value did."""
    seeds = "the one seed meets it" if verdict.n == verdict.passed == 1 else _count(verdict)
    if verdict.failed is not None:
        return f"{knob.text(value)}: cannot run ({verdict.failed})"
    means = ", ".join(
        f"{name} {found.mean:.4g}" + ("" if found.low is None else f" [{found.low:.4g}, {found.high:.4g}]")
        for name, found in verdict.means.items()
        if found.mean is not None
    )
    return f"{knob.text(value)}: {seeds}, {means}"


def _count(verdict: Verdict) -> str:
    if verdict.n == 1:
        return "the one seed does not meet it"
    return f"{'all' if verdict.passed == verdict.n else verdict.passed} of {verdict.n} seeds meet it"


def _strays(limit: Limit) -> str:
    boundary = limit.boundary
    met = [v for v in boundary.strays if boundary.tried[v]]
    missed = [v for v in boundary.strays if not boundary.tried[v]]
    parts = []
    if met:
        parts.append(f"met again at {', '.join(map(limit.knob.text, met))}")
    if missed:
        parts.append(f"not met at {', '.join(map(limit.knob.text, missed))}")
    return " and ".join(parts)


def rule_of(seeds: int, confidence: float) -> str:
    """Say what meeting the SLO means here, and why."""
    if seeds == 1:
        return "one seed: nothing is assured about other runs (--seeds)"
    share = share_at_least(seeds, seeds, confidence)
    return (
        f"met: all {seeds} seeds meet it (the same ones at every value), so that at {confidence:.0%} confidence"
        f" at least {share:.0%} of all runs do: exact for any distribution, and percentiles are skewed. In brackets:"
        " Student's t interval of the mean over seeds"
    )
