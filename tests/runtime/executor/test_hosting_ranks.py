"""NEO's requirement N19: two ranks, each with half of the KV heads on both tiers and threads of its own to attend."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

pytest.importorskip("torch")
sys.path.append(str(Path(__file__).parent))

from hosting_rank import CONFIG, LANED, play


@pytest.fixture(scope="module")
def ranks() -> Iterator[list[dict[str, Any]]]:
    """What two processes say and did, by policy."""
    program = Path(__file__).parent / "hosting_rank.py"
    with TemporaryDirectory() as folder:  # a short path: it is a socket's too
        words = [[sys.executable, str(program), str(rank), "2", folder] for rank in range(2)]
        started = [
            subprocess.Popen(w, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for w in words
        ]
        try:
            outputs = [rank.communicate(timeout=120) for rank in started]
        finally:
            for rank in started:
                rank.kill()
                rank.wait()
        assert [rank.returncode for rank in started] == [0, 0], outputs
        yield [json.loads(out) for out, _ in outputs]


@pytest.mark.parametrize("name", LANED)
def test_n19_two_ranks_with_hosts_say_what_one_says(ranks: list[dict[str, Any]], name: str) -> None:
    """Tokens are one rank's; commands are equal; each host attends to and holds its half of the KV heads.

    Rank 1's own tables would never have its host decode: it weighs by rank 0's, or the ranks would part.
    """
    one, (lead, other) = play(name), [rank[name] for rank in ranks]
    assert lead["output"] == one["output"]
    assert lead["commands"] == other["commands"]
    assert lead["kv_heads"] == other["kv_heads"] == CONFIG.kv_heads // 2
    for part in ("computed", "staged", "moved"):
        assert lead[part] == other[part]
    assert lead["computed"] > 0
    assert lead["staged"] > 0
    assert (lead["moved"] > 0) == (name != "fastdecode")
    if name == "fastdecode":  # it does not depend on when copies land
        assert (lead["computed"], 2 * lead["staged"]) == (one["computed"], one["staged"])
