"""A scenario of NEO on this machine, from its file to its records, and the tables that its scheduler weighs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from host_model import CONFIG, made
from scenes import load_one

from aquasim.calibrate.engine import lanes
from aquasim.calibrate.hardware import replayed
from aquasim.cli.app import main
from aquasim.core import Limits, make_policy
from aquasim.core.predictor import Predictor
from aquasim.errors import UserError
from aquasim.records.run import Run
from aquasim.runtime.engine import KvPool, Runner, random_weights
from aquasim.runtime.local import Options, build, run_local
from aquasim.runtime.local.lanes import Host
from aquasim.runtime.local.plan import hardware_plan
from aquasim.scenario import Scenario, load_scenario
from aquasim.sim.simulate import Plan

TINY = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": 256, "max_position_embeddings": 2048, "torch_dtype": "float32", "hidden_act": "silu",
}  # fmt: skip
CHANGES = [
    "engine.kv_blocks=24",
    "engine.max_model_len=128",
    "engine.max_num_batched_tokens=128",
    "machine.host_gib=0.01",
    "workload.requests=16",
    'workload.arrivals={kind="poisson", rate=400}',
    'workload.prompt={kind="uniform", low=20, high=60}',
    'workload.output={kind="uniform", low=10, high=40}',
]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder for all tests here: tables and the kernel are made once."""
    folder = tmp_path_factory.getbasetemp() / "host-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def plan(folder: Path, *changes: str) -> Plan:
    """Return neo/local with a tiny model and few requests."""
    file = folder / "tiny.json"
    file.write_text(json.dumps(TINY))
    scenario = load_scenario("neo/local", [f"model.name={file}", *CHANGES, *changes])
    assert isinstance(scenario, Scenario)
    return hardware_plan(scenario, Options(device="cpu"))


def ran(folder: Path, system: str, *changes: str) -> tuple[Plan, Run]:
    """Run one system for real."""
    made_plan = plan(folder, *changes)
    return made_plan, run_local(made_plan, system, Options(device="cpu", check="always"))


@pytest.mark.parametrize("system", ["gpu-only", "neo", "fastdecode"])
def test_a_system_runs_for_real_and_replays(system: str, tmp_path: Path) -> None:
    """Every request ends with all of its tokens; the events, fed to a fresh core, give the same commands."""
    made_plan, run = ran(tmp_path, system)
    requests = run.requests.sort_values("request")
    assert (requests.outcome == "finished").all()
    assert (requests.output_tokens.to_numpy() == made_plan.workload.output).all()
    assert replayed.check(made_plan, system, run).differs is None
    assert run.meta["repaired"] == 0
    lanes_of = run.columns("spans")["lane"].tolist()
    if system == "fastdecode":
        assert set(lanes_of) == {1}
    if system == "gpu-only":
        assert set(lanes_of) == {0}
        assert run.meta["predictor"] is None


def layouts(device: str) -> list[tuple[Any, ...]]:
    """Return shape, bytes of a block and type of a runner's pool and of the host's that it is given."""
    limits = Limits(
        blocks=8,
        block_size=16,
        max_num_seqs=4,
        max_num_batched_tokens=64,
        max_model_len=64,
        tiers=(("host", 8),),
    )
    pool = KvPool.of(CONFIG, 8, limits.block_size, device=device)
    runner = Runner(CONFIG, random_weights(CONFIG, 3, device=device), pool, device=device, max_seqs=4)
    host = Host(runner, make_policy("neo"), limits, device)
    assert runner.host is not None
    assert device == "cpu" or runner.host.pool.data.is_pinned()
    found = [(each.data.shape, each.block_bytes, each.data.dtype) for each in (pool, runner.host.pool)]
    host.close()
    return found


def test_n1_both_tiers_have_blocks_of_16_in_one_layout() -> None:
    """So that a block is moved as it lies: the shipped scenarios' blocks, the host's pool as the device's."""
    for name in ("code-2xh100", "code-a10g", "length-2xh100", "length-a10g", "length-t4", "local", "osc-t4"):
        assert load_one(f"neo/{name}").engine.block_size == 16
    ours, there = layouts("cpu")
    assert ours == there


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_n1_the_hosts_pool_is_pinned() -> None:
    """And in the device's layout, where the device is a GPU."""
    ours, there = layouts("cuda")
    assert ours == there


