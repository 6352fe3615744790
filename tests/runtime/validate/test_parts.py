"""The parts of a validation: fits, the core's speed, judgement, replay, costs, helpers that end."""

from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from aquasim.calibrate.engine.fit import fit_steps, level
from aquasim.calibrate.engine.points import Ranges, points_for
from aquasim.calibrate.hardware.judge import FIGURES, compare
from aquasim.calibrate.hardware.replayed import check
from aquasim.calibrate.hardware.speed import slowdown, slowed
from aquasim.calibrate.hardware.study import plan_at, prepare, ranges_of
from aquasim.errors import UserError
from aquasim.hardware.profile import load_profile
from aquasim.hardware.steps import FEATURES, EngineCost
from aquasim.records.run import Run
from aquasim.runtime.local import Options, run_local
from aquasim.runtime.local.lend import lending
from aquasim.runtime.local.watch import Watch
from aquasim.scenario import Scenario, load_scenario
from aquasim.sim.simulate import Plan, simulate_system

TRUE = {
    "tokens": [0, 1, 8, 64, 256],
    "tokens_s": [0.0, 1e-3, 4e-3, 1e-2, 3e-2],
    "features_s": dict(
        zip(FEATURES, [2e-3, 1e-4, 5e-4, 1e-4, 1e-6, 1e-3, 0.0, 1e-6, 5e-8, 4e-9], strict=True)
    ),
}
RANGES = Ranges(32, 256, 512, 120, 16)


def scenario(sets: list[str], *more: str) -> Scenario:
    """Return burst-local made tiny."""
    found = load_scenario("burst-local", [*sets, *more])
    assert isinstance(found, Scenario)
    return found


# --- costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "length"), [*product((1, 3, 8, 31), (1, 17, 300))])
def test_a_run_of_decodes_costs_what_its_iterations_cost(batch: int, length: int) -> None:
    """Iteration j lasts a + b*j: asking again at the length it has then gives exactly that."""
    cost = EngineCost(TRUE, (1000, 2000))
    a, b, limit = cost.decode(batch, batch * length)
    for j in (1, 7, 100):
        assert j < limit
        assert cost.decode(batch, batch * (length + j))[0] == a + b * j
    assert cost.step([], batch, batch * length) == a


def test_more_work_never_costs_less() -> None:
    """Longer contexts, longer chunks and more cached tokens take longer."""
    cost = EngineCost(TRUE, (0, 0))
    assert cost.step([(64, 0)], 4, 400) > cost.step([(32, 0)], 4, 400) > cost.step([], 4, 400)
    assert cost.step([(64, 64)], 0, 0) > cost.step([(64, 0)], 0, 0)
    assert cost.step([(600, 0)], 0, 0) > cost.step([(500, 0)], 0, 0)


def test_the_fit_finds_the_times_it_was_given() -> None:
    """Iterations of a known cost, measured without noise: every one is met within 1 %."""
    points = points_for(RANGES)
    truth = EngineCost(TRUE, (0, 0))
    seconds = np.array([truth.step(p.chunks, p.batch, p.batch * p.length) * 1e-9 for p in points])
    assert fit_steps(points, seconds)["residual"]["p90"] < 0.01


def test_the_cores_speed_is_taken_out_of_timings() -> None:
    """Timings on a core that slows down by half and recovers come out equal, by iteration."""
    random = np.random.default_rng(1)
    order = np.tile(np.arange(10), 60)
    slow = 1 + 0.5 * (np.sin(np.arange(600) / 40) > 0)
    base = 0.01 * (1 + np.arange(10))
    noise = random.normal(1, 0.01, (2, 600))
    flat = level(order, base[order] * slow**0.8 * noise[0], 4e-4 * slow * noise[1])
    assert flat.power == pytest.approx(0.8, abs=0.1)
    ratios = flat.seconds / base[order]
    assert np.quantile(ratios, 0.9) / np.quantile(ratios, 0.1) < 1.1


# --- speed, judgement ---------------------------------------------------------------------------------------------


def test_a_slower_core_is_seen_and_simulated(tiny: Path, sets: list[str]) -> None:
    """Probes of twice the time mean 2 to the power found; a profile so slowed simulates a longer run."""
    profile = load_profile(tiny / "local.json")
    about = profile.blocks["runtime"]["probe"]
    probes = [(i * 100_000_000, about["seconds"] * 2) for i in range(50)]
    assert slowdown(probes, profile) == pytest.approx(2 ** about["power"])
    assert slowdown([], profile) == 1.0
    spans = [
        simulate_system(
            plan_at(scenario(sets), each, Plan.of(scenario(sets)).llm.model, 1.0), "fcfs"
        ).summary()["rct_mean"]
        for each in (profile, slowed(profile, 3.0))
    ]
    assert spans[1] > 1.5 * spans[0]


