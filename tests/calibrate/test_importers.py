"""Published tables: recognised by their columns, read in seconds, and refused in one line."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aquasim.calibrate.importers import read_paths, read_table
from aquasim.calibrate.samples import by_operator
from aquasim.errors import UserError

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
RTX4090 = "llmservingsim/profiler/perf/RTX4090/meta-llama/Llama-3.1-8B/bf16/tp1"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"published samples are not at {DATA}")


def table(path: Path, text: str) -> Path:
    """Write a CSV; folders are made as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


GEMM = "m,n,k,latency_ms\n1,512,256,0.002\n8,512,256,0.004\n"


@pytest.mark.parametrize(
    ("column", "value"),
    [("latency_ms", 0.5), ("time_us", 500.0), ("time_ns", 5e5), ("seconds", 5e-4), ("latency(ns)", 5e5)],
)
def test_the_column_says_the_unit(tmp_path: Path, column: str, value: float) -> None:
    """Half a millisecond is half a millisecond in whatever unit the column's name has."""
    (samples,) = read_table(table(tmp_path / "a.csv", f"m,n,k,{column}\n1,2,3,{value}\n2,2,3,{value}\n"))
    assert samples.seconds == pytest.approx([5e-4, 5e-4])


def test_one_unit_column_serves_as_well(tmp_path: Path) -> None:
    """A column `unit` that holds one unit throughout says what `time` is in."""
    path = table(tmp_path / "a.csv", "m,n,k,time,unit\n1,2,3,7,us\n2,2,3,8,us\n")
    assert read_table(path)[0].seconds == pytest.approx([7e-6, 8e-6])


def test_decodes_and_chunks_of_one_table_come_apart(tmp_path: Path) -> None:
    """One new token behind others is a decode of one more; anything else is prefill behind what is cached."""
    text = "kernel_source,head_dim,num_heads,num_key_value_heads,batch_size,isl,step,latency_ms\n"
    rows = ["fa,128,32,8,4,1,99,0.01", "fa,128,32,8,2,64,0,0.02", "fa,128,32,8,2,64,500,0.03"]
    found = by_operator(read_table(table(tmp_path / "a.csv", text + "\n".join(rows) + "\n")))
    assert found["decode_attention"]["length"].tolist() == [100]
    assert found["prefill_attention"]["cached"].tolist() == [0, 500]
    assert set(found["prefill_attention"].labels["kernel"]) == {"fa"}


def test_layers_take_their_shapes_from_the_model_in_the_path(tmp_path: Path) -> None:
    """Fused products of Llama-3.1-8B split over two GPUs have the widths that the model's own shape gives."""
    folder = tmp_path / "X" / "meta-llama" / "Llama-3.1-8B" / "bf16"
    layers = (
        "qkv_proj",
        "o_proj",
        "gate_up_proj",
        "down_proj",
        "layernorm",
        "rotary_emb",
        "act_fn",
        "embedding",
    )
    rows = "".join(f"{layer},{tokens},{tokens + 1}\n" for layer in layers for tokens in (1, 16))
    table(folder / "tp2" / "dense.csv", "layer,tokens,time_us\n" + rows)
    table(
        folder / "tp2" / "per_sequence.csv",
        "layer,sequences,time_us\nlm_head,1,9\nlm_head,2,9\nsampler,1,3\n",
    )
    meta = b"gpu: Card 9\nvllm_version: 0.19.0\nmeasurement_iterations: 3\n"
    (folder / "meta.yaml.gz").write_bytes(gzip.compress(meta))
    found = by_operator(read_paths([tmp_path])[0])
    gemm = found["gemm"]
    columns = zip(gemm.labels["kernel"], gemm["outputs"], gemm["inputs"], strict=True)
    shapes = {str(kernel): (n, k) for kernel, n, k in columns}
    assert shapes == {
        "qkv_proj": (3072, 4096), "o_proj": (4096, 2048), "gate_up_proj": (14336, 4096), "down_proj": (4096, 7168),
        "lm_head": (64128, 4096),
    }  # fmt: skip
    assert gemm.provenance == {"device": "Card 9", "vllm": "0.19.0"}
    assert set(gemm.repeats) == {3}
    assert "sampling" not in found


