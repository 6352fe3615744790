"""Where the peer environment is, and the process that runs in it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
PEER = Path(os.environ.get("AQUASIM_PEER", HERE.parents[1] / ".venv-peer"))

sys.path.insert(0, str(HERE))

from process import Vllm  # noqa: E402


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """vLLM's scheduler, in its own environment."""
    if not any(PEER.glob("peer-ready-*")):
        pytest.skip(f"no vLLM in {PEER}: `make peer` (or tests/peer/setup.sh {PEER}) installs it")
    peer = Vllm(PEER / "bin" / "python", tmp_path_factory.mktemp("peer") / "stderr.txt")
    yield peer
    peer.close()
