"""Every shipped scenario loads, says what it asks and why, and runs short under each of its systems."""

from pathlib import Path

import pytest
from scenes import load_one

from aquasim.core import POLICIES
from aquasim.errors import UserError
from aquasim.hardware.local import LOCAL
from aquasim.scenario import Scenario, ServerScenario, load_scenario, scenario_names
from aquasim.scenario.load import FOLDER
from aquasim.scenario.schema import SystemTable
from aquasim.scenario.server import LlmTable
from aquasim.sim.simulate import Plan, simulate_system
from aquasim.sim.tenants.plan import SystemPlan
from aquasim.sim.tenants.simulate import simulate_tenants

ALL = {name: load_scenario(name) for name in scenario_names()}
NAMES = [name for name, each in ALL.items() if isinstance(each, Scenario) and each.machine.server != LOCAL]
"""Those of one engine. What runs on the machine at hand needs its profile (tests/runtime/validate)."""
SHARED = {name: scenario for name, scenario in ALL.items() if isinstance(scenario, ServerScenario)}
SHORT = ["workload.requests=20"]


def test_the_folder_holds_scenarios_only() -> None:
    """What is in scenarios/ ships: TOML files, each known by its name, placements, studies and sweeps."""
    files = [path.relative_to(FOLDER).with_suffix("") for path in FOLDER.rglob("*.*")]
    assert sorted(str(file) for file in files if not file.suffix) == sorted(ALL)
    assert {file.suffix for file in files} <= {"", ".place", ".study", ".sweep"}
    assert "burst-h100" in NAMES
    assert "aqua/s1-responsiveness" in SHARED


@pytest.mark.parametrize("name", ALL)
def test_a_scenario_says_what_it_asks(name: str) -> None:
    """A question, a source, an expectation, and a baseline among its systems; every policy is known."""
    scenario = ALL[name]
    assert scenario.question.endswith("?") or "." in scenario.question
    assert scenario.source
    assert scenario.expect
    assert scenario.baseline in scenario.systems
    if isinstance(scenario, Scenario):
        assert {system.policy for system in scenario.systems.values()} <= POLICIES.keys()


@pytest.mark.parametrize(("name", "system"), [(n, s) for n in SHARED for s in SHARED[n].systems])
def test_a_shared_server_runs_short(name: str, system: str) -> None:
    """Every tenant of a scenario is done after a few requests and seconds, with all of its tokens."""
    plan = SystemPlan.of(SHARED[name], system, short(SHARED[name]))
    run = simulate_tenants(plan)
    for tenant, llm in plan.llms.items():
        requests = run.only(tenant).columns("requests")
        longest = (llm.max_model_len - llm.workload.prompt).clip(min=1)
        order = requests["request"].argsort()
        assert (requests["output_tokens"][order] == llm.workload.output.clip(max=longest)).all()
    for tenant in plan.tenants.keys() - plan.llms.keys():
        assert run.only(tenant).count("work") > 0


def short(scenario: ServerScenario) -> dict[str, object]:
    """Changes that make a scenario with tenants end soon."""
    llms = [name for name, table in scenario.tenants.items() if isinstance(table, LlmTable)]
    cut: dict[str, object] = {"duration_s": 2.0}
    for name in llms:
        cut |= {f"tenants.{name}.workload.requests": 8, f"tenants.{name}.start_s": 1.0}
    return cut


@pytest.mark.parametrize(("name", "system"), [(n, s) for n in NAMES for s in load_scenario(n).systems])
def test_a_scenario_runs_short(name: str, system: str) -> None:
    """Twenty requests end under every system, each with all of its tokens."""
    plan = Plan.of(load_one(name, SHORT))
    run = simulate_system(plan, system)
    requests = run.columns("requests")
    assert sorted(requests["request"].tolist()) == list(range(20))
    assert set(run.requests["outcome"]) == {"finished"}
    order = requests["request"].argsort()
    longest = plan.llm.max_model_len - plan.workload.prompt
    assert (requests["output_tokens"][order] == plan.workload.output.clip(max=longest.clip(min=1))).all()


