"""Hardware profiles: what a GPU and its links can do, as JSON fitted by aquasim.calibrate."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from aquasim.hardware.grid import Grid
from aquasim.hardware.links import LinkKind
from aquasim.hardware.throttle import Throttle

SCHEMA = 1
REQUIRED = (
    "memory", "peak", "hbm", "gemm", "decode_attention", "prefill_attention", "elementwise", "links",
)  # fmt: skip
"""Blocks without which nothing can be simulated; all-reduce, say, is needed on several GPUs only."""
FOLDER = Path(__file__).parent / "profiles"


@dataclass(frozen=True, eq=False)
class Profile:
    """One GPU and its links.

    `memory_bytes` is the HBM an engine sees; `peak_flops` (bf16, per s) and `peak_hbm` (bytes/s) are the
    vendor's; `hbm_read` and `hbm_copy` (bytes/s) were measured. `all_reduce` is by number of GPUs,
    `decode_attention` and `prefill_attention` by head dimension; `prefill_share` is the best share of peak
    flops attention reached, `tile` the query rows of its tiles. Times of constants are seconds. `blocks` is
    the JSON, with sources and residuals. A GPU of which only layer times are known has `rates` instead of kernels.
    """

    name: str
    title: str
    memory_bytes: int
    peak_flops: float
    peak_hbm: float
    hbm_read: float
    hbm_copy: float
    kernel_floor: float
    tile: int
    links: dict[str, LinkKind]
    blocks: dict[str, Any] = field(repr=False)

    @cached_property
    def gemm(self) -> Grid:
        """Products by tokens, outputs, inputs."""
        return Grid.from_block(self.blocks["gemm"])

    @cached_property
    def all_reduce(self) -> dict[int, Grid]:
        """All-reduce by bytes, for each number of GPUs; ValueError for a number that was not measured."""
        blocks = self.blocks.get("all_reduce", {})
        return _Measured(self.name, {int(gpus): Grid.from_block(block) for gpus, block in blocks.items()})

    @cached_property
    def decode_attention(self) -> dict[int, Grid]:
        """Decode attention by query heads per KV head, KV heads, batch, length, for each head dimension."""
        return {int(dim): Grid.from_block(block) for dim, block in self.blocks["decode_attention"].items()}

    @cached_property
    def mixed_attention(self) -> dict[int, Grid]:
        """What decodes add to a launch of attention with chunks, over the axes of decode attention.

        For each head dimension; empty where no such launch was measured.
        """
        blocks = self.blocks.get("mixed_attention", {})
        return {int(dim): Grid.from_block(block) for dim, block in blocks.items()}

    @property
    def beside_chunks(self) -> tuple[float, int]:
        """Factor on decodes' attention beside a chunk of more than so many rows of queries per KV head."""
        block = self.blocks["prefill_attention"].get("beside", {"factor": 1.0, "rows": 0})
        return float(block["factor"]), int(block["rows"])

    @property
    def throttle(self) -> Throttle | None:
        """How the clock falls under load; None where that was not measured."""
        block = self.blocks.get("throttle")
        return Throttle(block["gain"], block["rest"], block["tau_s"]) if block else None

    @cached_property
    def prefill_attention(self) -> dict[int, Grid]:
        """Prefill attention by query heads per KV head, query rows, reach, for each head dimension."""
        blocks = self.blocks["prefill_attention"]["by_head_dim"]
        return {int(dim): Grid.from_block(block) for dim, block in blocks.items()}

    @cached_property
    def prefill_share(self) -> dict[int, float]:
        """Best share of peak flops of prefill attention, for each head dimension."""
        blocks = self.blocks["prefill_attention"]["by_head_dim"]
        return {int(dim): float(block["peak_share"]) for dim, block in blocks.items()}

    def with_bandwidths(self, gbs: Mapping[str, float | None]) -> "Profile":
        """Return the profile with other bandwidths (GB/s) of links by name; None leaves one as it is."""
        new = {name: value * 1e9 for name, value in gbs.items() if value is not None and name in self.links}
        links = {
            name: replace(link, bandwidth=new[name], peak=max(link.peak, new[name])) if name in new else link
            for name, link in self.links.items()
        }
        return replace(self, links=links) if new else self

    def elementwise_seconds(self, moved: float, kernels: int) -> float:
        """Seconds of `kernels` elementwise kernels that move `moved` bytes: a start each, and bytes at a rate.

        Where the kernels of whole layers were measured, the first `cache_bytes` go at the cache's rate.
        """
        return kernels * self.kernel_floor + self._moved_seconds(self.blocks["elementwise"], moved)

    def sampling_seconds(self, moved: float, kernels: int) -> float:
        """Seconds from logits to tokens, of which `moved` bytes are read and written, by `kernels` kernels."""
        block = self.blocks.get("sampling")
        if block is None:
            return self.elementwise_seconds(moved, kernels)
        return float(block["start_s"]) + self._moved_seconds(block, moved)

    def _moved_seconds(self, block: dict[str, Any], moved: float) -> float:
        rate = float(block.get("bytes_per_s", self.hbm_copy))
        near = min(moved, float(block.get("cache_bytes", 0.0)))
        return near / float(block.get("cached_bytes_per_s", rate)) + (moved - near) / rate


