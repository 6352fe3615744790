"""NEO's requirements N5, N7, N16 and N23: how long iterations with lanes take, tables, and what the host adds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import load_one

from aquasim.core import Lanes, Limits
from aquasim.hardware.cost import StepCost
from aquasim.hardware.host import HOSTS, Host
from aquasim.hardware.lanes import LaneCost
from aquasim.hardware.profile import load_profile
from aquasim.hardware.rates import RateCost
from aquasim.models import load_model
from aquasim.sim.simulate import Plan, simulate_system

FREE = Host("free", 8, 1e18, 1e18, 0.0, 0.0, "a host that takes no time")
G5 = HOSTS["g5.4xlarge"]


def a10g(host: Host) -> LaneCost:
    """Return LLaMA-3.1-8B on an A10G with a host."""
    return LaneCost(RateCost(load_profile("a10g"), load_model("Llama-3.1-8B")), host, 4096, 12e9)


def gpu_ns(cost: LaneCost, chunks: list[tuple[int, int]], batch: int, context: int, hosted: int) -> float:
    """Return one sub-batch's time of the GPU, all layers."""
    width = sum(new for new, _ in chunks) + batch + hosted
    attention = cost.gpu.prefill_ns(chunks) + cost.gpu.attention_ns(batch, context + batch)
    return cost.gpu.depth * (cost.gpu.layer_ns(width) + attention)


@given(
    prompt=st.integers(0, 4000),
    batch=st.integers(0, 100),
    first=st.integers(0, 50),
    second=st.integers(1, 200),
)
def test_n5_with_a_host_that_takes_no_time_an_iteration_is_both_sub_batches(
    prompt: int, batch: int, first: int, second: int
) -> None:
    """T = layers * (gpu0 + gpu1), and what comes once."""
    cost = a10g(FREE)
    chunks = [(prompt, 0)] if prompt else []
    lanes = Lanes(tuple(range(first)), tuple(range(first, first + second)), first * 500, second * 500)
    both = gpu_ns(cost, chunks, batch, batch * 300, first) + gpu_ns(cost, [], 0, 0, second)
    once = cost.gpu.rest_ns(len(chunks) + batch + first + second, bool(chunks))
    assert cost.lanes(chunks, batch, batch * 300, lanes) == pytest.approx(both + once, rel=1e-6)


def test_n5_a_host_beyond_the_gpus_work_sets_the_pace() -> None:
    """100,000 tokens on a g5.4xlarge: 0.08 ms and 4 KiB a token at 26 GB/s, per layer, beside nothing longer."""
    cost = a10g(G5)
    time = cost.lanes([], 4, 1200, Lanes((), tuple(range(100)), 0, 100_000))
    stage_a = G5.launch_s * 1e9 + cost.host_ns(100, 100_000)
    stage_b = max(cost.gpu.layer_ns(100) + cost.gpu.attention_ns(4, 1204), G5.launch_s * 1e9)
    assert cost.host_ns(100, 100_000) == pytest.approx(80e3 + 100_000 * 4096 / 26)
    assert time == pytest.approx(cost.gpu.depth * (stage_a + stage_b) + cost.gpu.rest_ns(104, False))


def test_without_lanes_a_staged_prompt_costs_what_a_prompt_costs_unless_the_link_is_slower() -> None:
    """Its KV leaves beside the computation; over a slow link the iteration lasts until it has left."""
    gpu = RateCost(load_profile("a10g"), load_model("Llama-3.1-8B"))
    staged = Lanes(staged=(1,))
    plain = gpu.step([(1000, 0)], 0, 0)
    assert LaneCost(gpu, G5, 4096, 12e9).lanes([(1000, 0)], 0, 0, staged) == plain
    assert LaneCost(gpu, G5, 4096, 1e8).lanes([(1000, 0)], 0, 0, staged) == round(
        1000 * 4096 * 32 / 1e8 * 1e9
    )


@pytest.mark.parametrize(("name", "batch"), [("a10g", 40), ("h100", 0), ("h100", 50)])
def test_with_nobody_on_the_host_an_iteration_is_as_it_is_without_lanes(name: str, batch: int) -> None:
    """A staged prompt beside decodes takes what a prompt beside decodes takes, and is as much bound by compute."""
    model = load_model("Llama-3.1-8B")
    profile = load_profile(name)
    cost = RateCost(profile, model) if name == "a10g" else StepCost(profile, model)
    lanes = LaneCost(cost, G5, 4096, 1e12)
    chunks = [(500, 0), (300, 0)]
    assert lanes.timed(chunks, batch, 500 * batch, Lanes(staged=(1,))) == cost.timed(
        chunks, batch, 500 * batch
    )


def test_prompts_beside_the_host_heat_the_chip_as_others_do() -> None:
    """Where clocks fall under load, NEO's iterations with prompts are as long as they are without, or longer."""
    short = ["workload.requests=60", "machine.host_gib=60"]
    profile, ends = load_profile("h100"), {}
    for gain in (0.0, 0.1):
        throttle = {**profile.blocks["throttle"], "gain": gain, "rest": 0.0}
        hot = replace(profile, blocks={**profile.blocks, "throttle": throttle})
        run = simulate_system(Plan.of(load_one("neo/length-2xh100", short), hot), "fastdecode")
        ends[gain] = run.columns("requests")["finished_ns"].max()
    assert 1.01 < ends[0.1] / ends[0.0] < 1.1


