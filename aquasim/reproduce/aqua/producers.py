"""What lending costs producers, and a server full of tenants."""

from collections.abc import Sequence
from typing import Any

from aquasim.reproduce.finding import Finding, Range, Row
from aquasim.reproduce.jobs import Job, Outcome, shared

PRODUCERS = tuple(f"aqua/s7-producers{more}-{gpu}" for gpu in ("a100", "h100") for more in ("", "-more"))
SERVER = "aqua/s11-server"
LENDING = ("faithful", "intended")


def slowdown(alone: dict[str, Any], lending: dict[str, Any]) -> float:
    """Return what is lost, in percent: of items per second, or in mean completion time."""
    if alone["kind"] == "llm":
        return 100 * float(lending["rct_mean"] / alone["rct_mean"] - 1)
    return 100 * float(1 - lending["items_per_s"] / alone["items_per_s"])


class Producers:
    """Each producer with and without a consumer that reads its memory without pause."""

    key = "producers"

    def jobs(self) -> Sequence[Job]:
        """Alone and lending."""
        return [Job(name, system) for name in PRODUCERS for system in ("alone", *LENDING)]

    def find(self, outcomes: dict[Job, Outcome]) -> Sequence[Finding]:
        """The loss of each producer, over both GPUs."""
        rows: dict[str, list[float]] = {}
        for name in PRODUCERS:
            for tenant in shared(name).show:
                alone = outcomes[Job(name, "alone")].tenant(tenant)
                for system in LENDING:
                    label = f"{tenant}, {system}"
                    lost = slowdown(alone, outcomes[Job(name, system)].tenant(tenant))
                    rows.setdefault(label, []).append(lost)
        return [
            Finding(
                self.key,
                "What a producer loses while a long prompt reads its memory (throughput; completion time"
                " of LLMs)",
                "barely slowed (the figure is not published)",
                None,
                tuple(Row(label, Range.of(values), " %") for label, values in sorted(rows.items())),
                "A100 and H100",
                "Only the share of HBM bandwidth that peer reads take slows them, 110 to 180 GB/s of 2 to"
                " 3 TB/s: most those"
                " that are bound by it, LLMs that decode. The informer's resizes are not part of it,"
                " nobody reclaims here.",
                PRODUCERS,
            )
        ]


class Shared:
    """Eight tenants at once, against each alone with its donor."""

    key = "server"

    def jobs(self) -> Sequence[Job]:
        """All systems of the server."""
        return [Job(SERVER, system) for system in shared(SERVER).systems]

    def find(self, outcomes: dict[Job, Outcome]) -> Sequence[Finding]:
        """Each consumer's gain over its baseline."""
        host = outcomes[Job(SERVER, "host")]
        rows = []
        for system in (*LENDING, "ours"):
            run = outcomes[Job(SERVER, system)]
            for tenant, figure in (("opt", "items_per_s"), ("opt-b", "items_per_s")):
                gain = run.tenant(tenant)[figure] / host.tenant(tenant)[figure]
                rows.append(Row(f"{tenant}, tokens/s, {system}", Range.of([gain])))
            for tenant, figure in (
                ("mistral-lora", "rct_mean"),
                ("codellama", "ttft_p99"),
                ("codellama", "rct_mean"),
            ):
                gain = host.tenant(tenant)[figure] / run.tenant(tenant)[figure]
                rows.append(Row(f"{tenant}, {figure} lower, {system}", Range.of([gain])))
        return [
            Finding(
                self.key,
                "Eight models on one server of 8 A100s: each consumer against its own baseline",
                "eight models of three modalities share a server (v1)",
                None,
                tuple(rows),
                "one mix",
                "On an NVSwitch the pairs do not meet, so each gains what it gains alone. The long"
                " prompts wait for their"
                " donors' first batch (20 to 40 s of 240), which the shorter run makes count.",
                (SERVER, "aqua/s11-server.place"),
                notes=(self._ports(outcomes),),
            )
        ]

    def _ports(self, outcomes: dict[Job, Outcome]) -> str:
        """Say how much of the busiest peer link was used."""
        links = outcomes[Job(SERVER, "intended")].summary["links"]
        peers = {name: link["share"] for name, link in links.items() if "nvlink" in name}
        name = max(peers, key=lambda each: peers[each])
        return f"busiest peer link: {name}, {peers[name]:.0%} of its bandwidth over the run"
