"""Layer tables of LLMServingSim's profiler, measured inside vLLM; shapes come from the model its path names."""

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aquasim.calibrate.importers.table import Format, Table
from aquasim.calibrate.samples import Samples, make_samples
from aquasim.errors import UserError
from aquasim.hardware.linear import elementwise
from aquasim.models import Model, load_model

PRODUCTS = {"qkv_proj": "qkv", "o_proj": "output", "gate_up_proj": "gate_up", "down_proj": "down"}
NORMS = ("layernorm", "final_layernorm")
_META = {
    "gpu": "device",
    "vllm_version": "vllm",
    "cuda_version": "cuda",
    "profiled_at": "time",
    "measurement_iterations": "repeats",
}


class _Place:
    """What the path MODEL/VARIANT/tpN/FILE and the meta.yaml beside it say of a table."""

    def __init__(self, path: Path) -> None:
        degree = re.fullmatch(r"tp(\d+)", path.parent.name)
        if degree is None or len(path.parts) < 5:
            raise UserError(
                f"{path}: the path must end in MODEL/VARIANT/tpN/FILE, which gives the layers' shapes"
            )
        folder = path.parent.parent
        self.tp = int(degree[1])
        try:
            self.model: Model = load_model("/".join(folder.parent.parts[-2:]))
            self.model.check_tp(self.tp)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
        self.source = "/".join(path.parts[-6:])
        self.provenance = _meta(folder)
        self.repeats = int(self.provenance.pop("repeats", "1"))

    def samples(self, operator: str, columns: dict[str, Any], seconds: Any) -> Samples:
        """Build samples that say where they come from."""
        return make_samples(
            operator, self.source, columns, seconds, repeats=self.repeats, provenance=self.provenance
        )

    @property
    def heads(self) -> dict[str, Any]:
        """Columns of attention that depend on the model."""
        return {
            "heads": self.model.heads // self.tp,
            "kv_heads": self.model.kv_heads_gpu(self.tp),
            "head_dim": self.model.head_dim,
        }


def _meta(folder: Path) -> dict[str, str]:
    """Return versions and device from the profiler's meta.yaml, or nothing."""
    for name in ("meta.yaml", "meta.yaml.gz"):
        path = folder / name
        if path.is_file():
            text = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
            pairs = re.findall(r"^(\w+): *(.+)$", text.decode(), re.MULTILINE)
            return {_META[key]: value.strip("'\" ") for key, value in pairs if key in _META}
    return {}


def _dense(table: Table) -> list[Samples]:
    """Layers by tokens: products, and elementwise kernels one by one and summed over a decoder layer."""
    place, layers = _Place(table.path), table.texts("layer")
    gemms = {gemm.name: gemm for gemm in place.model.gemms(place.tp)}
    parts = []
    for layer in dict.fromkeys(layers):
        rows = table.rows(np.asarray(layers == layer))
        tokens = rows.numbers("tokens")
        if layer in PRODUCTS:
            shape = gemms[PRODUCTS[layer]]
            columns = {"tokens": tokens, "outputs": shape.n, "inputs": shape.k, "kernel": layer}
            parts.append(place.samples("gemm", columns, rows.seconds()))
        elif layer != "qk_norm" or place.tp == 1:  # at tp 2 the file repeats the times of tp 1
            moved = tokens * _vectors(layer, place) * place.model.dtype_bytes
            columns = {"bytes": moved, "kernels": 1, "tokens": tokens, "kernel": layer}
            parts.append(place.samples("elementwise", columns, rows.seconds()))
    whole = _decoder_layer(place, [part for part in parts if part.operator == "elementwise"])
    return [*parts, *([whole] if whole is not None else [])]


def _vectors(layer: str, place: _Place) -> int:
    """Elements per token that a layer's kernel reads and writes."""
    model, tp = place.model, place.tp
    rotated = (model.heads // tp + model.kv_heads_gpu(tp)) * model.head_dim
    if layer in NORMS:
        return 4 * model.hidden  # input and residual, in and out
    return {"rotary_emb": 2 * rotated, "qk_norm": rotated, "embedding": 2 * model.hidden}.get(
        layer, 3 * model.intermediate // tp
    )


def _decoder_layer(place: _Place, parts: list[Samples]) -> Samples | None:
    """Sum the kernels of one decoder layer at each number of tokens, as the cost model counts them.

    Two norms; queries and keys are normalised one after the other, and the file has the mean of the two. On one
    GPU only: on several, norms are part of the all-reduce, which was not measured.
    """
    times = {str(part.labels["kernel"][0]): part for part in parts}
    if place.tp > 1:
        return None
    counts = {"layernorm": 2, "rotary_emb": 1, "act_fn": 1, **({"qk_norm": 2} if place.model.qk_norm else {})}
    if not all(kernel in times for kernel in counts):
        return None
    tokens = times["layernorm"]["tokens"]
    if any(not np.array_equal(times[kernel]["tokens"], tokens) for kernel in counts):
        return None
    seconds = np.sum([times[kernel].seconds * count for kernel, count in counts.items()], axis=0)
    per_token, kernels = elementwise(place.model, place.tp)
    columns = {"bytes": tokens * per_token, "kernels": kernels, "tokens": tokens, "kernel": "layer"}
    return place.samples("elementwise", columns, seconds)


def _per_sequence(table: Table) -> list[Samples]:
    """The output head by sequences is a product; the sampler is apart."""
    place, layers = _Place(table.path), table.texts("layer")
    parts = []
    for layer in dict.fromkeys(layers):
        rows = table.rows(np.asarray(layers == layer))
        sequences, head = rows.numbers("sequences"), place.model.lm_head(place.tp)
        if layer == "lm_head":
            columns = {"tokens": sequences, "outputs": head.n, "inputs": head.k, "kernel": layer}
            parts.append(place.samples("gemm", columns, rows.seconds()))
        elif layer == "sampler" and place.tp == 1:
            sampled = {"sequences": sequences, "vocab": place.model.vocab, "kernel": layer}
            parts.append(place.samples("sampling", sampled, rows.seconds()))
    return parts


def _attention(table: Table) -> list[Samples]:
    """Batches of one chunk and equal decodes: decodes only, a chunk only, or both."""
    place = _Place(table.path)
    new, batch = table.numbers("prefill_chunk"), table.numbers("n_decode")
    masks = {
        "decode_attention": (new == 0) & (batch > 0),
        "prefill_attention": (new > 0) & (batch == 0),
        "mixed_attention": (new > 0) & (batch > 0),
    }
    return [_batches(place, table, operator, mask) for operator, mask in masks.items() if mask.any()]


def _batches(place: _Place, table: Table, operator: str, mask: NDArray[np.bool_]) -> Samples:
    rows = table.rows(mask)
    decodes = rows.numbers("n_decode")
    columns = {
        **place.heads,
        "new": rows.numbers("prefill_chunk"),
        "cached": rows.numbers("kv_prefill"),
        "batch": 1 if operator == "prefill_attention" else decodes,
        "length": rows.numbers("kv_decode"),
    }
    return place.samples(operator, columns, rows.seconds())


FORMATS = (
    Format("a model's layers by tokens", ("layer", "tokens"), _dense),
    Format("a model's layers by sequences", ("layer", "sequences"), _per_sequence),
    Format("mixed batches", ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"), _attention),
)
