"""Time of an iteration that depends on its number of tokens only: products, all-reduces, elementwise work."""

from aquasim.hardware.grid import Grid
from aquasim.hardware.profile import Profile
from aquasim.models import Gemm, Model

ROUTING_SKEW = 0.8
"""Exponent of experts' popularity by rank (Zipf): what decode times of Mixtral 8x7B at batches of 10 to 28 say."""

_LOGIT_BYTES = 10  # read in 2 bytes, written and read again in 4
_LOGIT_KERNELS = 3


class LinearTime:
    """Seconds of everything but attention and host overhead, on one of `tp` GPUs.

    A mixture of experts runs each of its products as one grouped product. T tokens with k choices each touch
    d = sum over experts of 1 - (1 - p)^T distinct ones, p = k times the expert's popularity (`ROUTING_SKEW`);
    the group costs what one product of T k / d tokens and d times the outputs costs: the same weights read,
    the same flops.
    """

    def __init__(self, profile: Profile, model: Model, tp: int) -> None:
        self.profile = profile
        self.model = model
        by_outputs = profile.gemm.turn()
        by_inputs = by_outputs.turn()
        gemms, self.head = model.gemms(tp), model.lm_head(tp)
        single = [gemm for gemm in gemms if not gemm.name.startswith("expert_")]
        self.gemms = [(gemm, by_outputs.fix(gemm.n, gemm.k)) for gemm in single]
        self.experts = [(gemm, by_inputs.fix(gemm.k)) for gemm in gemms if gemm not in single]
        self.head_curve = by_outputs.fix(self.head.n, self.head.k)
        self.all_reduce = profile.all_reduce[tp] if tp > 1 else None
        self.element_bytes, self.kernels = elementwise(model, tp)
        self.chances = _chances(model.experts, model.experts_per_token)
        self.dense_bytes = self._bytes(self.gemms)
        self.expert_bytes = self._bytes(self.experts)

    def layers(self, tokens: int) -> float:
        """Seconds of all transformer layers and the embedding over `tokens` tokens, attention left out."""
        products = sum(gemm.per_layer * self._product(gemm, curve, tokens) for gemm, curve in self.gemms)
        products += sum(gemm.per_layer * self._grouped(gemm, grid, tokens) for gemm, grid in self.experts)
        hidden = tokens * self.model.hidden * self.model.dtype_bytes
        reduce = self.all_reduce.ns(hidden) * 1e-9 if self.all_reduce else 0.0
        layer = (
            products
            + self.profile.elementwise_seconds(tokens * self.element_bytes, self.kernels)
            + 2 * reduce
        )
        ends = (
            self.profile.elementwise_seconds(6 * hidden, 2) + reduce
        )  # embedding (2 vectors) and last norm (4)
        return self.model.layers * layer + ends

    def logits(self, sampled: int) -> float:
        """Seconds of the output head and of reading its logits, for `sampled` sequences."""
        read = self.profile.sampling_seconds(sampled * self.head.n * _LOGIT_BYTES, _LOGIT_KERNELS)
        return self._product(self.head, self.head_curve, sampled) + read

    def flops(self, tokens: int) -> float:
        """Floating point operations of all layers' products over `tokens` tokens."""
        single = sum(gemm.per_layer * gemm.n * gemm.k for gemm, _ in self.gemms)
        experts = sum(gemm.per_layer * gemm.n * gemm.k for gemm, _ in self.experts)
        return 2.0 * tokens * self.model.layers * (single + self.model.experts_per_token * experts)

    def weight_bytes(self, tokens: int) -> float:
        """Bytes of weights one iteration over `tokens` tokens reads: of experts only those touched."""
        head = self.head.n * self.head.k * self.model.dtype_bytes
        return head + self.dense_bytes + (self.expert_bytes * self._touched(tokens) if self.experts else 0.0)

    def _bytes(self, gemms: list[tuple[Gemm, Grid]]) -> int:
        """Return bytes of the weights of these products in all layers."""
        weights = sum(gemm.per_layer * gemm.n * gemm.k for gemm, _ in gemms)
        return self.model.layers * weights * self.model.dtype_bytes

    def _product(self, gemm: Gemm, curve: Grid, tokens: float) -> float:
        return max(curve.ns(tokens) * 1e-9, self._roofline(tokens, gemm.n, gemm.k))

    def _grouped(self, gemm: Gemm, grid: Grid, tokens: int) -> float:
        """Seconds of one product in all experts touched; `grid` is over tokens and outputs."""
        touched = self._touched(tokens)
        rows, outputs = tokens * self.model.experts_per_token / touched, gemm.n * touched
        return max(grid.fix(rows).ns(outputs) * 1e-9, self._roofline(rows, outputs, gemm.k))

    def _touched(self, tokens: int) -> float:
        return sum(1 - (1 - chance) ** tokens for chance in self.chances)

    def _roofline(self, m: float, n: float, k: float) -> float:
        moved = (m * n + n * k + m * k) * self.model.dtype_bytes
        return max(moved / self.profile.peak_hbm, 2 * m * n * k / self.profile.peak_flops)


def _chances(experts: int, chosen: int) -> list[float]:
    """Return how likely a token is to choose each expert."""
    popularity = [rank**-ROUTING_SKEW for rank in range(1, experts + 1)]
    return [min(1.0, chosen * share / sum(popularity)) for share in popularity]


def elementwise(model: Model, tp: int) -> tuple[int, int]:
    """Return bytes moved per token and kernels launched, per layer, outside products and attention.

    Two norms that also add the residual read and write two vectors each; rotary embedding (none with learned
    positions) reads and writes queries and keys, query and key norms do so again; the activation reads the up
    projections and writes one; experts add gathering and summing of their inputs and outputs.
    """
    queries, keys = model.heads // tp * model.head_dim, model.kv_heads_gpu(tp) * model.head_dim
    inner, ups = model.intermediate // tp, 2 if model.gated_mlp else 1
    chosen = model.experts_per_token
    passes = (0 if model.positions else 1) + model.qk_norm
    elements = 8 * model.hidden + 2 * passes * (queries + keys) + (ups + 1) * inner * max(1, chosen)
    elements += (3 * chosen + 1) * model.hidden if chosen else 0
    return elements * model.dtype_bytes, 3 + passes + (3 if chosen else 0)
