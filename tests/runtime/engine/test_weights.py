"""Weights: by seed, from safetensors and GGUF files, whole or one rank's part."""

import json
from pathlib import Path

import gguf
import pytest
import torch
from naive_llama import TINY, tensors
from safetensors.torch import save_file

from aquasim.runtime.engine import LlamaConfig, Weights, load_weights, random_weights
from aquasim.runtime.engine.gguf import gguf_name
from aquasim.runtime.engine.weights import Layer

QWEN2 = LlamaConfig(
    vocab=96, hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=96, qkv_bias=True,
    tied_embeddings=True,
)  # fmt: skip
LLAMA = LlamaConfig(vocab=96, hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=96)


def same(first: Weights, second: Weights, tolerance: float = 0.0) -> bool:
    """Tell whether all tensors of two sets are equal within a tolerance."""
    pairs = [(getattr(first, name), getattr(second, name)) for name in ("embedding", "norm", "head")]
    for one, other in zip(first.layers, second.layers, strict=True):
        pairs += [(getattr(one, name), getattr(other, name)) for name in Layer.__slots__]
    return all(
        a is b or (a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=tolerance)) for a, b in pairs
    )


def write_gguf(path: Path, config: LlamaConfig, architecture: str, kind: gguf.GGMLQuantizationType) -> None:
    """Write a model as llama.cpp's converter does: queries and keys of `llama` permuted, matrices quantised."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden)
    writer.add_feed_forward_length(config.intermediate)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    for name, tensor in tensors(config).items():
        rows = tensor.numpy()
        for part, heads in ((".q_proj.", config.heads), (".k_proj.", config.kv_heads)):
            if part in name and architecture == "llama":
                rows = rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
        as_kind = kind if rows.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(rows, as_kind), raw_dtype=as_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """Write tiny tensors as one safetensors file and return its folder."""
    save_file(tensors(TINY), tmp_path / "model.safetensors")
    return tmp_path


def test_a_seed_is_a_model() -> None:
    """The same seed gives the same bits, another seed others, and parts do not depend on the ranks."""
    whole = random_weights(TINY, 7)

    assert same(whole, random_weights(TINY, 7))
    assert not same(whole, random_weights(TINY, 8))
    assert not torch.equal(whole.layers[0].qkv, whole.layers[1].qkv)


def test_single_and_sharded_safetensors_are_the_same(reference: Path, tmp_path: Path) -> None:
    """An index over two parts, one file, and the file itself give equal weights."""
    single = load_weights(reference, TINY)
    folder = tmp_path / "parts"
    folder.mkdir()
    names = sorted(tensors(TINY))
    where = {name: f"part-{index % 2}.safetensors" for index, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: tensors(TINY)[name] for name in names if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))

    assert same(single, load_weights(folder, TINY))
    assert same(single, load_weights(reference / "model.safetensors", TINY))
    assert single.layers[0].qkv.shape == (64, 32)
    assert load_weights(reference, TINY, dtype=torch.bfloat16).nbytes * 2 == single.nbytes


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_hold_a_part_of_everything_but_norms(reference: Path, world: int) -> None:
    """Rows of queries, keys, values, gate and up, and columns of the others, come together again."""
    whole = load_weights(reference, TINY)
    parts = [load_weights(reference, TINY, rank=rank, world=world) for rank in range(world)]
    rows = TINY.heads * TINY.head_dim
    own = rows // world

    for layer, cut in zip(whole.layers, zip(*(part.layers for part in parts), strict=True), strict=True):
        assert torch.equal(torch.cat([c.qkv[:own] for c in cut]), layer.qkv[:rows])
        assert torch.equal(torch.cat([c.output for c in cut], 1), layer.output)
        assert torch.equal(torch.cat([c.down for c in cut], 1), layer.down)
        gates = [c.gate_up.chunk(2)[0] for c in cut]
        assert torch.equal(torch.cat(gates), layer.gate_up.chunk(2)[0])
        keys = [c.qkv[own : own + c.qkv[own:].shape[0] // 2] for c in cut]
        assert torch.equal(torch.cat(keys[:: max(1, world // 2)]), layer.qkv[rows : rows + 16])
    assert {part.embedding.shape for part in parts} == {(97, 32)}  # 97 is prime: whole on each rank


@pytest.mark.parametrize(
    ("config", "architecture", "kind", "tolerance"),
    [
        (LLAMA, "llama", gguf.GGMLQuantizationType.F32, 0.0),
        (LLAMA, "llama", gguf.GGMLQuantizationType.F16, 1e-3),
        (LLAMA, "llama", gguf.GGMLQuantizationType.Q8_0, 1e-2),
        (LLAMA, "llama", gguf.GGMLQuantizationType.Q4_1, 0.1),
        (QWEN2, "qwen2", gguf.GGMLQuantizationType.F32, 0.0),
    ],
)
def test_gguf_is_the_model_that_was_written(
    tmp_path: Path, config: LlamaConfig, architecture: str, kind: gguf.GGMLQuantizationType, tolerance: float
) -> None:
    """Names, permutation, tied embeddings and quantisation are undone; the config is found again."""
    path = tmp_path / "model.gguf"
    write_gguf(path, config, architecture, kind)
    save_file(tensors(config), tmp_path / "model.safetensors")
    found = LlamaConfig.read(path)

    assert found.norm_eps == pytest.approx(config.norm_eps)
    assert {n: getattr(found, n) for n in found.__slots__ if n != "norm_eps"} == {
        n: getattr(config, n) for n in config.__slots__ if n != "norm_eps"
    }
    assert same(load_weights(path, found), load_weights(tmp_path, config), tolerance)


def test_what_is_wrong_with_a_file_is_said(reference: Path, tmp_path: Path) -> None:
    """Missing tensors, wrong shapes and files that are something else: one line with the file's name."""
    bad = tmp_path / "bad.safetensors"
    named = tensors(TINY)
    named["model.norm.weight"] = torch.ones(7)
    save_file(named, bad)
    with pytest.raises(
        ValueError, match=r"bad\.safetensors: tensor model\.norm\.weight is \(7,\); .* \(32,\)"
    ):
        load_weights(bad, TINY)
    del named["model.norm.weight"]
    save_file(named, bad)
    with pytest.raises(ValueError, match=r"bad\.safetensors: tensor model\.norm\.weight is missing"):
        load_weights(bad, TINY)
    for name in ("text.safetensors", "text.gguf"):
        (tmp_path / name).write_text("not weights at all, but long enough to be read as a header")
        with pytest.raises(ValueError, match=name):
            load_weights(tmp_path / name, TINY)
    with pytest.raises(ValueError, match="no such file or folder"):
        load_weights(tmp_path / "absent", TINY)
    with pytest.raises(ValueError, match=r"text\.gguf: not a GGUF file"):
        LlamaConfig.read(tmp_path / "text.gguf")


def test_a_gguf_of_another_architecture_is_refused(tmp_path: Path) -> None:
    """The key, its value and the valid ones are named."""
    path = tmp_path / "model.gguf"
    write_gguf(path, LLAMA, "gemma", gguf.GGMLQuantizationType.F32)

    with pytest.raises(
        ValueError, match=r"key general\.architecture is 'gemma'; valid: 'llama', 'qwen2', 'q"
    ):
        LlamaConfig.read(path)