class _Measured(dict[int, Grid]):
    """Curves by number of GPUs; asking for one that was not measured is a user's error, in a line."""

    def __init__(self, profile: str, curves: dict[int, Grid]) -> None:
        super().__init__(curves)
        self.profile = profile

    def __missing__(self, gpus: int) -> Grid:
        known = ", ".join(map(str, sorted(self))) if self else "none"
        raise ValueError(
            f"{self.profile}: all-reduce between {gpus} GPUs was not measured (measured: {known}), so tp={gpus} "
            "cannot be simulated"
        )


def profile_names() -> list[str]:
    """Names of the profiles that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_profile(name_or_path: str | Path) -> Profile:
    """Return a shipped profile by name (any case), or one from a JSON file.

    Raises a one-line ValueError for an unknown name, naming the known ones, and for a file that is not JSON,
    has another schema version or lacks a key, naming the file.
    """
    path = Path(name_or_path)
    if path.suffix != ".json":
        path = FOLDER / f"{str(name_or_path).lower()}.json"
        if path.stem not in profile_names():
            raise ValueError(
                f"unknown hardware profile {str(name_or_path)!r}; known: {', '.join(profile_names())}"
            )
    try:
        return profile_from(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    except KeyError as error:
        raise ValueError(f"{path}: key {error.args[0]} is missing") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def profile_from(blocks: dict[str, Any]) -> Profile:
    """Return the profile that a file with these blocks would hold; raises KeyError or ValueError."""
    if not isinstance(blocks, dict):
        raise ValueError("expected a JSON object")
    if blocks.get("schema") != SCHEMA:
        raise ValueError(f"schema version is {blocks.get('schema')!r}, this package reads {SCHEMA}")
    layers = "rates" in blocks
    return Profile(
        name=str(blocks["name"]),
        title=str(blocks["title"]),
        memory_bytes=int(blocks["memory"]["bytes"]),
        peak_flops=float(blocks["peak"]["flops"]),
        peak_hbm=float(blocks["peak"]["hbm_bytes_per_s"]),
        hbm_read=float(blocks["hbm"]["read_bytes_per_s"]),
        hbm_copy=float(blocks["hbm"]["copy_bytes_per_s"]),
        kernel_floor=float(blocks["rates"]["kernel_floor_s"])
        if layers
        else float(blocks["elementwise"]["kernel_floor_s"]),
        tile=0 if layers else int(blocks["prefill_attention"]["tile"]),
        links={name: LinkKind.from_block(name, block) for name, block in blocks["links"].items()},
        blocks=blocks,
    )
