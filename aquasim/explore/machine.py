"""Controls of the machine: memory by tier, bandwidths; and the length of slices."""

from collections.abc import Iterator
from dataclasses import replace

from aquasim.core import POLICIES
from aquasim.explore.controls import Control, factors
from aquasim.scenario.changes import Change, join
from aquasim.scenario.schema import Scenario


def controls(scenario: Scenario) -> Iterator[Control]:
    """Give those that a scenario has: no tier's that no system uses.

    Raises:
        UserError: the machine is unknown.
    """
    yield from _memory(scenario)
    yield from _links(scenario)
    yield from _slices(scenario)


def _memory(scenario: Scenario) -> Iterator[Control]:
    from aquasim.sim.simulate import find_server

    if scenario.engine.kv_blocks is not None:
        yield _blocks(scenario, scenario.engine.kv_blocks)
    _, profile = find_server(scenario.machine.server, scenario.machine.profile)
    most = profile.memory_bytes / 2**30
    for tier, label in (("peer", "Peer memory, per GPU"), ("host", "Host memory, per GPU")):
        if any(tier in table.tiers for table in scenario.systems.values()):
            yield _tier(scenario, tier, label, most if tier == "peer" else 2 * most)


def _blocks(scenario: Scenario, now: int) -> Control:
    """Return the control of the KV cache: not less than the longest request needs."""
    least = scenario.engine.max_model_len / scenario.engine.block_size
    made = factors("kv", "KV blocks on the GPU", "", now, "engine.kv_blocks", 1 / 8, 4, whole=True)
    return replace(made, stops=tuple(stop for stop in made.stops if stop >= min(least, now)))


def _tier(scenario: Scenario, tier: str, label: str, most: float) -> Control:
    """Return the control of a tier's size; none of it, and systems do without the tier."""
    key = f"machine.{tier}_gib"
    now = float(getattr(scenario.machine, f"{tier}_gib"))
    without = [
        (join(("systems", name, "tiers")), [other for other in table.tiers if other != tier])
        for name, table in scenario.systems.items()
        if tier in table.tiers
    ]
    steps = {float(f"{most * (step / 20) ** 2:.2g}") for step in range(21)}
    stops = tuple(sorted({step for step in steps if step <= most} | {now}))

    def changes(gib: float) -> tuple[Change, ...]:
        return ((key, gib),) if gib else ((key, gib), *without)

    return Control(tier, label, " GiB", stops, now, changes, (key,))


def _links(scenario: Scenario) -> Iterator[Control]:
    from aquasim.sim.simulate import find_server

    machine = scenario.machine
    topology, profile = find_server(machine.server, machine.profile)
    tiers = {tier for table in scenario.systems.values() for tier in table.tiers}
    nvlink = "peer" in tiers and topology.peer != "pcie"
    if nvlink:
        now = machine.link_gbs or _gbs(profile.links["nvlink"].bandwidth)
        yield factors("link", "NVLink, each way", " GB/s", now, "machine.link_gbs", 1 / 64, 2)
    if "host" in tiers or ("peer" in tiers and not nvlink):
        now = machine.pcie_gbs or _gbs(profile.links["pcie_d2h"].bandwidth)
        yield factors("pcie", "PCIe, each way", " GB/s", now, "machine.pcie_gbs", 1 / 16, 2)


def _gbs(bandwidth: float) -> float:
    return float(f"{bandwidth / 1e9:.4g}")


def _slices(scenario: Scenario) -> Iterator[Control]:
    lengths = {}
    for name, table in scenario.systems.items():
        options = getattr(POLICIES[table.policy].__init__, "__kwdefaults__", None) or {}
        if "slice_length" in options:
            lengths[name] = int(table.options.get("slice_length", options["slice_length"]))
    if not lengths:
        return
    keys = tuple(join(("systems", name, "options", "slice_length")) for name in lengths)
    now = float(next(iter(lengths.values()))) if len({*lengths.values()}) == 1 else None
    powers = {float(2**power) for power in range(9)} | {3.0, 6.0, 12.0, 24.0}
    stops = tuple(sorted(powers | ({now} if now is not None else set())))

    def changes(length: float) -> tuple[Change, ...]:
        return tuple((key, int(length)) for key in keys)

    yield Control("slice", "Length of a slice", " iterations", stops, now, changes, keys)