def test_a_layers_small_kernels_are_summed_as_the_cost_model_counts_them(tmp_path: Path) -> None:
    """Two norms, rotary embedding and activation make one layer; the embedding does not belong to it."""
    folder = tmp_path / "X" / "meta-llama" / "Llama-3.1-8B" / "bf16" / "tp1"
    layers = ("layernorm", "rotary_emb", "act_fn", "embedding")
    rows = "".join(f"{layer},{tokens},{tokens}\n" for layer in layers for tokens in (2, 16))
    (samples,) = by_operator(
        read_table(table(folder / "dense.csv", "layer,tokens,time_us\n" + rows))
    ).values()
    whole = samples.where("kernel", "layer")
    assert whole.seconds == pytest.approx([4 * 2e-6, 4 * 16e-6])
    per_token = 2 * (8 * 4096 + 2 * 5120 + 3 * 14336)
    assert whole["bytes"].tolist() == [2 * per_token, 16 * per_token]
    assert whole["kernels"].tolist() == [4, 4]


def test_mixed_batches_come_apart(tmp_path: Path) -> None:
    """Rows without a chunk are decodes, rows without decodes are prefill, rows with both are mixed."""
    path = tmp_path / "X" / "meta-llama" / "Llama-3.1-8B" / "bf16" / "tp1" / "attention.csv"
    rows = "0,0,4,1024,9\n64,512,0,0,8\n64,512,4,1024,30\n"
    found = by_operator(
        read_table(table(path, "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n" + rows))
    )
    assert {name: samples.seconds.tolist() for name, samples in found.items()} == {
        "decode_attention": [pytest.approx(9e-6)],
        "prefill_attention": [pytest.approx(8e-6)],
        "mixed_attention": [pytest.approx(30e-6)],
    }
    assert found["prefill_attention"]["cached"].tolist() == [512]
    assert found["decode_attention"]["heads"].tolist() == [32]


@needs_data
def test_every_published_kind_is_recognised() -> None:
    """vidur's, apex_plus's, aisimulate's and LLMServingSim's tables each give the operators they hold."""
    expected = {
        "vidur/profiling/compute/h100/meta-llama/Llama-2-70b-hf/mlp.csv.gz": {"gemm", "elementwise"},
        "vidur/profiling/network/h100_dgx/all_reduce.csv.gz": {"all_reduce"},
        "vidur/profiling/network/a100_dgx/send_recv.csv.gz": {"send_recv"},
        "apex_plus/profile/comm/H100-SXM-80GB/sendrecv.csv": {"send_recv"},
        "apex_plus/profile/comm/H100-SXM-80GB/all_reduce.csv": {"all_reduce"},
        "aisimulate-kernels/a100_sxm/nccl_2.27.3.csv.gz": {"all_reduce"},
        "aisimulate-kernels/a100_sxm/vllm_custom_allreduce_0.14.0.csv.gz": {"all_reduce"},
        f"{RTX4090}/per_sequence.csv.gz": {"gemm", "sampling"},
    }
    found = {name: {samples.operator for samples in read_table(DATA / name)} for name in expected}
    assert found == expected


