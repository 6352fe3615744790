"""`calibrate --scenario`: measure this machine with a scenario's model in our own engine, and keep the profile."""

import sys
from typing import Any

from aquasim.cli.output import Form, emit
from aquasim.errors import UserError
from aquasim.scenario import ServerScenario, load_scenario


def scenario_command(name: str, changes: list[str], device: str | None, quick: bool, form: Form) -> None:
    """Measure, store in the user's cache, and print where, the hash and how far off the fits are."""
    from aquasim.cli.validate_hardware import need_torch

    scenario = load_scenario(name, changes)
    if isinstance(scenario, ServerScenario):
        raise UserError(f"{name}: scenarios with tenants are simulated only")
    need_torch()
    from aquasim.calibrate.engine.local import calibrate_local
    from aquasim.calibrate.hardware.study import ranges_of
    from aquasim.cli.calibrate import CalibrationBar
    from aquasim.hardware.local import digest, unmeasured_profile
    from aquasim.hardware.profile import load_profile
    from aquasim.runtime.local import Options
    from aquasim.runtime.local.plan import kind_of, real_model
    from aquasim.sim.simulate import Plan

    options = Options(device=device or "auto")
    model = real_model(scenario, options)
    ranges = ranges_of(Plan.of(scenario, unmeasured_profile(), model))
    with CalibrationBar() as bar:
        path = calibrate_local(model, ranges, kind_of(options), quick=quick, show=bar.show)
    block = load_profile(path).blocks
    _report({"profile": str(path), "sha256": digest(block), "engine": block["runtime"]}, form)


def _report(found: dict[str, Any], form: Form) -> None:
    parts = {name: part["residual"] for name, part in found["engine"].items() if "residual" in part}
    emit(
        form,
        lambda: found,
        lambda: ({"fitted": name, **off} for name, off in parts.items()),
        lambda: _print(found),
    )


def _print(found: dict[str, Any]) -> None:
    off = found["engine"]["step"]["residual"]
    print(
        f"iterations: {off['rows_fitted']} measured, {off['median']:.1%} off (median), 90 % within {off['p90']:.1%}",
        file=sys.stderr,
    )
    print(f"sha256 {found['sha256']}", file=sys.stderr)
    print(found["profile"])
