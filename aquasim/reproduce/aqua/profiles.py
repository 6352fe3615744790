"""The profiler's curves: throughput and memory by batch, of producers and of LLMs."""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

from aquasim.hardware.profile import load_profile
from aquasim.models import load_model
from aquasim.producers import load_producer
from aquasim.reproduce.finding import Finding, Range, Row
from aquasim.reproduce.jobs import Job, Outcome
from aquasim.reproduce.study import load_study
from aquasim.sim.topology import TOPOLOGIES
from aquasim.surplus import Point, Serve, judge, sweep
from aquasim.surplus.produce import producer_room, producer_sweep

SCENARIO = "aqua/s10-profiles"
GIB = 2**30


class Curve(NamedTuple):
    """A model's sweep on a server, and the bytes it has beside weights."""

    server: str
    model: str
    kind: str
    points: list[Point]
    room: int


class Profiles:
    """Who has memory to spare where throughput is flat."""

    key = "profiles"

    def jobs(self) -> Sequence[Job]:
        """None: the sweeps are simulations of their own."""
        return ()

    @cached_property
    def _curves(self) -> list[Curve]:
        study = load_study(SCENARIO).profiles
        found = []
        for server in study.servers:
            profile = load_profile(TOPOLOGIES[server].gpu)
            for name in study.producers:
                producer = load_producer(name)
                points = producer_sweep(producer, profile)
                found.append(Curve(server, name, "producer", points, producer_room(producer, profile)))
            for name in study.llms:
                serve = Serve(profile, load_model(name), 1, study.prompt, study.output)
                found.append(Curve(server, name, "LLM", sweep(serve), serve.room))
        return found

    def find(self, outcomes: dict[Job, Outcome]) -> Sequence[Finding]:
        """GiB free at the least batch that saturates throughput, and at the greatest that fits."""
        rows: dict[str, list[float]] = {}
        for curve in self._curves:
            spare = judge(curve.points, curve.room).surplus_bytes / GIB
            rows.setdefault(f"{curve.model} ({curve.kind})", []).append(spare)
        return [
            Finding(
                self.key,
                "GiB free where throughput saturates (95 % of the best of the sweep)",
                "producers tens of GB (their profile: SD 30, SDXL 20, Kandinsky 40, AudioGen 35, MusicGen 15)",
                None,
                tuple(Row(label, Range.of(values), " GiB") for label, values in rows.items()),
                "A100 and H100",
                "Memory comes from the models' shapes, not from the authors' figures, which are for the"
                " greatest batch: SD"
                " saturates at 1 and SDXL at 4. Audio is bound by launches here, so its throughput rises"
                " to the last batch.",
                (f"{SCENARIO}.study",),
                figures={"profiles": partial(self._figure)},
            )
        ]

    def _figure(self) -> Any:
        from aquasim.reproduce.figures import profiles_chart

        rows = []
        for curve in self._curves:
            best = max(point.tokens_per_s for point in curve.points)
            for point in curve.points:
                rows.append(
                    {
                        "server": curve.server,
                        "model": curve.model,
                        "kind": curve.kind,
                        "batch": point.batch,
                        "throughput": point.tokens_per_s / best,
                        "free GiB": max(0.0, (curve.room - point.kv_bytes) / GIB),
                    }
                )
        return profiles_chart(rows)
