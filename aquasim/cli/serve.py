"""`aquasim serve`: a scenario's system as an OpenAI-compatible server."""

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aquasim.cli.options import (
    DeviceOption,
    OneSystemOption,
    PeersOption,
    ScenarioArg,
    SetOption,
    WeightsOption,
)
from aquasim.errors import UserError

if TYPE_CHECKING:
    from aquasim.runtime.local.build import Parts
    from aquasim.sim.simulate import Plan


def serve(
    scenario: ScenarioArg,
    system: OneSystemOption = None,
    set_: SetOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    max_open: Annotated[
        int, typer.Option("--max-open", min=1, help="Requests at once; more get 429.")
    ] = 1000,
    peers: PeersOption = None,
) -> None:
    """Serve completions (OpenAI's API) from a real model under a scenario's policy; its workload is left out."""
    from aquasim.cli.hardware import peers_for
    from aquasim.cli.validate_hardware import need_torch
    from aquasim.scenario import ServerScenario, load_scenario

    loaded = load_scenario(scenario, set_ or [])
    if isinstance(loaded, ServerScenario):
        raise UserError(f"{scenario}: scenarios with tenants are simulated only")
    need_torch()
    _need_http()
    from aquasim.runtime.local import Options
    from aquasim.runtime.local.build import build
    from aquasim.runtime.local.plan import hardware_plan

    chosen = system or loaded.baseline or next(iter(loaded.systems))
    if chosen not in loaded.systems:
        raise UserError(f"unknown system {chosen!r}; the scenario has: {', '.join(loaded.systems)}")
    options = Options(device=device, weights=weights, peers=peers)
    plan = hardware_plan(loaded, options)
    with ExitStack() as stack:
        from dataclasses import replace

        socket = stack.enter_context(peers_for(plan, chosen, peers))
        parts = build(plan, chosen, replace(options, peers=socket), time.monotonic_ns)
        stack.callback(parts.close)
        _serve(plan, parts, weights, (host, port), max_open, f"{chosen} on {parts.device}")


def _need_http() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"serve needs {error.name}: pip install 'aquasim[runtime]'") from None


def _serve(
    plan: "Plan", parts: "Parts", weights: Path | None, address: tuple[str, int], most_open: int, about: str
) -> None:
    """Serve until SIGINT or SIGTERM; then end what is under way."""
    from aquasim.runtime.serve import Engine, load_tokenizer
    from aquasim.runtime.serve.app import Served, create_app
    from aquasim.runtime.serve.metrics import Metrics

    try:
        tokenizer = load_tokenizer(weights)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None
    pager = parts.executor.pager
    metrics = Metrics(pager.hbm.block_bytes if pager is not None else 0)
    metrics.watch(parts.executor.scheduler)
    engine = Engine(parts.executor, metrics)
    limits = parts.executor.scheduler.limits
    name = weights.stem if weights is not None else plan.llm.model.name
    served = Served(engine, tokenizer, name, limits.max_model_len, parts.config.vocab, most_open)
    engine.start()
    try:
        _listen(create_app(served), address, f"{name}, {about}")
    finally:
        engine.close()


def _listen(app: Any, address: tuple[str, int], about: str) -> None:
    """Run the server; say where it listens once it does.

    Raises:
        UserError: the address cannot be had.
    """
    import asyncio
    import signal
    import socket

    import uvicorn

    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UserError(f"--host {address[0]} --port {address[1]}: {error.strerror or error}") from None
    listener.listen(128)
    where, port = listener.getsockname()[:2]
    print(
        f"{about}: listening at http://{f'[{where}]' if ':' in where else where}:{port}",
        file=sys.stderr,
        flush=True,
    )
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    with listener:
        asyncio.run(server.serve(sockets=[listener]))
