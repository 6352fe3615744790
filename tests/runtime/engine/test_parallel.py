"""Two processes with half a model and half a pool each say what one process says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from engine_rank import CONFIGS, generate

TOLERANCE = 2e-5  # float32: sums over inputs are split in two and added in another order


def test_two_ranks_are_one(tmp_path: Path) -> None:
    """Equal tokens, greedy and sampled, on both ranks; logits within a tolerance; KV heads split or shared."""
    program = Path(__file__).parent / "engine_rank.py"
    words = [[sys.executable, str(program), str(rank), "2", str(tmp_path / "meet")] for rank in range(2)]
    ranks = [subprocess.Popen(w, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for w in words]
    try:
        outputs = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    found = [json.loads(out) for out, _ in outputs]

    for name, config in CONFIGS.items():
        expected = generate(config)
        first, second = (part[name] for part in found)
        assert first == second
        assert first["kv_heads"] == max(1, config.kv_heads // 2)
        assert first["tokens"] == expected["tokens"]
        difference = np.abs(np.array(first["logits"]) - np.array(expected["logits"])).max()
        assert 0 <= difference < TOLERANCE
    assert torch.get_num_threads() == 1
