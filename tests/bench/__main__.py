"""`make bench`: what simulating costs, as a table. CPU seconds, best of three."""

import importlib.util
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from aquasim.core import Limits, Scheduler, make_policy
from aquasim.core.replay import Record
from aquasim.scenario import Scenario, load_scenario
from aquasim.sim.simulate import Plan, simulate_system, system_limits

LOAD = """
question = "What does simulating cost?"
[machine]
server = "8xA100"
gpus = [0]
donors = [1]
peer_gib = 40
host_gib = 40
[model]
name = "Llama-3.1-8B"
[engine]
max_num_seqs = 128
max_num_batched_tokens = 512
max_model_len = 16384
[workload]
requests = 10000
arrivals = { kind = "poisson", rate = 6.45 }
prompt = { kind = "fixed", tokens = 512 }
output = { kind = "fixed", tokens = 128 }
[systems.fcfs]
policy = "fcfs"
[systems.cfs]
policy = "cfs"
tiers = ["peer", "host"]
"""
CROWD = [  # about 256 decode at once, and more come than the pool holds
    "engine.max_num_seqs=512",
    "engine.max_num_batched_tokens=2048",
    "workload.requests=2500",
    'workload.arrivals={kind="poisson", rate=28}',
    'workload.prompt={kind="uniform", low=50, high=400}',
    'workload.output={kind="uniform", low=100, high=400}',
]
AZURE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "traces" / "azure2023_conv.csv.gz"


def cpu(work: Callable[[], object]) -> float:
    """Return the CPU seconds of a call in this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def child(arguments: list[str]) -> tuple[float, float]:
    """Return CPU seconds and peak MiB of a whole `aquasim` process."""
    pid = os.posix_spawn(
        sys.executable, [sys.executable, "-m", "aquasim", *arguments], os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )  # fmt: skip
    _, status, usage = os.wait4(pid, 0)
    assert status == 0, arguments
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def _plan(file: Path, changes: list[str]) -> Plan:
    scenario = load_scenario(str(file), changes)
    assert isinstance(scenario, Scenario)
    return Plan.of(scenario)


def requests_per_second(file: Path) -> Iterator[tuple[str, str, str]]:
    """Simulated requests per CPU second, records written, metrics excluded."""
    rate = "requests / CPU s"
    loads: list[tuple[str, list[str]]] = [("512 in, 128 out", [])]
    if AZURE.exists():
        loads.append(("Azure conversation lengths", _azure()))
    for title, changes in loads:
        for caching, target in (("false", "20,000"), ("true", "10,000")):
            plan = _plan(file, [*changes, f"engine.prefix_caching={caching}"])
            seconds = min(cpu(partial(simulate_system, plan, "fcfs")) for _ in range(3))
            name = f"{title}, prefix cache {'on' if caching == 'true' else 'off'}"
            yield f"{name}, {rate}", f"{len(plan.workload) / seconds:,.0f}", f">= {target}"


def _azure() -> list[str]:
    arrivals = 'workload.arrivals={kind="poisson", rate=6.45}'
    return [f'workload.path="{AZURE}"', arrivals, "workload.requests=10000"]


def processes(file: Path) -> Iterator[tuple[str, str, str]]:
    """Whole processes of `aquasim run`, start-up included."""
    for count, limit in ((1_000, "0.6"), (10_000, "1.0"), (100_000, "5")):
        arguments = ["run", str(file), "--set", f"workload.requests={count}", "--json"]
        best = min(child(arguments) for _ in range(3 if count < 100_000 else 1))
        yield f"aquasim run, {count:,} requests, CPU s", f"{best[0]:.2f}", f"< {limit}"
        if count == 100_000:
            yield "  peak memory, MiB", f"{best[1]:.0f}", "< 320"
    yield "aquasim --help, CPU s", f"{min(child(['--help']) for _ in range(3))[0]:.2f}", "< 0.3"
    yield "aquasim compare burst-h100, CPU s", f"{child(['compare', 'burst-h100'])[0]:.2f}", "< 10"


def decisions(file: Path) -> Iterator[tuple[str, str, str]]:
    """CPU of one decision (`plan` and the events before it) with 256 and more running, by replay."""
    for system, blocks, limit in (("fcfs", 6_000, 30), ("cfs", 6_000, 60)):
        changes = [*CROWD, f"engine.kv_blocks={blocks}", "machine.host_gib=400"]
        plan = _plan(file, changes)
        run = simulate_system(plan, system, record_events=True)
        assert run.log is not None
        crowded = sorted(run.columns("steps")["batch"])[run.count("steps") // 2]
        limits = system_limits(plan, plan.scenario.systems[system])
        best = min(cpu(partial(_replay, limits, system, run.log)) for _ in range(3))
        plans = sum(event is None for _, event in run.log)
        name = f"a decision, {system}, median {crowded} running, {plans:,} decisions, us"
        yield name, f"{best / plans * 1e6:.0f}", f"<= {limit}"


def _replay(limits: Limits, policy: str, log: list[Record]) -> None:
    scheduler = Scheduler(limits, make_policy(policy))
    for now, event in log:
        if event is None:
            scheduler.plan(now)
        else:
            scheduler.handle(now, event)


def host_attention(file: Path) -> Iterator[tuple[str, str, str]]:
    """Bytes of KV cache per CPU second over those of a plain read of the same memory, at equal tokens."""
    if importlib.util.find_spec("torch") is None:
        return
    sys.path.append(str(Path(__file__).resolve().parents[1] / "runtime" / "host"))
    import speed

    counts = (1, 8, 64, 256)
    for shape, dtype in (("7B", "float16"), ("8B", "float16"), ("8B", "float32"), ("70B", "float16")):
        bench = speed.Bench(shape, dtype, 16384, 1.0, os.cpu_count() or 1)
        calls = {"read": bench.read, **{str(n): bench.attention("native", n) for n in counts}}
        found = speed.rates(bench, calls, 15, time.process_time)
        mine = [found[str(n)] / found["read"] for n in counts]
        heads, kv_heads, _ = speed.SHAPES[shape]
        name = f"host attention, {heads // kv_heads} per KV head, {dtype}: of a plain read"
        yield name, f"{statistics.median(mine):.0%}", ">= 70%"
        yield f"  most over least, {counts[0]} to {counts[-1]} requests", f"{max(mine) / min(mine):.2f}x", ""


def main() -> None:
    """Print the table."""
    table = Table(title="aquasim bench", box=None, header_style="dim")
    for column in ("what", "measured", "target"):
        table.add_column(column, justify="left" if column == "what" else "right")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "load.toml"
        file.write_text(LOAD)
        for part in (requests_per_second, decisions, processes, host_attention):
            for row in part(file):
                table.add_row(*row)
    loop = min(cpu(lambda: sum(i for i in range(10_000_000))) for _ in range(3))
    console = Console()
    console.print(table)
    model = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()
    console.print(
        f"Python {platform.python_version()}, {model}, {os.cpu_count()} cores; for scale: summing 10 million"
        f" integers in a generator took {loop:.2f} CPU s. Peak of this process"
        f" {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB.",
        highlight=False,
    )


if __name__ == "__main__":
    main()
