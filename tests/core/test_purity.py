"""The core imports nothing but the standard library, and importing it loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import aquasim.core

FOLDER = Path(aquasim.core.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))
HEAVY = ("simpy", "numpy", "pandas", "torch", "scipy", "pyarrow", "pydantic", "typer", "rich")
IMPURE = ("time", "random", "secrets", "logging", "threading", "asyncio", "socket", "os", "subprocess")


def imports(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports, relative ones as `.`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module if node.level == 0 and node.module else ".")
    return names


def is_core(name: str) -> bool:
    """Say whether a module is part of the core."""
    return name == "aquasim.core" or name.startswith("aquasim.core.")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_the_core_imports_the_standard_library_and_itself_only(path: Path) -> None:
    """Every import of every core module is `aquasim.core...` or of the standard library, never relative."""
    foreign = {n for n in imports(path) if not is_core(n) and n.split(".")[0] not in sys.stdlib_module_names}
    assert not foreign


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_the_core_has_no_clock_no_randomness_and_no_devices(path: Path) -> None:
    """No core module imports what reads a clock, draws random numbers, logs, or reaches a device."""
    assert not {name.split(".")[0] for name in imports(path)} & set(IMPURE)


@pytest.mark.parametrize("module", ["aquasim", "aquasim.core", "aquasim.cli.app"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    """`import aquasim` and `import aquasim.core` load no third-party package; the CLI only typer and rich."""
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    allowed = {"typer", "rich"} if module == "aquasim.cli.app" else set()
    assert not set(shown.split()) & set(HEAVY) - allowed
