"""A KV cache split along heads between a GPU and elsewhere, and how its reads overlap with compute, layer by layer.

The schedule is FlexGen's (Sheng et al., ICML 2023, algorithm 1 and section 4): while a layer computes, the
cache of the next one is loaded and that of the one before stored, and both are waited for before the next
layer begins. The first layer's load has nothing to hide behind: each token starts it anew.
"""

from dataclasses import dataclass

from aquasim.hardware.links import LinkKind
from aquasim.hardware.profile import Profile
from aquasim.models import Model

COPY_PASSES = 3
"""Times a byte crosses DRAM when a CPU copies it: read, read for ownership of its target, write back."""


@dataclass(frozen=True, slots=True)
class SplitCache:
    """Keys and values of `batch` sequences as columns, one per KV head and sequence; `remote` of them elsewhere.

    Each layer keeps K and V apart, each place's columns in one tensor: copies of a place's share are contiguous,
    two per layer.
    """

    model: Model
    batch: int
    remote: int

    @classmethod
    def of(cls, model: Model, batch: int, share: float) -> "SplitCache":
        """Return the cache with the given share of its columns elsewhere, to the nearest column."""
        return cls(model, batch, round(share * batch * model.kv_heads))

    @property
    def columns(self) -> int:
        """All columns."""
        return self.batch * self.model.kv_heads

    @property
    def copies(self) -> int:
        """Copies that move a place's share of all layers."""
        return 2 * self.model.layers

    def copy_bytes(self, columns: int, tokens: int) -> int:
        """Bytes of one layer's K (or V) of `tokens` tokens in `columns` columns: of one copy."""
        return columns * tokens * self.model.head_dim * self.model.dtype_bytes

    def bytes(self, columns: int, tokens: int) -> int:
        """Bytes of all layers' K and V of `tokens` tokens in `columns` columns."""
        return self.copies * self.copy_bytes(columns, tokens)


@dataclass(frozen=True, slots=True)
class Relay:
    """Pageable host memory: a CPU copies through a pinned buffer at `rate` bytes/s before the link copies on.

    As FlexGen's release reads its mixed cache: one thread copies K, starts its transfer, copies V meanwhile,
    starts that, and only then launches the layer's compute.
    """

    rate: float

    @classmethod
    def of(cls, profile: Profile, rate: float = 0.0) -> "Relay":
        """Return a relay of a given rate; 0: the most that many cores reach, DRAM bandwidth / `COPY_PASSES`."""
        return cls(rate or profile.links["host_dram"].bandwidth / COPY_PASSES)

    def link_rate(self, link: LinkKind, size: int) -> float:
        """Bytes per second of a layer's K and V, `size` bytes each, through buffer and link.

        With c the CPU's and d the link's time of one of them: c + max(c, d) + d.
        """
        cpu, direct = size / self.rate, link.seconds(size)
        return 2 * size / (cpu + max(cpu, direct) + direct)


def pipelined(begin: int, loaded: int, compute: int, layers: int, tail: int) -> int:
    """Return when an iteration ends whose loads, from `begin` on, ended at `loaded` (all times ns).

    `compute` is that of all `layers` equal layers, of which `tail` begins only after a layer's load: with l
    and c one layer's load and compute, l + (layers - 1) * max(c, l) + c, which is the later of "all loads, then
    the last compute" and "the first load, then all computes". Stores mirror it: first compute, last store.
    """
    return max(loaded + tail, begin + compute + (loaded - begin) // layers)


def mlp_share(model: Model, read_tokens: int) -> float:
    """Share of the feed-forward networks in the bytes that an iteration reads: weights, and KV of `read_tokens`."""
    sizes = {gemm.name: gemm.per_layer * gemm.n * gemm.k for gemm in model.gemms()}
    mlp = sum(size for name, size in sizes.items() if name not in ("qkv", "output"))
    total = model.layers * sum(sizes.values()) * model.dtype_bytes + read_tokens * model.kv_bytes_per_token
    return model.layers * mlp * model.dtype_bytes / total
