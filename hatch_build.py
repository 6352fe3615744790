"""Compiles the hot modules with mypyc while a wheel is built; without a C compiler the wheel is plain Python.

The same source runs either way: three times as many simulated requests per CPU second when compiled. Editable
installs stay plain, so that an edit takes effect. AQUASIM_PURE=1 asks for a plain wheel.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULES = (
    "aquasim/core/request.py",
    "aquasim/core/batch.py",
    "aquasim/core/blocks.py",
    "aquasim/core/pager.py",
    "aquasim/core/slices.py",
    "aquasim/core/chunked.py",
    "aquasim/core/sides.py",
    "aquasim/core/hosts.py",
    "aquasim/core/lanes.py",
    "aquasim/core/beside.py",
    "aquasim/core/predictor.py",
    "aquasim/core/prompts.py",
    "aquasim/core/scheduler.py",
    "aquasim/hardware/attention.py",
    "aquasim/hardware/cost.py",
    "aquasim/hardware/throttle.py",
    "aquasim/sim/clock.py",
    "aquasim/sim/engine.py",
)
BUILD = """
import os
import sys
from setuptools import setup
from mypyc.build import mypycify

os.environ["CFLAGS"] = f"{os.environ.get('CFLAGS', '')} -ffp-contract=off"  # no fused products: as Python adds
flags = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
setup(name="aquasim", ext_modules=mypycify([*flags, *sys.argv[2:]], group_name="aquasim.native", opt_level="3"),
      script_args=["build_ext", "--inplace"])
"""


class CompileHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds compiled modules to standard wheels."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile in a copy of the tree and include what came out."""
        if version != "standard" or os.environ.get("AQUASIM_PURE") == "1":
            return
        self.folder = Path(tempfile.mkdtemp(prefix="aquasim-build-"))
        found = self._compile(self.folder)
        if not found:
            self.app.display_warning("no compiled modules: building a plain wheel, slower but the same")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for path in found:
            build_data["force_include"][str(path)] = str(path.relative_to(self.folder))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the copy."""
        shutil.rmtree(getattr(self, "folder", ""), ignore_errors=True)

    def _compile(self, folder: Path) -> list[Path]:
        """Return the extension modules that mypyc and the C compiler made, or none."""
        shutil.copytree(Path(self.root) / "aquasim", folder / "aquasim", symlinks=True)
        command = [sys.executable, "-c", BUILD, "build", *MODULES]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            self.app.display_warning(done.stdout[-500:] + done.stderr[-1000:])
            return []
        return sorted((folder / "aquasim").rglob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"))
