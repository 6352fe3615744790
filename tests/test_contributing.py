"""The example in CONTRIBUTING.md is a policy that works: in a scenario by its name, and under every invariant."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver import Driver, Job, Load
from loads import Mode
from scenes import load_one

from aquasim.core import POLICIES, Limits, make_policy, replay
from aquasim.sim.simulate import Plan, simulate_system

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
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
