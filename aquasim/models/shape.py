"""The shape of a transformer, and what follows from it: parameters, weights, KV cache, matrix products."""

from dataclasses import dataclass
from typing import NamedTuple

TP_DEGREES = (1, 2, 4, 8)
_POSITIVE = (
    "layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab", "max_position",
    "dtype_bytes",
)  # fmt: skip


class Gemm(NamedTuple):
    """One linear layer on one GPU: tokens x `k` inputs times `k` x `n` weights, `per_layer` times."""

    name: str
    n: int
    k: int
    per_layer: int


@dataclass(frozen=True, slots=True)
class Model:
    """Published shape of a decoder-only transformer.

    `heads` are query heads, `kv_heads` those of keys and values (fewer with grouped queries), `intermediate`
    is the width of one feed-forward network (of one expert, if there are experts), `dtype_bytes` the bytes of
    one weight and of one KV element. `sliding_window` is the most tokens a query looks back, 0 for all.
    `positions` counts learned position embeddings (OPT). `qkv_bias`, `biases` (on every linear layer and
    norm) and `qk_norm` matter for the exact parameter count only.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    gated_mlp: bool = True
    experts: int = 0
    experts_per_token: int = 0
    tied_embeddings: bool = False
    max_position: int = 4096
    dtype_bytes: int = 2
    sliding_window: int = 0
    positions: int = 0
    qkv_bias: bool = False
    biases: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        for key in _POSITIVE:
            if getattr(self, key) < 1:
                raise ValueError(f"model {self.name}: {key} must be at least 1, is {getattr(self, key)}")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"model {self.name}: heads {self.heads} is no multiple of kv_heads {self.kv_heads}"
            )
        if bool(self.experts) != bool(self.experts_per_token) or self.experts_per_token > self.experts:
            raise ValueError(
                f"model {self.name}: {self.experts_per_token} experts per token of {self.experts} experts"
            )

    @property
    def parameters(self) -> int:
        """Exact number of parameters, norms and biases included."""
        return self._embeddings + self._sharded + self._replicated

    def weight_bytes(self, tp: int = 1) -> int:
        """Bytes of weights on each of `tp` GPUs: linear layers and embeddings split, norms and router not.

        Key and value projections are replicated where `tp` exceeds the KV heads. Raises ValueError as
        `check_tp`.
        """
        self.check_tp(tp)
        copies = max(1, tp // self.kv_heads)
        extra = (copies - 1) * self._kv_projection
        split = -(-(self._sharded + extra + self._embeddings) // tp)
        return (split + self._replicated) * self.dtype_bytes

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token: all layers, all GPUs, no replicas."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype_bytes

    def kv_bytes_per_token_gpu(self, tp: int = 1) -> int:
        """Bytes of keys and values of one token on each of `tp` GPUs, replicated heads included."""
        return 2 * self.layers * self.kv_heads_gpu(tp) * self.head_dim * self.dtype_bytes

    def kv_heads_gpu(self, tp: int = 1) -> int:
        """KV heads on each of `tp` GPUs, at least one."""
        self.check_tp(tp)
        return max(1, self.kv_heads // tp)

    def gemms(self, tp: int = 1) -> list[Gemm]:
        """The linear layers of one transformer layer on each of `tp` GPUs, as engines fuse them.

        Query, key and value projections are one product, so are gate and up. With experts, `expert_*` stand
        for one expert's products; `router` is not split. The output head is apart: `lm_head`.
        """
        width = (self.heads // tp + 2 * self.kv_heads_gpu(tp)) * self.head_dim
        inner = self.intermediate // tp
        up = inner * (2 if self.gated_mlp else 1)
        prefix = "expert_" if self.experts else ""
        router = [Gemm("router", self.experts, self.hidden, 1)] if self.experts else []
        return [
            Gemm("qkv", width, self.hidden, 1),
            Gemm("output", self.hidden, self.heads // tp * self.head_dim, 1),
            *router,
            Gemm(prefix + ("gate_up" if self.gated_mlp else "up"), up, self.hidden, 1),
            Gemm(prefix + "down", self.hidden, inner, 1),
        ]

    def lm_head(self, tp: int = 1) -> Gemm:
        """The product that gives logits: once per sampled token, vocabulary split over `tp` GPUs."""
        self.check_tp(tp)
        return Gemm("lm_head", -(-self.vocab // tp), self.hidden, 1)

    def check_tp(self, tp: int) -> None:
        """Raise ValueError, in one line, if the model cannot be split over `tp` GPUs."""
        bar = self._bar(tp)
        if bar:
            raise ValueError(f"model {self.name}: {bar}")

    def tp_degrees(self) -> list[int]:
        """The tensor parallel degrees over which the model can be split."""
        return [tp for tp in TP_DEGREES if self._bar(tp) is None]

    def _bar(self, tp: int) -> str | None:
        """Return why the model cannot be split over `tp` GPUs, None if it can."""
        if tp not in TP_DEGREES:
            return f"tensor parallel degree {tp} is not one of 1, 2, 4, 8"
        for key in ("heads", "intermediate"):
            if getattr(self, key) % tp:
                return f"{key} {getattr(self, key)} does not divide by tp={tp}"
        if self.kv_heads % tp and tp % self.kv_heads:
            return f"kv_heads {self.kv_heads} neither divides nor is divided by tp={tp}"
        return None

    @property
    def _embeddings(self) -> int:
        """Parameters of the token embedding, and of the output head unless they are the same."""
        return self.vocab * self.hidden * (1 if self.tied_embeddings else 2)

    @property
    def _kv_projection(self) -> int:
        biased = self.qkv_bias or self.biases
        return self.layers * 2 * self.kv_heads * self.head_dim * (self.hidden + biased)

    @property
    def _sharded(self) -> int:
        """Parameters of the linear layers."""
        width, queries = self.hidden, self.heads * self.head_dim
        attention = queries * (width + (self.qkv_bias or self.biases)) + queries * width + width * self.biases
        ups = 2 if self.gated_mlp else 1
        mlp = (ups + 1) * width * self.intermediate + self.biases * (ups * self.intermediate + width)
        return self.layers * (attention + mlp * max(1, self.experts)) + self._kv_projection

    @property
    def _replicated(self) -> int:
        """Parameters each GPU holds in full: norms, router, learned positions."""
        norm = self.hidden * (2 if self.biases else 1)
        layer = 2 * norm + 2 * self.head_dim * self.qk_norm + self.experts * self.hidden
        return self.layers * layer + norm + self.positions * self.hidden
