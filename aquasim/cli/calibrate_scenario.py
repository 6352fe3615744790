"""`calibrate --scenario`: measure this machine with a scenario's model in our own engine, and keep the profile."""

import json
import sys
from typing import Any

from aquasim.errors import UserError
from aquasim.scenario import ServerScenario, load_scenario


def scenario_command(name: str, changes: list[str], device: str | None, quick: bool, as_json: bool) -> None:
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
    ranges = ranges_of(Plan.of(scenario, unmeasured_profile(model), model))
    with CalibrationBar() as bar:
        path = calibrate_local(model, ranges, kind_of(options), quick=quick, show=bar.show)
    block = load_profile(path).blocks
    _report({"profile": str(path), "sha256": digest(block), "engine": block["runtime"]}, as_json)


def _report(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=2))
        return
    off = found["engine"]["step"]["residual"]
    print(
        f"iterations: {off['rows_fitted']} measured, {off['median']:.1%} off (median), 90 % within {off['p90']:.1%}",
        file=sys.stderr,
    )
    print(f"sha256 {found['sha256']}", file=sys.stderr)
    print(found["profile"])
