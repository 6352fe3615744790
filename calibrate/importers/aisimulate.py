"""Kernel tables of NVIDIA's aisimulate: products, attention, all-reduce of vLLM and of NCCL."""

import numpy as np

from aquasim.calibrate.importers.table import Format, Table
from aquasim.calibrate.samples import Samples, make_samples


def _gemm(table: Table) -> list[Samples]:
    table = table.unrepeated()
    columns = {"tokens": table.numbers("m"), "outputs": table.numbers("n"), "inputs": table.numbers("k")}
    return [make_samples("gemm", table.source, columns, table.seconds())]


def _attention(table: Table) -> list[Samples]:
    """One new token behind others is a decode of a context one longer; all else is prefill."""
    table = table.unrepeated()
    decodes = (table.numbers("isl") == 1) & (table.numbers("step") > 0)
    parts = []
    for operator, mask in (("decode_attention", decodes), ("prefill_attention", ~decodes)):
        if not mask.any():
            continue
        part = table.rows(mask)
        new, before = part.numbers("isl"), part.numbers("step")
        columns = {
            "heads": part.numbers("num_heads"),
            "kv_heads": part.numbers("num_key_value_heads"),
            "head_dim": part.numbers("head_dim"),
            "batch": part.numbers("batch_size"),
            "length": before + new,
            "new": new,
            "cached": before,
            "kernel": part.texts("kernel_source"),
        }
        parts.append(make_samples(operator, table.source, columns, part.seconds()))
    return parts


# The collector (aiconfigurator's collect_nccl.py and collect_all_reduce.py) writes elements. Taken as bytes of
# bf16 twice as large, NCCL on 8 H100s moves 364 GB/s per bus at 64 MiB, as in vidur (365) and Azure (362).
_ELEMENT_BYTES = 2


def _own_all_reduce(table: Table) -> list[Samples]:
    columns = {
        "gpus": table.numbers("num_gpus"),
        "bytes": _ELEMENT_BYTES * table.numbers("message_size_as_given"),
        "kernel": table.texts("backend"),
    }
    return [make_samples("all_reduce", table.source, columns, table.seconds())]


def _nccl(table: Table) -> list[Samples]:
    table = table.rows(np.asarray(table.texts("op_name") == "all_reduce"))
    columns = {
        "gpus": table.numbers("num_gpus"),
        "bytes": _ELEMENT_BYTES * table.numbers("message_size_as_given"),
        "kernel": "nccl",
    }
    return [make_samples("all_reduce", table.source, columns, table.seconds())]


FORMATS = (
    Format("matrix products", ("m", "n", "k"), _gemm),
    Format(
        "attention",
        ("head_dim", "num_heads", "num_key_value_heads", "batch_size", "isl", "step"),
        _attention,
    ),
    Format("an engine's all-reduce", ("num_gpus", "message_size_as_given", "backend"), _own_all_reduce),
    Format("NCCL operations", ("op_name", "num_gpus", "message_size_as_given"), _nccl),
)