def test_errors_are_judged_by_target_or_spread() -> None:
    """Allowed is the target, or twice the spread of the real runs; counts are not judged."""

    def flat(value: float) -> dict[str, float]:
        return dict.fromkeys(FIGURES, value)

    close = {f.name: f for f in compare("s", [flat(100), flat(102)], flat(150), [flat(107), flat(109)])}
    assert close["ttft_p50"].ok
    assert close["throughput_tok_s"].ok is False
    assert close["preemptions"].ok is None
    assert close["rct_p50"].error == pytest.approx(108 / 101 - 1)
    assert close["rct_p50"].predicted_error == pytest.approx(150 / 101 - 1)
    wide = {f.name: f for f in compare("s", [flat(80), flat(120)], flat(150), [flat(130)])}
    assert wide["throughput_tok_s"].allowed == pytest.approx(0.4)
    assert wide["throughput_tok_s"].ok
    none = {f.name: f for f in compare("s", [flat(0)], flat(0), [flat(0)])}
    assert none["ttft_p50"].ok is None


# --- real runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(sets: list[str]) -> tuple[Plan, Run, Watch]:
    """A real run of cfs-host under watch."""
    study = prepare(scenario(sets), ["cfs-host"], Options(device="cpu"))
    watch = Watch()
    return study.plan, run_local(study.plan, "cfs-host", Options(device="cpu", threads=1, watch=watch)), watch


def test_every_decision_of_a_real_run_is_the_cores(ran: tuple[Plan, Run, Watch]) -> None:
    """The event log, replayed, gives the commands that were carried out; another command is found and shown."""
    plan, run, _ = ran
    found = check(plan, "cfs-host", run)
    assert found.differs is None
    assert found.commands == len(run.commands or ())
    assert found.events > run.count("steps")
    kept = run.commands
    assert kept is not None
    run.commands = [*kept[:20], *kept[21:]]
    try:
        differs = check(plan, "cfs-host", run).differs
    finally:
        run.commands = kept
    assert differs is not None
    assert differs.startswith("command 20: ")


def test_simulated_and_real_runs_move_the_same_sizes(ran: tuple[Plan, Run, Watch]) -> None:
    """A block is as many bytes in a simulation as on this machine, and all requests end with the same tokens."""
    plan, run, watch = ran
    simulated = simulate_system(plan, "cfs-host")
    assert simulated.meta["block_bytes"] == run.meta["block_bytes"]
    tokens = [r.requests.sort_values("request").output_tokens.tolist() for r in (run, simulated)]
    assert tokens[0] == tokens[1]
    assert watch.probes
    assert min(seconds for _, seconds in watch.probes) > 0


def test_a_clock_may_leave_out_what_others_took(sets: list[str]) -> None:
    """With `exclude`, time stays in order and starts at 0, every request ends, and the run says by which clock."""
    plan = prepare(scenario(sets), [], Options(device="cpu")).plan
    watch = Watch(exclude=True)
    run = run_local(plan, "fcfs", Options(device="cpu", threads=1, watch=watch))
    assert run.meta["clock"] == "cpu"
    steps = run.columns("steps")
    assert (np.diff(steps["start_ns"]) > 0).all()
    assert steps["start_ns"][0] >= 0
    assert (run.requests.outcome == "finished").all()


def test_simulated_decodes_are_as_long_as_the_longest(sets: list[str]) -> None:
    """Fused equals stepped where decodes are padded: the same times, to the nanosecond."""
    plan = Plan.of(scenario(sets))
    assert plan.llm.serving.padded
    for system in ("fcfs", "cfs-host", "aqua"):
        fused, stepped = (simulate_system(plan, system, fused=each) for each in (True, False))
        for name in ("first_token_ns", "finished_ns"):
            assert (fused.columns("requests")[name] == stepped.columns("requests")[name]).all(), system


def test_ranges_say_when_to_measure_again(sets: list[str]) -> None:
    """A profile serves engines with no more sequences, tokens and positions than it was measured for."""
    plan = Plan.of(scenario(sets))
    ranges = ranges_of(plan)
    assert ranges.covers(ranges)
    assert not ranges.covers(ranges._replace(sequences=ranges.sequences + 1))
    assert not ranges.covers(ranges._replace(block_size=8))


# --- lending --------------------------------------------------------------------------------------------------------


def test_helpers_end_with_the_block_even_upon_an_error() -> None:
    """Coordinator and donor answer within the block; afterwards their folder is gone, whatever happened."""

    def fail(folder: Path) -> None:
        with lending(1 << 20, folder) as socket:
            assert socket.is_socket()
            raise RuntimeError("boom")

    with TemporaryDirectory() as short:  # the path of a socket may have 107 bytes
        with pytest.raises(RuntimeError, match="boom"):
            fail(Path(short))
        assert list(Path(short).iterdir()) == []


def test_what_cannot_be_lent_is_one_line(tmp_path: Path) -> None:
    """More memory than there is: the donor's own line, nothing left behind."""
    with (
        pytest.raises(UserError, match="a process that lends memory did not start: aquasim: "),
        lending(1 << 50, tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
