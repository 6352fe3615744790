"""vidur's operator tables: a model's products and elementwise kernels by tokens, in milliseconds."""

from typing import Any

from aquasim.calibrate.importers.table import Format, Table
from aquasim.calibrate.samples import Samples, make_samples

_DTYPE_BYTES = 2


def _mlp(table: Table) -> list[Samples]:
    """Products of one decoder layer (queries, keys and values fused; gate and up fused) and its small kernels."""
    tp, tokens = table.numbers("num_tensor_parallel_workers"), table.numbers("num_tokens")
    hidden, inner = table.numbers("n_embd"), table.numbers("n_expanded_embd") / tp
    heads, kv_heads = table.numbers("n_head"), table.numbers("n_kv_head")
    width = hidden / heads
    queries, keys = heads / tp * width, (kv_heads / tp).clip(min=1) * width
    ups = 1 + table.texts("use_gated_mlp").astype(str).__eq__("True").astype(float)
    products = {
        "attn_pre_proj": (queries + 2 * keys, hidden),
        "attn_post_proj": (hidden, queries),
        "mlp_up_proj": (ups * inner, hidden),
        "mlp_down_proj": (hidden, inner),
    }
    small = {
        "input_layernorm": 2 * hidden,
        "post_attention_layernorm": 2 * hidden,
        "attn_rope": 2 * (queries + keys),
        "mlp_act": (ups + 1) * inner,
        "add": 3 * hidden,
    }
    gemms = [
        _part(table, "gemm", layer, {"tokens": tokens, "outputs": outputs, "inputs": inputs})
        for layer, (outputs, inputs) in products.items()
    ]
    others = [
        _part(
            table, "elementwise", layer, {"bytes": tokens * n * _DTYPE_BYTES, "kernels": 1, "tokens": tokens}
        )
        for layer, n in small.items()
    ]
    return [*gemms, *others]


def _part(table: Table, operator: str, layer: str, columns: dict[str, Any]) -> Samples:
    """Return one layer's rows; those in which it was not timed are left out."""
    column = f"time_stats.{layer}.median"
    timed = table.frame[column].notna().to_numpy()
    columns = {name: value[timed] if hasattr(value, "shape") else value for name, value in columns.items()}
    seconds = table.rows(timed).times(column, 1e-3)
    return make_samples(operator, table.source, {**columns, "kernel": layer}, seconds)


_COLUMNS = ("num_tokens", "num_tensor_parallel_workers", "n_head", "n_kv_head", "n_embd", "n_expanded_embd")
_TIMES = tuple(
    f"time_stats.{layer}.median"
    for layer in (
        "attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj", "input_layernorm",
        "post_attention_layernorm", "attn_rope", "mlp_act", "add",
    )
)  # fmt: skip

FORMATS = (Format("a model's operators", (*_COLUMNS, *_TIMES, "use_gated_mlp"), _mlp, timed=_TIMES[0]),)
