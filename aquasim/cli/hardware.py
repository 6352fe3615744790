"""`run --on hardware`: a scenario's system with a real model on this machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquasim.cli.output import Form
from aquasim.cli.simulate import check_target, print_run, save_run
from aquasim.cli.validate_hardware import need_torch
from aquasim.errors import UserError
from aquasim.scenario import ServerScenario, load_scenario

if TYPE_CHECKING:
    from aquasim.sim.simulate import Plan

OWN = Path("own")
"""As --peers: start a coordinator and a donor for this run."""


def hardware_command(
    name: str,
    system: str | None,
    changes: list[str],
    out: Path | None,
    overwrite: bool,
    form: Form,
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
    need_torch()
    from aquasim.cli.progress import Bar
    from aquasim.runtime.local import Options, run_local
    from aquasim.runtime.local.plan import hardware_plan

    options = Options(device=device, weights=weights, accelerate=accelerate, check=check, peers=peers)
    plan = hardware_plan(scenario, options)
    with peers_for(plan, chosen, peers) as socket, Bar([chosen]) as bar:
        run = run_local(plan, chosen, replace(options, peers=socket), bar.progress(chosen))
    if out is not None:
        save_run(run, out, overwrite)
    summary = run.summary()
    for note in run.meta["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(f"{run.meta['device']}, {run.meta['dtype']}, weights {run.meta['weights']}", file=sys.stderr)
    print_run(scenario, Path(name).stem, chosen, summary, form)


@contextmanager
def peers_for(plan: "Plan", system: str, given: Path | None) -> Iterator[Path | None]:
    """Give the coordinator's socket: the user's, or with "own" that of one which runs as long as this."""
    table = plan.scenario.systems.get(system)
    if given != OWN or table is None or "peer" not in table.tiers:
        yield None if given == OWN else given
        return
    from aquasim.runtime.local.lend import lending

    with lending(plan.llm.blocks_of(plan.scenario.machine.peer_gib) * plan.llm.block_bytes) as socket:
        yield socket
