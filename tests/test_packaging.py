"""What is built: one top-level name, everything that ships in it, and a wheel that works by itself."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import aquasim

ROOT = Path(__file__).parent.parent
NOISE = {".git", ".venv", ".venv-peer", "build", "dist", "shared", "__pycache__"}


def sources() -> list[Path]:
    """Return the repository's files, links as links: those that git tracks, or all where there is no git."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        return [Path(name) for name in listed.decode().split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        found = []
        for folder, folders, files in os.walk(ROOT):
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            folders[:] = [name for name in folders if name not in NOISE and not name.startswith(".")]
            found += [(Path(folder) / name).relative_to(ROOT) for name in [*files, *links]]
        return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the repository as it would be cloned."""
    copy = tmp_path_factory.mktemp("clone") / "aquasim"
    for name in sources():
        if os.path.lexists(ROOT / name):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    return copy


def build(tree: Path, kind: str) -> Path:
    """Build a wheel or an sdist with what is installed, and return it."""
    out = tree.parent / kind
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    """Build the wheel once."""
    return build(tree, "wheel")


@pytest.fixture(scope="module")
def target(wheel: Path) -> Path:
    """Install the wheel alone into a folder of its own."""
    folder = wheel.parent.parent / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(folder), str(wheel)], check=True, capture_output=True)
    return folder


def run_installed(target: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the installed package from elsewhere."""
    environment = os.environ | {"PYTHONPATH": str(target)}
    return subprocess.run(
        [sys.executable, "-m", "aquasim", *words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=target.parent,
    )


def test_the_wheel_has_one_top_level_name(wheel: Path) -> None:
    """Nothing beside `aquasim` and its metadata gets into site-packages."""
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert tops == {"aquasim", f"aquasim-{aquasim.__version__}.dist-info"}


def test_the_wheel_holds_what_links_point_to(wheel: Path, tree: Path) -> None:
    """Folders reached through links are in the wheel as real files, all of them, beside data and type marker."""
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    expected = {"aquasim/py.typed", "aquasim/calibrate/__init__.py", "aquasim/runtime/__init__.py"}
    for folder, pattern in (("calibrate", "*.py"), ("runtime", "*.py"), ("scenarios", "*.toml")):
        expected |= {
            f"aquasim/{folder}/{path.relative_to(tree / folder)}" for path in (tree / folder).rglob(pattern)
        }
    profiles = (tree / "aquasim" / "hardware" / "profiles").glob("*.json")
    expected |= {f"aquasim/hardware/profiles/{path.name}" for path in profiles}
    assert len(expected) > 15
    assert expected <= held


def test_the_installed_wheel_works_by_itself(target: Path) -> None:
    """Scenarios are found in the installed package, and one runs."""
    done = run_installed(target, "scenarios", "--json")
    assert done.returncode == 0, done.stderr
    files = [Path(row["file"]) for row in json.loads(done.stdout).values()]
    assert files
    assert all(file.is_relative_to(target) for file in files)
    done = run_installed(target, "run", "small-h100", "--set", "workload.requests=5", "--json")
    assert json.loads(done.stdout)["requests_done"] == 5


def test_the_sdist_builds_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    """The source archive has documents and tests, linked folders as real ones, and all that the wheel needs."""
    with tarfile.open(build(tree, "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    wanted = ("README.md", "LICENSE", "CONTRIBUTING.md", "Makefile", "tests/conftest.py", "aquasim/scenarios")
    assert [name for name in wanted if not (unpacked / name).exists()] == []
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(build(unpacked, "wheel")) as second:
        assert sorted(first.namelist()) == sorted(second.namelist())
