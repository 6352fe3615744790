"""LoRA adapters: their bytes, and what they add to an iteration."""

from dataclasses import dataclass
from math import ceil
from typing import Literal

from aquasim.hardware.profile import Profile
from aquasim.models import Model

Targets = Literal["all", "attention"]


@dataclass(frozen=True, slots=True)
class LoraShape:
    """Adapters of one rank for one model: per adapted matrix (inputs x outputs) A is inputs x rank, B rank x outputs.

    `targets`: every linear layer (query, key, value, output, gate, up, down), or the four of attention. Weights
    are 16-bit like the model's. Raises ValueError for a rank below 1, or a mixture of experts with "all".
    """

    model: Model
    rank: int
    targets: Targets = "all"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"LoRA rank is {self.rank}; it must be at least 1")
        if self.targets == "all" and self.model.experts:
            raise ValueError(
                f'{self.model.name}: adapters of experts are not known; use targets = "attention"'
            )

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each adapted matrix of one layer, as checkpoints keep them: nothing is fused."""
        model = self.model
        hidden, inner = model.hidden, model.intermediate
        queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
        attention = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
        if self.targets == "attention":
            return attention
        return attention + [(hidden, inner)] * (2 if model.gated_mlp else 1) + [(inner, hidden)]

    @property
    def tensors(self) -> int:
        """Tensors of one adapter: A and B of each matrix."""
        return 2 * len(self.matrices) * self.model.layers

    @property
    def bytes(self) -> int:
        """Bytes of one adapter."""
        width = sum(inputs + outputs for inputs, outputs in self.matrices)
        return self.model.layers * width * self.rank * self.model.dtype_bytes


class LoraCost:
    """Time that adapters add to an iteration: two products per adapted matrix, segmented by adapter.

    Each is priced by its roofline and a launch. Shrink reads inputs and every active A, expand reads every
    active B and adds to the outputs. One adapter per few tokens makes them memory-bound, so the distinct
    adapters' weights count and not the requests (SGMV: Punica, Chen et al. 2023, section 4 and figure 7;
    S-LoRA, Sheng et al. 2023, section 5).
    """

    def __init__(self, profile: Profile, shape: LoraShape) -> None:
        matrices, layers, dtype = shape.matrices, shape.model.layers, shape.model.dtype_bytes
        self._launch_ns = layers * 2 * len(matrices) * profile.kernel_floor * 1e9
        self._weights_ns = shape.bytes / profile.hbm_read * 1e9
        vectors = sum(inputs + 2 * shape.rank + 2 * outputs for inputs, outputs in matrices)
        self._token_ns = layers * vectors * dtype / profile.hbm_read * 1e9
        flops = 2 * layers * shape.rank * sum(inputs + outputs for inputs, outputs in matrices)
        self._flops_ns = flops / profile.peak_flops * 1e9

    def ns(self, tokens: int, adapters: int) -> int:
        """Nanoseconds for `tokens` tokens that need `adapters` different adapters between them; 0 for none."""
        if not adapters:
            return 0
        moved = adapters * self._weights_ns + tokens * self._token_ns
        return ceil(self._launch_ns + max(moved, tokens * self._flops_ns))
