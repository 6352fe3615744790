"""Time of an iteration that depends on its number of tokens only: products, all-reduces, elementwise work."""

from aquasim.hardware.grid import Grid
from aquasim.hardware.profile import Profile
from aquasim.models import Gemm, Model

_LOGIT_BYTES = 10  # read in 2 bytes, written and read again in 4
_LOGIT_KERNELS = 3


class LinearTime:
    """Seconds of everything but attention and host overhead, on one of `tp` GPUs.

    A mixture of experts runs each of its products as one grouped product. Of E experts, T tokens with k
    choices each touch d = E (1 - (1 - k/E)^T) distinct ones, if choices are uniform; the group then costs
    what one product of T k / d tokens and d times the outputs costs: the same weights read, the same flops.
    """

    def __init__(self, profile: Profile, model: Model, tp: int) -> None:
        self.profile = profile
        self.model = model
        gemms = model.gemms(tp)
        self.gemms = [(gemm, self._curve(gemm)) for gemm in gemms if not gemm.name.startswith("expert_")]
        self.experts = [gemm for gemm in gemms if gemm.name.startswith("expert_")]
        self.head = model.lm_head(tp)
        self.head_curve = self._curve(self.head)
        self.all_reduce = profile.all_reduce[tp] if tp > 1 else None
        self.element_bytes, self.kernels = elementwise(model, tp)
        self.dense_bytes = self._bytes([gemm for gemm, _ in self.gemms])
        self.expert_bytes = self._bytes(self.experts)

    def layers(self, tokens: int) -> float:
        """Seconds of all transformer layers and the embedding over `tokens` tokens, attention left out."""
        products = sum(gemm.per_layer * self._product(gemm, curve, tokens) for gemm, curve in self.gemms)
        products += sum(gemm.per_layer * self._grouped(gemm, tokens) for gemm in self.experts)
        hidden = tokens * self.model.hidden * self.model.dtype_bytes
        reduce = self.all_reduce.ns(hidden) * 1e-9 if self.all_reduce else 0.0
        layer = products + self._elements(tokens * self.element_bytes, self.kernels) + 2 * reduce
        return self.model.layers * layer + self._elements(6 * hidden, 2) + reduce

    def logits(self, sampled: int) -> float:
        """Seconds of the output head and of reading its logits, for `sampled` sequences."""
        read = self._elements(sampled * self.head.n * _LOGIT_BYTES, _LOGIT_KERNELS)
        return self._product(self.head, self.head_curve, sampled) + read

    def weight_bytes(self, tokens: int) -> float:
        """Bytes of weights one iteration over `tokens` tokens reads: of experts only those touched."""
        head = self.head.n * self.head.k * self.model.dtype_bytes
        return head + self.dense_bytes + (self.expert_bytes * self._touched(tokens) if self.experts else 0.0)

    def _bytes(self, gemms: list[Gemm]) -> int:
        """Return bytes of the weights of these products in all layers."""
        weights = sum(gemm.per_layer * gemm.n * gemm.k for gemm in gemms)
        return self.model.layers * weights * self.model.dtype_bytes

    def _curve(self, gemm: Gemm) -> Grid:
        """Return the time of a product by tokens alone."""
        outputs_inputs = _last_first(self.profile.gemm)
        return outputs_inputs.fix(gemm.n, gemm.k)

    def _product(self, gemm: Gemm, curve: Grid, tokens: float) -> float:
        return max(curve.ns(tokens) * 1e-9, self._roofline(tokens, gemm.n, gemm.k))

    def _grouped(self, gemm: Gemm, tokens: int) -> float:
        touched = self._touched(tokens)
        rows, outputs = tokens * self.model.experts_per_token / touched, gemm.n * touched
        curve = self.profile.gemm.fix(rows).fix(outputs)
        return max(curve.ns(gemm.k) * 1e-9, self._roofline(rows, outputs, gemm.k))

    def _touched(self, tokens: int) -> float:
        experts, chosen = self.model.experts, self.model.experts_per_token
        return float(experts * (1 - (1 - chosen / experts) ** tokens))

    def _roofline(self, m: float, n: float, k: float) -> float:
        moved = (m * n + n * k + m * k) * self.model.dtype_bytes
        return max(moved / self.profile.peak_hbm, 2 * m * n * k / self.profile.peak_flops)

    def _elements(self, moved: float, kernels: int) -> float:
        return kernels * self.profile.kernel_floor + moved / self.profile.hbm_copy


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


def _last_first(grid: Grid) -> Grid:
    """Return the three-axis grid with its first axis moved to the end."""
    tokens, outputs, inputs = grid.axes
    size = len(outputs) * len(inputs)
    values = (grid.values[i * size + j] for j in range(size) for i in range(len(tokens)))
    return Grid((outputs, inputs, tokens), tuple(values))
