"""Bandwidth by size of copy and by layout of pages: what coalescing is worth on each link."""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

from aquasim.hardware.links import LinkKind
from aquasim.hardware.profile import load_profile
from aquasim.models import load_model
from aquasim.reproduce.finding import Finding, Range, Row
from aquasim.reproduce.jobs import Job, Outcome
from aquasim.reproduce.study import LinksStudy, load_study
from aquasim.sim.carrier import Copies, PageLayout
from aquasim.sim.topology import TOPOLOGIES

SCENARIO = "aqua/s9-links"
BLOCK = 16
LAYOUTS: tuple[tuple[str, Copies, bool], ...] = (
    ("per layer", "scattered", False),
    ("columns, faithful", "column", True),
    ("columns, intended", "column", False),
    ("whole blocks", "block", False),
)


class Links:
    """Rates of page-ins and -outs, from the links' start-up times and bandwidths."""

    key = "links"

    @cached_property
    def study(self) -> LinksStudy:
        """The servers, sizes and models."""
        return load_study(SCENARIO).links

    def jobs(self) -> Sequence[Job]:
        """None."""
        return ()

    def find(self, outcomes: dict[Job, Outcome]) -> Sequence[Finding]:
        """Peer over host, by layout; and what gathering is worth on the peer link."""
        rows = []
        for name, copies, released in LAYOUTS:
            values = [
                self._rate(s, m, copies, released, True) / self._rate(s, m, copies, released, False)
                for s, m in self._cases
            ]
            rows.append(Row(f"peer over host, {name}", Range.of(values)))
        for name, copies, released in LAYOUTS[1:]:
            values = [
                self._rate(s, m, copies, released, True) / self._rate(s, m, "scattered", False, True)
                for s, m in self._cases
            ]
            rows.append(Row(f"{name} over per layer, peer", Range.of(values)))
        return [
            Finding(
                self.key,
                "Bandwidth of paging, out and in together, by layout",
                "uncoalesced, NVLink is no better than PCIe; gathered, several times as fast",
                None,
                tuple(rows),
                "four models on A100 and H100 servers",
                "The start of a copy, not the link, is what a 32 KiB copy takes; both links have much the"
                " same.",
                (f"{SCENARIO}.study",),
                figures={"links": partial(self._figure)},
            )
        ]

    @cached_property
    def _cases(self) -> list[tuple[str, tuple[str, int]]]:
        return [(server, (m.name, m.tp)) for server in self.study.servers for m in self.study.models]

    def _rate(self, server: str, model: tuple[str, int], copies: Copies, released: bool, peer: bool) -> float:
        """Bytes per second of moving a context's blocks out and back, one direction after the other."""
        links = load_profile(TOPOLOGIES[server].gpu).links
        layout = PageLayout.of(load_model(model[0]), model[1], BLOCK, copies, released)
        out = layout.rate(links["nvlink" if peer else "pcie_d2h"], "out")
        back = layout.rate(links["nvlink" if peer else "pcie_h2d"], "in")
        return 2 / (1 / out + 1 / back)

    def _figure(self) -> Any:
        from aquasim.reproduce.figures import links_chart

        rows = []
        for server in self.study.servers:
            links = load_profile(TOPOLOGIES[server].gpu).links
            for name, kind in (("peer", "nvlink"), ("host", "pcie_d2h")):
                link: LinkKind = links[kind]
                rows += [
                    {"server": server, "link": name, "KiB": kib, "GB/s": link.rate(kib * 1024) / 1e9}
                    for kib in self.study.sizes_kib
                ]
        return links_chart(rows)
