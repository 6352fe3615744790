"""Shared fixtures and paths."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / name) for name in ("core", "common")]
