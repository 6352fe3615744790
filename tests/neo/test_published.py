"""NEO's requirements N20 to N22: baselines, workloads, and the shape of the published figures."""

from collections.abc import Sequence

import pytest
from scenes import load_one

from aquasim.reproduce.jobs import Job, Outcome, run_job
from aquasim.reproduce.neo import CLAIMS
from aquasim.reproduce.neo.lengths import FIG_10A, Lengths, cell_job, throughput
from aquasim.reproduce.neo.load import Load, rate_at
from aquasim.sim.simulate import Plan, system_limits


def outcomes(jobs: Sequence[Job]) -> dict[Job, Outcome]:
    """Run jobs, each once."""
    return {job: run_job(job) for job in dict.fromkeys(jobs)}


def test_n20_the_baselines_are_the_same_engine_and_the_gpu_alone_has_the_staging_layers_memory() -> None:
    """54 blocks for the GPU alone and vLLM, 52 for NEO and FastDecode+; chunks of 256 and 512 by system."""
    plan = Plan.of(load_one("neo/osc-t4"))
    limits = {name: system_limits(plan, system) for name, system in plan.scenario.systems.items()}
    assert {name: each.blocks for name, each in limits.items()} == {
        "vllm": 54, "vllm-256": 54, "vllm-512": 54, "gpu-only": 54, "fastdecode": 52, "neo": 52, "hybrid": 52,
    }  # fmt: skip
    assert [limits[f"vllm-{n}"].max_num_batched_tokens for n in (256, 512)] == [256, 512]


@pytest.mark.parametrize(("scenario", "blocks"), [("neo/length-a10g", 1600), ("neo/length-2xh100", 1333)])
def test_n20_blocks_are_the_authors(scenario: str, blocks: int) -> None:
    """1,650 and 1,350 less one layer in 33 and 81."""
    plan = Plan.of(load_one(scenario))
    assert system_limits(plan, plan.scenario.systems["neo"]).blocks == blocks


def test_n21_workloads_have_the_published_statistics() -> None:
    """OSC: 372 and 45 tokens on average; synthetic lengths lie within 10 %."""
    osc = Plan.of(load_one("neo/osc-t4")).workload
    assert osc.prompt.mean() == pytest.approx(372.5, rel=0.02)
    assert osc.output.mean() == pytest.approx(45.3, rel=0.02)
    assert len(osc) == 2000
    synthetic = Plan.of(load_one("neo/length-t4")).workload
    assert (synthetic.prompt.min(), synthetic.prompt.max()) == (180, 220)
    assert not synthetic.arrival.any()


@pytest.mark.slow
def test_n22_figure_10a_within_a_twentieth_at_every_output_length() -> None:
    """4xlarge and 8xlarge: throughput over the GPU alone, ten published points."""
    claim = CLAIMS["length-a10g"]
    assert isinstance(claim, Lengths)
    cells = [cell for cell, _ in FIG_10A]
    found = outcomes([claim._job(system, cell) for cell in cells for system in ("neo", "gpu-only")])
    for cell, paper in FIG_10A:
        assert claim.ratio(found, cell) == pytest.approx(paper, abs=0.05), cell


@pytest.mark.slow
@pytest.mark.parametrize(("key", "paper"), [("load-a10g", 1.064), ("load-h100", 1.143)])
def test_n22_gains_on_code_within_four_points(key: str, paper: float) -> None:
    """Rate at 2 s per output token over vLLM's: +6.4 % on A10G, +14.3 % on two H100s."""
    claim = CLAIMS[key]
    assert isinstance(claim, Load)
    server = claim.servers[-1]
    wanted = [
        claim.job(system, rate, server) for system in ("vllm", "neo") for rate in claim.rates[system][2:]
    ]
    found = outcomes(wanted)
    rates = {
        system: rate_at(
            [
                (rate, found[claim.job(system, rate, server)].load[system]["latency_s"])
                for rate in claim.rates[system][2:]
            ],
            claim.limit_s,
        )
        for system in ("vllm", "neo")
    }
    assert rates["neo"] / rates["vllm"] == pytest.approx(paper, abs=0.04)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "neo", "vllm"), [(100, 3.204, 0.4712), (150, 2.057, 0.2727), (200, 1.444, 0.1867)]
)
def test_n22_a_t4_serves_the_published_requests_per_second(output: int, neo: float, vllm: float) -> None:
    """The authors' own row, input 200: NEO and vLLM within 15 % each."""
    for system, paper in (("neo", neo), ("vllm", vllm)):
        job = cell_job("neo/length-t4", system, ("", 200, output))
        found = outcomes([job])
        per_request = 200 + output
        assert throughput(found, job) / per_request == pytest.approx(paper, rel=0.15), system


def test_rates_are_read_off_between_points_by_the_logarithm_of_latency() -> None:
    """Exact at points, halfway in the logarithm between them; the last rate where the limit is never met."""
    curve = [(1.0, 0.1), (2.0, 1.0), (3.0, 100.0)]
    assert rate_at(curve, 1.0) == 2.0
    assert rate_at(curve, 10.0) == pytest.approx(2.5)
    assert rate_at(curve, 1000.0) == 3.0
    assert rate_at(curve, 0.05) == pytest.approx(0.5)
