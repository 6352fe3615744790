"""Puts the faults of mutants.toml into the lease machines, one by one: a test must find each.

python tests/core/leases/mutants.py [pytest arguments]
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[2] / "aquasim"
LEASES = Path("aquasim/core/leases")

MUTANTS = tomllib.loads((HERE / "mutants.toml").read_text(encoding="utf-8"))["mutant"]


def survives(copy: Path, module: str, old: str, new: str, *arguments: str) -> tuple[bool, str]:
    """Say whether the tests pass with one text replaced, and which failed first."""
    path = copy / LEASES / f"{module}.py"
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{module}: {text.count(old)} times: {old}"
    path.write_text(text.replace(old, new), encoding="utf-8")
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-q",
        "-x",
        "--no-header",
        "--hypothesis-profile=unshrunk",
    ]
    command += ["-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    path.write_text(text, encoding="utf-8")
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert done.returncode == bool(failed), done.stdout[-2000:] + done.stderr
    return not failed, failed[0].split(" - ")[0][7:] if failed else ""


def main(arguments: list[str]) -> int:
    """Try every mutant; print who caught it; return how many survived."""
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copytree(
            PACKAGE, copy / "aquasim", symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
        for mutant in MUTANTS:
            module, wrong, old, new = (mutant[key] for key in ("module", "wrong", "old", "new"))
            alive, test = survives(copy, module, old, new, *(arguments or [str(HERE), "-m", "not slow"]))
            survivors += alive
            print(f"{module:12} {wrong:36} {'SURVIVES' if alive else test}", flush=True)
    return survivors


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