def test_a_host_too_small_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, naming the blocks and the length, before any table is measured."""
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps(TINY))
    changes = [f"model.name={file}", *CHANGES, "machine.host_gib=0.00005"]
    sets = [word for change in changes for word in ("--set", change)]
    words = ["run", "neo/local", "--on", "hardware", "--device", "cpu", "--system", "neo", *sets]
    monkeypatch.setattr("sys.argv", ["aquasim", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert "host's KV cache of" in said
    assert "holds no request of max_model_len" in said
    assert "\n" not in said


# --- tables -------------------------------------------------------------------------------------------------------


LIMITS = Limits(
    blocks=60,
    block_size=4,
    max_num_seqs=6,
    max_num_batched_tokens=64,
    max_model_len=40,
    tiers=(("host", 60),),
)


def test_n16_tables_have_the_axes_of_the_paper_and_answer_all_that_can_be_asked() -> None:
    """Every width, powers of two and halfway, requests by tokens; nothing an engine may ask is beyond the last."""
    runner = made()
    found = lanes.LaneBench(runner, LIMITS).predictor()
    assert found.layers == CONFIG.layers
    assert found.linear.points == [0, *range(1, 65)]
    assert found.prefill.points == [0, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert found.gpu_decode.points[-1] == 61 * 4
    assert found.host_decode.requests == [1, 2, 4, 6]
    asked = [
        found.host_decode.at(count, tokens)
        for count in range(1, 7)
        for tokens in range(count, count * 40 + 1)
    ]
    asked += [found.gpu_decode.at(tokens) for tokens in range(1, 245)]
    assert min(asked) > 0
    assert found.launch_ns > 0
    runner.host.close()  # type: ignore[union-attr]


def test_n16_tables_are_kept_and_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time nothing is measured, and the tables are the same; for other limits they are others."""
    runner = made()
    first, measured = lanes.ensure(runner, LIMITS)
    assert measured
    monkeypatch.setattr(lanes.LaneBench, "predictor", lambda self: pytest.fail("measured again"))
    again, measured = lanes.ensure(runner, LIMITS)
    assert not measured
    assert again.as_json() == first.as_json()
    other = Limits(blocks=50, block_size=4, max_num_batched_tokens=64, max_model_len=40, tiers=LIMITS.tiers)
    assert lanes.cached_path(runner, other) != lanes.cached_path(runner, LIMITS)
    runner.host.close()  # type: ignore[union-attr]


def test_n16_a_corner_that_cannot_be_measured_goes_on_as_the_next_row_does() -> None:
    """By hand: T[1][8] = T[1][4] + T[2][8] - T[2][4]."""
    found: dict[tuple[int, int], Any] = {
        (1, 2): 3.0,
        (1, 4): 5.0,
        (2, 4): 6.0,
        (2, 8): 10.0,
        (4, 8): 11.0,
        (4, 16): 20.0,
    }
    lanes.fill_corner(found, [1, 2, 4], [2, 4, 8, 16])
    assert found[2, 16] == 10.0 + 20.0 - 11.0
    assert found[1, 8] == 5.0 + 10.0 - 6.0
    assert found[1, 16] == found[1, 8] + found[2, 16] - found[2, 8]


def least(*measures: Callable[[], float]) -> list[float]:
    """Return the least of several measurements of each, taken in turns: this machine is not ours alone."""
    return [
        min(looks) for looks in zip(*([measure() for measure in measures] for _ in range(20)), strict=True)
    ]


def test_tables_say_what_lanes_cost_here() -> None:
    """More tokens take longer: for the host's attention, and for the layers' products."""
    runner = made()
    bench = lanes.LaneBench(runner, LIMITS)
    pool = runner.host.pool  # type: ignore[union-attr]
    pool.data.zero_()
    few, many = least(lambda: bench.host_decode(1, 1), lambda: bench.host_decode(6, 240))
    assert few < many
    few, many = least(lambda: bench.linear(1), lambda: bench.linear(512))
    assert few < many
    assert isinstance(Predictor.from_json(bench.predictor().as_json()), Predictor)
    runner.host.close()  # type: ignore[union-attr]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("system", ["neo", "fastdecode"])
def test_a_host_pool_beyond_memory_is_refused_before_anything_is_made(
    tmp_path: Path, system: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that names machine.host_gib: weights and cache fit, the host's pool is touched whole and would not."""
    monkeypatch.setattr(build, "_device", lambda name: device)
    monkeypatch.setattr(build, "create", lambda *_: pytest.fail("memory was taken"))
    options = Options(device="cpu")
    with pytest.raises(UserError, match=r"on the host .* set a smaller machine\.host_gib") as caught:
        build.build(plan(tmp_path, "machine.host_gib=100000"), system, options, lambda: 0)
    assert "\n" not in str(caught.value)
    assert ("beside weights and cache" in str(caught.value)) == (device == "cpu")
