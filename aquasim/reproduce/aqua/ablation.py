"""The grid: admission control or slices, where pages go, how they are copied, slice length, serial or"
" overlapped."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from aquasim.reproduce.finding import Finding, Range, Row
from aquasim.reproduce.jobs import Job, Outcome

SCENARIO = "burst-h100"
TIERS = {
    "host, scattered": (["host"], "scattered"),
    "host, columns": (["host"], "column"),
    "peer, scattered": (["peer", "host"], "scattered"),
    "peer, columns": (["peer", "host"], "column"),
}
SLICES = (1, 2, 6, 16, 32)
SYSTEM = "cfs-host"
"""Every cell is this system of the scenario with other values."""


def cell(policy: str, tiers: str, slice_length: int, overlap: bool) -> Job:
    """Return the job of one cell; slices are 0 long where there are none."""
    names, copies = TIERS[tiers]
    options: dict[str, Any] = {"overlap": overlap}
    if slice_length:
        options["slice_length"] = slice_length
    system = {"policy": policy, "tiers": names, "copies": copies, "options": options}
    return Job(SCENARIO, SYSTEM, ((f"systems.{SYSTEM}", json.dumps(system)),))


class Ablation:
    """TTFT and completion time over the whole grid."""

    key = "ablation"

    def __init__(self) -> None:
        self.cells = [("fcfs-swap", tiers, 0, overlap) for tiers in TIERS for overlap in (False, True)] + [
            ("cfs", tiers, length, overlap)
            for tiers in TIERS
            for length in SLICES
            for overlap in (False, True)
        ]

    def jobs(self) -> Sequence[Job]:
        """One per cell."""
        return [cell(*each) for each in self.cells]

    def find(self, outcomes: dict[Job, Outcome]) -> Sequence[Finding]:
        """What each choice is worth, the others being equal."""
        figures = {each: outcomes[cell(*each)].summary for each in self.cells}
        rows = [
            Row("TTFT p99, admission control over slices", self._worth(figures, "ttft_p99", _with_fcfs)),
            Row(
                "RCT p99, scattered over columns, host",
                self._worth(figures, "rct_p99", _tiers("host, scattered", "host, columns")),
            ),
            Row(
                "RCT p99, scattered over columns, peer",
                self._worth(figures, "rct_p99", _tiers("peer, scattered", "peer, columns")),
            ),
            Row(
                "RCT p99, host over peer, scattered",
                self._worth(figures, "rct_p99", _tiers("host, scattered", "peer, scattered")),
            ),
            Row(
                "RCT p99, host over peer, columns",
                self._worth(figures, "rct_p99", _tiers("host, columns", "peer, columns")),
            ),
            Row("RCT p99, serial over overlapped", self._worth(figures, "rct_p99", _serial)),
            Row("RCT p99, slices of 1 over 32", self._worth(figures, "rct_p99", _short)),
            Row("TTFT p99, slices of 32 over 1", self._worth(figures, "ttft_p99", _long)),
        ]
        return [
            Finding(
                self.key,
                "What each choice is worth in burst-h100, the others being equal",
                "not published",
                None,
                tuple(rows),
                "all other choices of the grid",
                "Gathering is worth more than the link, and the link is worth something only after it.",
                (SCENARIO,),
                figures={"ablation": partial(self._figure, figures)},
            )
        ]

    def _worth(self, figures: dict[Any, dict[str, Any]], figure: str, other: Any) -> Range:
        """Return the ratio of a cell's figure to that of its counterpart, over the cells that have one."""
        pairs = [(each, other(each)) for each in self.cells]
        return Range.of(figures[a][figure] / figures[b][figure] for a, b in pairs if b in figures)

    def _figure(self, figures: dict[Any, dict[str, Any]]) -> Any:
        from aquasim.reproduce.figures import ablation_chart

        return ablation_chart(
            [
                {
                    "slice": "fcfs" if not length else str(length),
                    "pages": f"{tiers}{', overlapped' if overlap else ''}",
                    "TTFT p99 (s)": summary["ttft_p99"],
                    "RCT p99 (s)": summary["rct_p99"],
                }
                for (_, tiers, length, overlap), summary in figures.items()
            ]
        )


Cell = tuple[str, str, int, bool]


def _with_fcfs(each: Cell) -> Cell | None:
    return ("cfs", each[1], 6, each[3]) if each[0] == "fcfs-swap" else None


def _tiers(one: str, other: str) -> Any:
    return lambda each: (each[0], other, each[2], each[3]) if each[1] == one and each[0] == "cfs" else None


def _serial(each: Cell) -> Cell | None:
    return (*each[:3], True) if not each[3] and each[0] == "cfs" else None


def _short(each: Cell) -> Cell | None:
    return ("cfs", each[1], 32, each[3]) if each[2] == 1 else None


def _long(each: Cell) -> Cell | None:
    return ("cfs", each[1], 1, each[3]) if each[2] == 32 else None
