"""`run --on hardware`: a scenario's system with a real model on this machine."""

import json
import sys
from pathlib import Path
from typing import Any

from aquasim.cli.simulate import check_target, save_run
from aquasim.errors import UserError
from aquasim.scenario import ServerScenario, load_scenario


def hardware_command(
    name: str,
    system: str | None,
    changes: list[str],
    out: Path | None,
    overwrite: bool,
    as_json: bool,
    weights: Path | None,
    device: str,
    accelerate: float,
    check: Any,
    peers: Path | None,
) -> None:
    """Run one system, print its summary, and write its records if asked."""
    scenario = load_scenario(name, changes)
    if isinstance(scenario, ServerScenario):
        raise UserError(f"{name}: scenarios with tenants are simulated only")
    chosen = system or scenario.baseline or next(iter(scenario.systems))
    if out is not None:
        check_target(out, overwrite, [out])
    try:
        import torch  # noqa: F401
    except ImportError:
        raise UserError("--on hardware needs torch: pip install 'aquasim[runtime]'") from None
    from aquasim.cli.progress import Bar
    from aquasim.runtime.local import Options, run_local
    from aquasim.sim.simulate import Plan

    options = Options(device=device, weights=weights, accelerate=accelerate, check=check, peers=peers)
    plan = Plan.of(scenario)
    with Bar([chosen]) as bar:
        run = run_local(plan, chosen, options, bar.progress(chosen))
    if out is not None:
        save_run(run, out, overwrite)
    summary = run.summary()
    print(f"{run.meta['device']}, {run.meta['dtype']}, weights {run.meta['weights']}", file=sys.stderr)
    if as_json:
        print(json.dumps({"scenario": Path(name).stem, "system": chosen, **summary}, indent=2))
    else:
        from aquasim.cli.tables import print_summary

        print_summary(scenario, chosen, summary)