@needs_data
def test_published_times_are_plausible_in_seconds() -> None:
    """A send of 128 MiB over NVLink between H100s takes 0.38 ms, and an A100's layer norm some microseconds."""
    (sends,) = read_table(DATA / "apex_plus/profile/comm/H100-SXM-80GB/sendrecv.csv")
    assert sends.seconds[np.argmin(abs(sends["bytes"] - 2**27))] == pytest.approx(379e-6, rel=0.02)
    parts = read_table(DATA / "vidur/profiling/compute/a100/meta-llama/Llama-2-7b-hf/mlp.csv.gz")
    norms = [part for part in parts if set(part.labels.get("kernel", ())) == {"input_layernorm"}]
    assert 1e-6 < norms[0].seconds.min() < 1e-4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("m,n,latency_ms\n1,2,3\n", "column k is missing; a table of matrix products has m, n, k"),
        ("m,n,k\n1,2,3\n2,2,3\n", "column with a time is missing"),
        (
            "m,n,k,latency_ms,time_us\n1,2,3,4,5\n1,2,4,4,5\n",
            "columns latency_ms and time_us both hold a time",
        ),
        (
            "m,n,k,time,unit\n1,2,3,4,us\n2,2,3,4,ms\n",
            "column unit holds ms, us; one of s, ms, us, ns is needed",
        ),
        ("m,n,k,time,unit\n1,2,3,4,h\n2,2,3,4,h\n", "column unit holds h;"),
        ("m,n,k,latency_ms\n1,2,3,0.1\n2,2,3,-0.5\n", "column latency_ms, row 2: '-0.5' is no time above 0"),
        ("m,n,k,latency_ms\n1,2,3,0\n2,2,3,1\n", "column latency_ms, row 1: '0' is no time above 0"),
        ("m,n,k,latency_ms\n1,2,3,\n2,2,3,1\n", "column latency_ms, row 1: 'nan' is no number"),
        ("m,n,k,latency_ms\n1,2,x,1\n2,2,3,1\n", "column k, row 1: 'x' is no number"),
        ("m,n,k,latency_ms\n1,2,3,1\n", "1 row; at least 2 are needed"),
        ("a,b\n1,2\n", "not a table of timings we know"),
        ("", "cannot be read"),
    ],
)
def test_a_faulty_table_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    """The line opens with the file and names column, row and value."""
    path = table(tmp_path / "a.csv", text)
    with pytest.raises(UserError) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    """What is absent, of another kind, or damaged is refused by name."""
    with pytest.raises(UserError, match=r"none\.csv: no such file or folder"):
        read_paths([tmp_path / "none.csv"])
    with pytest.raises(UserError, match=r"a\.txt: expected a file ending in \.csv"):
        read_table(table(tmp_path / "a.txt", "x"))
    with pytest.raises(UserError, match=r"b\.parquet: cannot be read"):
        read_table(table(tmp_path / "b.parquet", "not parquet"))
    (tmp_path / "c.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(UserError, match=r"c\.csv\.gz: cannot be read"):
        read_table(tmp_path / "c.csv.gz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no table of timings found"):
        read_paths([tmp_path / "empty"])


def test_a_folder_is_searched_and_tells_what_it_leaves_out(tmp_path: Path) -> None:
    """Tables in subfolders are found; a CSV of something else is noted; one that lacks a column is an error."""
    table(tmp_path / "deep" / "down" / "gemm.csv", GEMM)
    other = table(tmp_path / "trace.csv", "TIMESTAMP,ContextTokens\n1,2\n")
    samples, notes = read_paths([tmp_path])
    assert [len(part) for part in samples] == [2]
    assert notes == [f"{other}: left out, not a table of timings we know"]
    table(tmp_path / "bad.csv", "m,n,latency_ms\n1,2,3\n1,2,4\n")
    with pytest.raises(UserError, match=r"bad\.csv: column k is missing"):
        read_paths([tmp_path])


def test_parquet_tables_are_read_like_csv(tmp_path: Path) -> None:
    """The form of the file does not matter, its columns do."""
    path = tmp_path / "gemm.parquet"
    pd.DataFrame({"m": [1, 2], "n": [3, 3], "k": [4, 4], "latency_ms": [0.5, 0.5]}).to_parquet(path)
    assert read_table(path)[0].seconds == pytest.approx([5e-4, 5e-4])


def test_a_model_that_the_path_does_not_name(tmp_path: Path) -> None:
    """A layer table needs its model; a path without one, or with an unknown one, says so."""
    text = "layer,tokens,time_us\nact_fn,1,2\nact_fn,2,2\n"
    with pytest.raises(UserError, match=r"must end in MODEL/VARIANT/tpN/FILE"):
        read_table(table(tmp_path / "dense.csv", text))
    with pytest.raises(UserError, match="unknown model 'acme/Nonesuch'"):
        read_table(table(tmp_path / "acme" / "Nonesuch" / "bf16" / "tp1" / "dense.csv", text))


def test_rows_are_counted_as_the_file_has_them(tmp_path: Path) -> None:
    """An error names the file's row also where only some rows are of use, or rows repeat."""
    path = table(tmp_path / "a.csv", GEMM + "8,512,256,0.004\n16,512,256,-1\n")
    with pytest.raises(UserError, match=r"column latency_ms, row 4: '-1\.0' is no time above 0"):
        read_table(path)
