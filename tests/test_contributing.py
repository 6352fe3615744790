"""CONTRIBUTING.md is true: its example is a policy that works under every invariant, its map is the imports."""

import ast
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver import Driver, Job, Load
from loads import Mode
from scenes import load_one

from aquasim.core import POLICIES, Limits, make_policy, replay
from aquasim.sim.simulate import Plan, simulate_system

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAME = "shortest-prompt"


@pytest.fixture
def example() -> Iterator[str]:
    """Run the guide's Python examples, in order; take the new policy out again afterwards."""
    before = dict(POLICIES)
    names: dict[str, object] = {"POLICIES": POLICIES, "__name__": "example"}
    for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    yield NAME
    POLICIES.clear()
    POLICIES.update(before)


def test_the_example_adds_one_policy(example: str) -> None:
    """One class and one line: the new name is known, and nothing else has changed."""
    assert list(POLICIES)[-1] == example
    assert make_policy(example).__class__.__name__ == "ShortestPrompt"


def test_the_guide_says_how_to_name_it() -> None:
    """The line for scenario files names the same policy as the line for POLICIES."""
    assert f'policy = "{NAME}"' in TEXT
    assert f'POLICIES["{NAME}"]' in TEXT


def test_a_scenario_can_name_it(example: str) -> None:
    """A short scenario runs under the new policy, and short prompts wait less than under fcfs."""
    changes = [f"systems.new.policy={example}", "workload.requests=120", "engine.kv_blocks=300"]
    plan = Plan.of(load_one("small-h100", changes))
    waits = {}
    for system in ("fcfs", "new"):
        metrics = simulate_system(plan, system).requests
        assert set(metrics["outcome"]) == {"finished"}
        short = metrics[metrics["prompt_tokens"] < 300]
        waits[system] = (short["first_token_ns"] - short["arrival_ns"]).mean()
    assert waits["new"] < waits["fcfs"] / 2


@pytest.mark.parametrize("mode", ["chunked", "prompt-only"])
@pytest.mark.parametrize("seed", range(20))
def test_it_keeps_every_invariant(example: str, mode: Mode, seed: int) -> None:
    """Random loads end, blocks are owned once, and replay gives the same commands."""
    rng = random.Random(seed)
    limits = Limits(
        blocks=20, block_size=4, max_num_seqs=8, max_num_batched_tokens=32, prefill=mode, max_repeat=64
    )
    jobs: list[Job] = [(rng.randint(0, 40), rng.randint(1, 40), rng.randint(1, 40), 0, ()) for _ in range(20)]
    driver = Driver(limits, make_policy(example), Load(jobs, {25: [3]}), seed).run()
    assert len(driver.outcome) == len(jobs)
    assert driver.scheduler.pool.free == limits.blocks
    assert replay(limits, make_policy(example), driver.records) == driver.commands


ALL = "everything"
SHARED = r"aquasim/(__version__|errors|processes)(/|$)"
"""What every folder may import beside itself."""


def _rows() -> dict[str, tuple[int, list[str]]]:
    """Return each folder of the guide's map with its row's number and the names of what it imports at once."""
    found: dict[str, tuple[int, list[str]]] = {}
    table = TEXT.partition("## Where things are")[2].partition("| `scenarios/`")[0]
    for number, line in enumerate(re.findall(r"^\| `.*", table, re.MULTILINE)):
        folders, _, allowed = (cell.strip() for cell in line.strip("|").split("|"))
        parts = re.sub(r" \([^)]*\)", "", allowed).split(";")
        at_once = ",".join(part for part in parts if not part.endswith(" lazily"))
        names = [ALL] if allowed.startswith(ALL) else [name.strip() for name in at_once.split(",")]
        found |= {folder.rstrip("/"): (number, names) for folder in re.findall(r"`([^`]+)`", folders)}
    return found


ROWS = _rows()


def _folder(place: str) -> str:
    """Return the folder (or file) of the map that a path like `aquasim/core/leases/donor` lies in; "" if in none."""
    parts = place.removesuffix(".py").split("/")
    ways = ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((name for way in ways for name in (f"{way}.py", way) if name in ROWS), "")


def _imported_at_once(path: Path) -> Iterator[str]:
    """Yield what a file imports when it is imported, outside of functions and `if TYPE_CHECKING`, as paths."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [name.name for name in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        for name in names:
            module = f"{node.module}.{name}" if isinstance(node, ast.ImportFrom) else name
            yield re.sub(r"^aquasim/(?=(runtime|calibrate)/)", "", module.replace(".", "/"))


def _may(place: str, folder: str) -> bool:
    """Say whether a row lets its folder import what is at `place`."""
    number, names = ROWS[folder]
    top, target = place.split("/")[0], _folder(place)
    if names == [ALL] or top in sys.stdlib_module_names or re.match(SHARED, place):
        return True
    if not target:
        return top.replace("_", "-") in names
    ways = [way for name in names for way in (name, f"aquasim/{name}", f"{folder.split('/')[0]}/{name}")]
    return ROWS[target][0] == number or any(target == way or target.startswith(f"{way}/") for way in ways)


@pytest.mark.parametrize("folder", ROWS)
def test_a_folder_imports_what_the_map_says(folder: str) -> None:
    """No file of a folder imports at once what the last column does not name; lazy imports are free."""
    whole = ROOT / folder
    files = [(str(path.relative_to(ROOT)), path) for path in [whole, *whole.rglob("*.py")] if path.is_file()]
    own = [(name, path) for name, path in files if _folder(name) == folder]
    assert own
    assert [(name, m) for name, path in own for m in _imported_at_once(path) if not _may(m, folder)] == []


def test_the_map_has_every_folder() -> None:
    """Every package of the three trees is in a row."""
    inits = [
        path for top in ("aquasim", "calibrate", "runtime") for path in (ROOT / top).glob("*/__init__.py")
    ]
    packages = [str(path.parent.relative_to(ROOT)) for path in inits if not path.parent.is_symlink()]
    assert len(packages) > 30
    assert [name for name in packages if not _folder(name)] == []
