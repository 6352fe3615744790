"""A scenario on this machine: real tokens, real pages, the records and errors of every other run."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from aquasim.cli.app import main
from aquasim.core import replay
from aquasim.core.limits import Limits
from aquasim.errors import UserError
from aquasim.records.store import load
from aquasim.runtime.local import Options, run_local
from aquasim.runtime.local.prompts import prompt_tokens
from aquasim.scenario import Scenario, load_scenario
from aquasim.sim.simulate import Plan

pytest.importorskip("torch")

TINY = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": 256, "max_position_embeddings": 2048, "torch_dtype": "float16", "hidden_act": "silu",
}  # fmt: skip
CHANGES = [
    "engine.kv_blocks=60",
    "engine.max_model_len=512",
    "machine.host_gib=0.05",
    "workload.requests=12",
    'workload.arrivals={kind="poisson", rate=400}',
    'workload.prompt={kind="uniform", low=20, high=80}',
    'workload.output={kind="uniform", low=20, high=120}',
]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A dozen requests that overflow the cache of a tiny model."""
    return made(tmp_path)


def made(folder: Path, *changes: str) -> Plan:
    """Return the plan of small-h100 with a tiny model."""
    file = folder / "tiny.json"
    file.write_text(json.dumps(TINY))
    scenario = load_scenario("small-h100", [f"model.name={file}", *CHANGES, *changes])
    assert isinstance(scenario, Scenario)
    return Plan.of(scenario)


@pytest.mark.parametrize("system", ["fcfs", "cfs-host", "fcfs-swap", "mlfq"])
def test_a_system_runs_for_real(plan: Plan, system: str) -> None:
    """Every request ends with all of its tokens; pages moved where the policy pages; decisions replay."""
    run = run_local(plan, system, Options(device="cpu", check="always"))
    requests = run.requests.sort_values("request")
    assert (requests.outcome == "finished").all()
    assert (requests.output_tokens.to_numpy() == plan.workload.output).all()
    assert (requests.arrival_ns.to_numpy() == plan.workload.arrival).all()
    assert (requests.first_token_ns > requests.arrival_ns).all()
    assert len(run.preemptions) > 0
    if system == "cfs-host":
        assert run.summary()["paged_bytes"]["host_in"] > 0
        assert (run.transfers.end_ns > run.transfers.start_ns).all()
        assert run.transfers.start_ns.min() >= 0
    assert run.meta["repaired"] == 0
    commands = replayed(plan, system, run)
    assert sum(hasattr(command, "batch") for command in commands) == len(run.steps)


def replayed(plan: Plan, system: str, run: object) -> list[object]:
    """Return the commands that the run's events give once more."""
    table = plan.scenario.systems[system]
    tiers = tuple(("host", plan.llm.blocks_of(plan.scenario.machine.host_gib)) for _ in table.tiers)
    limits: Limits = plan.llm.limits(table.policy, tiers, fused=False)
    log = run.log  # type: ignore[attr-defined]
    return list(replay(limits, plan.llm.policy(table, system), log))


def test_arrivals_can_be_accelerated(tmp_path: Path) -> None:
    """Ten times as fast: the same requests, arrivals at a tenth of their times."""
    plan = made(tmp_path)
    run = run_local(plan, "fcfs", Options(device="cpu", accelerate=10))
    found = run.requests.sort_values("request").arrival_ns.to_numpy()
    assert found == pytest.approx(plan.workload.arrival / 10, abs=1)


def test_prompts_are_equal_where_prefixes_are() -> None:
    """The same hashes give the same tokens, in any request; the rest differs; all are in the vocabulary."""
    one, two, other = (
        prompt_tokens(id, 20, prefix, 4, 97, 5) for id, prefix in ((1, (7, 8)), (2, (7, 8)), (1, (7, 9)))
    )
    assert one[:8] == two[:8]
    assert one[8:] != two[8:]
    assert one[:4] == other[:4]
    assert one[4:8] != other[4:8]
    assert len(one) == 20
    assert max(one) < 97
    assert prompt_tokens(1, 20, (7, 8), 4, 97, 5) == one
    assert prompt_tokens(1, 20, (7, 8), 4, 97, 6) != one


@pytest.mark.parametrize(
    ("system", "changes", "options", "text"),
    [
        ("what", (), {}, "unknown system 'what'; the scenario has: fcfs"),
        ("cfs-peer", (), {}, "systems.cfs-peer pages to peers: start `aquasim coordinator`"),
        (
            "fcfs",
            ("engine.kv_blocks=10000000", "model.name=Mistral-7B"),
            {},
            "engine.kv_blocks is 10000000, but Mistral-7B",
        ),
        ("fcfs", ("model.name=Llama-2-70B", "engine.kv_blocks=40"), {}, "model Llama-2-70B does not fit"),
        ("fcfs", ("model.name=CodeLlama-34B",), {}, "CodeLlama-34B: weights of 1"),
        ("fcfs", ("model.name=OPT-30B",), {}, "fcfs: model OPT-30B: gated_mlp is False"),
        ("fcfs", (), {"device": "tpu"}, "--device 'tpu': valid are auto, cpu, cuda"),
        ("fcfs", (), {"accelerate": 0.0}, "--accelerate 0: a number above 0"),
        ("fcfs", (), {"check": "maybe"}, "--check 'maybe': valid are off, sampled, always"),
    ],
)
def test_what_cannot_run_is_one_line(
    tmp_path: Path, system: str, changes: tuple[str, ...], options: dict[str, object], text: str
) -> None:
    """What this machine or the engine lacks is said in one line, before anything is loaded."""
    with pytest.raises(UserError) as caught:
        run_local(made(tmp_path, *changes), system, Options(**({"device": "cpu"} | options)))  # type: ignore[arg-type]
    assert str(caught.value).startswith(text), str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_runs_and_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`aquasim run --on hardware`: JSON, a run folder that loads, and what it ran on."""
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    words = ["run", "small-h100", "--system", "cfs-host", "--on", "hardware", "--device", "cpu", "--json"]
    sets = [
        word for change in [f"model.name={tmp_path / 'tiny.json'}", *CHANGES] for word in ("--set", change)
    ]
    monkeypatch.setattr(sys, "argv", ["aquasim", *words, *sets, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert not caught.value.code
    shown = capsys.readouterr()
    assert json.loads(shown.out)["requests_done"] == 12
    assert "cpu, float32, weights random" in shown.err
    run = load(tmp_path / "run")
    assert run.meta["on"] == "hardware"
    assert np.array_equal(np.sort(run.columns("requests")["request"]), np.arange(12))