@pytest.mark.parametrize("gpu", ["a10g", "h100"])
def test_n16_tables_are_the_costs_at_their_points(gpu: str) -> None:
    """Every width up to 511, then doubling; prompts and KV by halves; requests and tokens by doubling; 0 at 0."""
    model = load_model("Llama-3.1-8B")
    cost = RateCost(load_profile(gpu), model) if gpu == "a10g" else StepCost(load_profile(gpu), model)
    lanes = LaneCost(cost, G5, 4096, 12e9)
    limits = Limits(blocks=1600, max_num_batched_tokens=4096, max_model_len=4096, tiers=(("host", 5000),))
    tables = lanes.predictor(limits)
    for width in (1, 17, 128, 129, 511, 512, 1024, 4096):
        assert tables.linear.at(width) == pytest.approx(cost.layer_ns(width))
    for prompt in (16, 24, 32, 48, 1024, 4096):
        assert tables.prefill.at(prompt) == pytest.approx(cost.prefill_ns([(prompt, 0)]))
    assert tables.host_decode.at(37, 20_000) == pytest.approx(lanes.host_ns(37, 20_000), rel=1e-6)
    assert (
        tables.linear.at(0)
        == tables.prefill.at(0)
        == tables.gpu_decode.at(0)
        == tables.host_decode.at(0, 0)
        == 0
    )
    assert tables.gpu_decode.at(1601 * 16) > 0
    assert tables.host_decode.at(256, 5001 * 16) > 0
    assert (tables.launch_ns, tables.layers) == (0.8e6, 32)


def gain(*changes: str) -> float:
    """Return NEO's throughput over that of the GPU alone, by the makespan, on a short A10G run."""
    short = ["workload.requests=400", 'workload.output={"kind"="uniform","low"=180,"high"=220}']
    plan = Plan.of(load_one("neo/length-a10g", [*short, *changes]))
    ends = {
        name: simulate_system(plan, name).columns("requests")["finished_ns"].max()
        for name in ("neo", "gpu-only")
    }
    return float(ends["gpu-only"] / ends["neo"])


@pytest.mark.slow
def test_n23_the_gain_follows_the_hosts_bandwidth_not_its_cores() -> None:
    """Four times the bandwidth is worth more; four times the cores at the same bandwidth are worth nothing."""
    slow, fast = (gain(f"machine.host_gbs={gbs}", "machine.host_cores=32") for gbs in (26, 104))
    few, many = (gain("machine.host_gbs=40", f"machine.host_cores={cores}") for cores in (8, 32))
    assert fast > slow + 0.1
    assert few == many


def test_n7_swaps_of_whole_requests_are_awaited_by_the_iteration() -> None:
    """A step that names transfers starts when they have landed."""
    plan = Plan.of(load_one("neo/osc-t4", ["workload.requests=60"]))
    run = simulate_system(plan, "gpu-only", record_events=True)
    transfers, steps = run.columns("transfers"), run.columns("steps")
    assert len(transfers["transfer"])
    for start, end in zip(transfers["start_ns"], transfers["end_ns"], strict=True):
        running = (steps["start_ns"] < end) & (steps["start_ns"] + steps["first_ns"] > start)
        assert not (running & (steps["iterations"] == 1)).any()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (["machine.host_cores=0"], "host_cores"),
        (["machine.server=1xA100", "machine.profile=a100"], "nothing is known of this server's processor"),
        (["machine.host_gib=0.3"], "holds no request of max_model_len"),
        (["engine.prefix_caching=true"], "neither prefix caching nor adapters"),
        (
            ["engine.max_num_batched_tokens=64"],
            r"at least max_model_len \d+; systems\.neo\.engine gives it limits",
        ),
    ],
)
def test_what_cannot_be_simulated_is_a_users_error(changes: list[str], part: str) -> None:
    """One line that names what is wrong."""
    from aquasim.errors import UserError

    with pytest.raises(UserError, match=part):
        simulate_system(Plan.of(load_one("neo/osc-t4", [*changes, "workload.requests=5"])), "neo")


def test_a_scheduler_without_guards_that_stands_still_says_so() -> None:
    """Not a traceback: how many requests never end, and why."""
    from aquasim.errors import UserError

    changes = [
        "engine.max_model_len=830", "workload.requests=1", 'workload.prompt={"kind"="fixed","tokens"=700}',
        'workload.output={"kind"="fixed","tokens"=120}', 'workload.arrivals={"kind"="at-once"}',
    ]  # fmt: skip
    scenario = load_one("neo/length-t4", [*changes, "systems.neo.options.faithful=true"])
    two = load_one("neo/length-t4", [*changes, "workload.requests=2", "systems.neo.options.faithful=true"])
    assert simulate_system(Plan.of(scenario), "neo").summary()["requests_done"] == 1
    with pytest.raises(UserError, match=r"systems.neo: 1 requests never end: without its guards"):
        simulate_system(Plan.of(two), "neo")
