"""What a policy that weighs costs expects an iteration's parts to take: frozen tables, plain numbers in, ns out."""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Curve:
    """A function by its values at some points: linear between them, asserted never to be asked beyond.

    It is 0 at 0, and up to the first point what it is there: less work takes no less time than the least measured.
    """

    __slots__ = ("_slopes", "points", "values")

    def __init__(self, points: list[int], values: list[float]) -> None:
        assert len(points) == len(values) > 0, "a curve needs a value per point"
        assert all(a < b for a, b in zip([0, *points], points, strict=False)), f"points must ascend: {points}"
        self.points = [0, *points]
        self.values = [0.0, *values]
        pairs = zip(self.points, self.points[1:], self.values, self.values[1:], strict=False)
        self._slopes = [0.0, *((w - v) / (b - a) for a, b, v, w in pairs)]

    def at(self, x: int) -> float:
        """Return the value at `x`; below the first point it is the first point's, 0 only at 0."""
        if x <= 0:
            return 0.0
        place = bisect_left(self.points, x)
        assert place < len(self.points), f"{x} is beyond the last point {self.points[-1]}"
        if place == 1:
            return self.values[1]
        return self.values[place] - self._slopes[place] * (self.points[place] - x)


class Surface:
    """Curves over tokens for some numbers of requests; bilinear between them (first in tokens, then in requests)."""

    __slots__ = ("_rows", "requests")

    def __init__(self, requests: list[int], rows: list[Curve]) -> None:
        assert len(requests) == len(rows) > 0, "a surface needs a row per number of requests"
        self.requests = requests
        self._rows = rows

    def at(self, requests: int, tokens: int) -> float:
        """Return the value at (requests, tokens); 0 where either is 0."""
        if requests <= 0 or tokens <= 0:
            return 0.0
        place = bisect_left(self.requests, requests)
        assert place < len(self.requests), f"{requests} requests, measured up to {self.requests[-1]}"
        high = self._rows[place].at(tokens)
        if place == 0 or self.requests[place] == requests:
            return high
        low = self._rows[place - 1].at(tokens)
        share = (requests - self.requests[place - 1]) / (self.requests[place] - self.requests[place - 1])
        return low + (high - low) * share

    def as_json(self) -> dict[str, Any]:
        """Return what `Predictor.from_json` reads."""
        return {
            "requests": self.requests,
            "rows": [[row.points[1:], row.values[1:]] for row in self._rows],
        }


class Copying(NamedTuple):
    """What pages take to and from a tier on an idle link, in ns per block."""

    out: float
    back: float


@dataclass(frozen=True, eq=False)
class Predictor:
    """Times per layer, in ns (NEO section 3.3: four tables and a constant).

    `linear` by tokens of a sub-batch: all products of a layer. `prefill` by tokens of one prompt: its attention.
    `gpu_decode` by KV tokens of all decodes on the GPU: their attention. `host_decode` by requests and KV tokens on
    the host: theirs. `launch_ns`: what a stage costs the host before it computes. `copies`: of whole blocks (all
    layers), by tier; for policies that weigh paging against the rest.
    """

    layers: int
    linear: Curve
    prefill: Curve
    gpu_decode: Curve
    host_decode: Surface
    launch_ns: float
    copies: dict[str, Copying] = field(default_factory=dict)

    def recompute(self, tokens: int) -> float:
        """Return the time of a prompt of so many tokens by itself, all layers, in chunks if it must be."""
        widest = self.linear.points[-1]
        chunks, rest = divmod(tokens, widest)
        linear = chunks * self.linear.at(widest) + self.linear.at(rest)
        return self.layers * (linear + self.prefill.at(tokens))

    def as_json(self) -> dict[str, Any]:
        """Return the tables as plain data."""
        curves = {
            name: [getattr(self, name).points[1:], getattr(self, name).values[1:]]
            for name in ("linear", "prefill", "gpu_decode")
        }
        return {
            "layers": self.layers,
            **curves,
            "host_decode": self.host_decode.as_json(),
            "launch_ns": self.launch_ns,
            "copies": {tier: list(copying) for tier, copying in self.copies.items()},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Predictor":
        """Read what `as_json` gave."""
        host = data["host_decode"]
        surface = Surface(host["requests"], [Curve(*row) for row in host["rows"]])
        curves = {name: Curve(*data[name]) for name in ("linear", "prefill", "gpu_decode")}
        copies = {tier: Copying(*copying) for tier, copying in data.get("copies", {}).items()}
        return cls(data["layers"], **curves, host_decode=surface, launch_ns=data["launch_ns"], copies=copies)
