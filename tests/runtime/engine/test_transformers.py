"""Against Hugging Face's own models, where transformers is installed: their files, their logits."""

from pathlib import Path
from typing import Any

import pytest
import torch

from aquasim.runtime.engine import KvPool, LlamaConfig, Prefill, Runner, load_weights

pytestmark = pytest.mark.filterwarnings("ignore")
SIZES = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 256, "head_dim": 8,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32, "rope_theta": 500.0,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"rope_parameters": LLAMA3},
    "Mistral": {"sliding_window": None},
    "Qwen2": {"tie_word_embeddings": True},
    "Qwen3": {},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_models_give_the_same_logits(family: str, tmp_path: Path) -> None:
    """A random model is saved by transformers, read here, and gives its logits within 1e-4."""
    transformers = pytest.importorskip("transformers")
    options: dict[str, Any] = SIZES | FAMILIES[family]
    torch.manual_seed(0)
    shape = getattr(transformers, f"{family}Config")(**options)
    theirs = getattr(transformers, f"{family}ForCausalLM")(shape).eval()
    for name, tensor in theirs.state_dict().items():
        noise = torch.randn(tensor.shape)
        tensor.copy_(1 + 0.1 * noise if "norm" in name else 0.3 * noise)
    theirs.save_pretrained(tmp_path)
    config = LlamaConfig.read(tmp_path)
    engine = Runner(config, load_weights(tmp_path, config), KvPool.of(config, 12, 4))
    tokens = torch.randint(0, 97, (40,)).tolist()
    with torch.no_grad():
        expected = theirs(torch.tensor([tokens])).logits[0]

    for last in (1, 7, 33, 40):
        found = engine.logits([Prefill(1, tokens[:last], 0, list(range(12)))])[0]
        assert (found - expected[last - 1]).abs().max() < 1e-4
