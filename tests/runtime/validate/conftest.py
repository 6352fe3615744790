"""A tiny scenario for this machine, with a profile that was measured in a second."""

import json
from pathlib import Path
from typing import Any

import pytest

from aquasim.hardware import local
from aquasim.hardware.profile import FOLDER
from aquasim.models import load_model

TINY = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": 256, "max_position_embeddings": 512, "torch_dtype": "float16", "hidden_act": "silu",
}  # fmt: skip
CHANGES = (
    "engine.kv_blocks=40",
    "engine.max_model_len=160",
    "engine.max_num_seqs=16",
    "engine.max_num_batched_tokens=64",
    "machine.host_gib=0.01",
    "machine.peer_gib=0.01",
    "workload.requests=16",
    'workload.arrivals={kind="poisson", rate=200}',
    'workload.prompt={kind="uniform", low=20, high=80}',
    'workload.output={kind="uniform", low=10, high=60}',
)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model (`tiny.json`) and its profile of this machine (`local.json`)."""
    pytest.importorskip("torch")
    from aquasim.calibrate.engine.local import runtime_block
    from aquasim.calibrate.engine.points import Ranges

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    block: dict[str, Any] = json.loads((FOLDER / "h100.json").read_text())
    ranges = Ranges(16, 64, 160, 40, 16)
    measured = runtime_block(load_model(folder / "tiny.json"), ranges, "cpu", 1, None)
    block |= {"name": "local", "runtime": {**measured, "threads": 1, "machine": local.machine()}}
    (folder / "local.json").write_text(local.text_of(block))
    return folder


@pytest.fixture(scope="session")
def sets(tiny: Path) -> list[str]:
    """Return what makes burst-local tiny."""
    return [f"model.name={tiny / 'tiny.json'}", f"machine.profile={tiny / 'local.json'}", *CHANGES]
