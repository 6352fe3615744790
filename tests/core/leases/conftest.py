"""Lets the tests of this folder share modules; mutants.py wants to know that a test fails, not the shortest way."""

import sys
from pathlib import Path

from hypothesis import Phase, settings

sys.path.insert(0, str(Path(__file__).resolve().parent))
settings.register_profile("unshrunk", phases=[Phase.explicit, Phase.generate], database=None)
