"""vLLM's scheduler as a process to ask."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}


class Vllm:
    """A running `drive_vllm.py`: one question, one answer."""

    def __init__(self, python: Path, errors: Path) -> None:
        self.errors = errors
        with errors.open("w") as stderr:
            self.process = subprocess.Popen(
                [python, Path(__file__).with_name("drive_vllm.py")],
                env={**os.environ, **QUIET},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def ask(self, workload: dict[str, Any]) -> dict[str, Any]:
        """Return what vLLM's scheduler decides about a workload."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(workload) + "\n")
            stdin.flush()
            answer: dict[str, Any] = json.loads(stdout.readline())
        except (BrokenPipeError, ValueError):
            raise RuntimeError(f"drive_vllm.py failed:\n{self.errors.read_text()[-2000:]}") from None
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.communicate(timeout=60)