@pytest.mark.parametrize("name", NAMES)
def test_systems_of_a_scenario_share_one_workload(name: str) -> None:
    """A plan is made once: two plans of one seed hold the same requests, another seed others."""
    one, same, other = (
        Plan.of(load_one(name, [*SHORT, seed])).workload for seed in ("seed=1", "seed=1", "seed=2")
    )
    assert (one.arrival == same.arrival).all()
    assert (one.prompt == same.prompt).all()
    assert not (one.prompt == other.prompt).all()


# --- single values changed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "path", "value"),
    [
        ("seed=7", ("seed",), 7),
        ("engine.kv_blocks=123", ("engine", "kv_blocks"), 123),
        ("engine.prefix_caching=true", ("engine", "prefix_caching"), True),
        ("model.name=Qwen3-14B", ("model", "name"), "Qwen3-14B"),
        ('model.name="Qwen3-14B"', ("model", "name"), "Qwen3-14B"),
        (" machine.peer_gib = 2.5 ", ("machine", "peer_gib"), 2.5),
        ("machine.donors=[3]", ("machine", "donors"), (3,)),
        ("question=Why = how?", ("question",), "Why = how?"),
    ],
)
def test_a_change_sets_one_value(change: str, path: tuple[str, ...], value: object) -> None:
    """`key=value`: a TOML value, or a bare string; spaces around either do not count."""
    found: object = load_scenario("small-h100", [change])
    for key in path:
        found = getattr(found, key)
    assert found == value


def test_changes_leave_everything_else_alone() -> None:
    """Only the named key differs."""
    plain = load_scenario("small-h100").model_dump()
    changed = load_scenario("small-h100", ["engine.block_size=32"]).model_dump()
    plain["engine"]["block_size"] = 32
    assert changed == plain


def test_later_changes_win_and_tables_may_be_replaced_or_made() -> None:
    """Changes apply in order; a whole table can be given; a new system needs no more than a policy."""
    scenario = load_one(
        "small-h100",
        [
            "seed=3",
            "seed=4",
            'workload.arrivals={kind="poisson", rate=2}',
            'systems.mine.policy="cfs"',
            "systems.mine.options.slice_length=2",
            'systems."my.own".policy=fcfs',
        ],
    )
    assert scenario.seed == 4
    assert scenario.workload.arrivals is not None
    assert scenario.workload.arrivals.kind == "poisson"
    mine, own = scenario.systems["mine"], scenario.systems["my.own"]
    assert isinstance(mine, SystemTable)
    assert isinstance(own, SystemTable)
    assert mine.options == {"slice_length": 2}
    assert own.policy == "fcfs"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("seed", "--set seed: write path.to.key=value"),
        ("=3", "--set =3: write path.to.key=value"),
        ("workload..requests=5", "--set workload..requests=5: write path.to.key=value"),
        ("seed.x=3", "--set seed.x: 'seed' is a value, not a table"),
        ("engine.block_size=0", "--set engine.block_size=0: engine.block_size is 0"),
        ("sead=3", "--set sead=3: unknown key 'sead'; did you mean 'seed'?"),
        ("systems.fcfs.policie=3", "--set systems.fcfs.policie=3: unknown key 'systems.fcfs.policie'; did"),
    ],
)  # fmt: skip
def test_a_faulty_change_is_quoted(change: str, text: str) -> None:
    """The error begins with the change as given, in one line."""
    with pytest.raises(UserError) as caught:
        load_scenario("small-h100", [change])
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_a_file_is_found_by_path(tmp_path: Path) -> None:
    """A path works as a name does; a file that is not there is named."""
    copy = tmp_path / "mine.toml"
    copy.write_text((FOLDER / "small-h100.toml").read_text())
    assert load_scenario(str(copy)) == load_scenario("small-h100")
    with pytest.raises(UserError, match=r"gone\.toml: no such scenario file"):
        load_scenario(str(tmp_path / "gone.toml"))


def test_scenarios_are_frozen() -> None:
    """A loaded scenario cannot be changed in place."""
    scenario = load_scenario("small-h100")
    with pytest.raises(ValueError, match="frozen"):
        scenario.seed = 2
