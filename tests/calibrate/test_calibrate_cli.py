"""`aquasim calibrate` and `aquasim profiles` as users meet them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from gpus import kernel_profile_names

from aquasim.calibrate.store import read_samples
from aquasim.hardware.cost import StepCost
from aquasim.hardware.profile import load_profile, profile_names
from aquasim.models import load_model

pytest.importorskip("torch", reason="measuring needs torch")
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"published samples are not at {DATA}")
RTX4090 = DATA / "llmservingsim" / "profiler" / "perf" / "RTX4090"
BAD = ("--from", "bad.csv", "--name", "x")
QUICK = ("calibrate", "--device", "cpu", "--quick")


def aquasim(*words: object, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    command = [sys.executable, "-m", "aquasim", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=timeout)


def refused(*words: object, cwd: Path) -> str:
    """Run what must fail as a user's error does, in one line without a traceback; return the line."""
    done = aquasim(*words, cwd=cwd)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("aquasim: ")
    return line.removeprefix("aquasim: ")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick calibration of this CPU, begun with a budget that is too small, then finished."""
    folder = tmp_path_factory.mktemp("calibrated")
    first = aquasim(*QUICK, "--out", "cpu", "--budget", "0.5", cwd=folder)
    assert (first.returncode, first.stdout) == (0, "")
    assert (
        "stopped after 0.5 s; what was measured is in cpu; the same command goes on from there"
        in first.stderr
    )
    assert not (folder / "cpu" / "cpu-quick.json").exists()
    started = time.monotonic()
    done = aquasim(*QUICK, "--out", "cpu", cwd=folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert time.monotonic() - started < 180
    assert done.stdout.splitlines()[-1] == "cpu/cpu-quick.json"
    assert done.stdout.startswith("fitted ")
    return folder / "cpu"


@pytest.mark.slow
def test_the_profile_of_this_cpu_simulates(calibrated: Path) -> None:
    """It loads, costs rise with batch and context, and a scenario runs on it."""
    profile = load_profile(calibrated / "cpu-quick.json")
    cost = StepCost(profile, load_model("llama-3.1-8b"))
    times = [cost.decode(batch, batch * 512)[0] for batch in (1, 4, 16, 64)]
    assert times == sorted(times)
    assert cost.step([(512, 0)], 0, 0) > times[0]
    words = ("run", "small-h100", "--set", f"machine.profile={calibrated / 'cpu-quick.json'}")
    done = aquasim(*words, "--set", "workload.requests=5", "--json", cwd=calibrated)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["requests_done"] == 5


@pytest.mark.slow
def test_samples_say_where_they_come_from(calibrated: Path) -> None:
    """Each operator has a file with times above 0 between its quartiles, and with machine, versions and command."""
    files = sorted((calibrated / "samples").glob("*.parquet"))
    assert len(files) >= 12
    for file in files:
        samples = read_samples(file)
        assert (samples.q25 <= samples.seconds).all()
        assert (samples.seconds <= samples.q75).all()
        assert (samples.repeats >= 1).all()
        assert {"device", "memory_bytes", "torch", "dtype", "time", "command"} <= samples.provenance.keys()
    assert not list(calibrated.rglob(".*"))


@pytest.mark.slow
def test_residuals_are_in_the_profile(calibrated: Path) -> None:
    """Every fit says how many samples it took and how far off it is; a whole layer checks the sum of its parts."""
    blocks = load_profile(calibrated / "cpu-quick.json").blocks
    assert blocks["gemm"]["residual"]["rows_held_out"] > 0
    assert 0.2 < blocks["layer"]["residual"]["ratio"] < 3
    assert blocks["kernels"]["threads"] == "1"
    assert "memfd" in blocks["links"]["nvlink"]["source"]


@pytest.mark.slow
def test_the_runtime_reads_how_to_copy(calibrated: Path) -> None:
    """What was found of paths of copies is in a file that the runtime takes as it is."""
    from aquasim.runtime.copy import Thresholds

    taken = Thresholds.load(calibrated / "copy_thresholds.json")
    assert taken.small in ("batch", "scatter")
    assert taken.batch_bytes >= 0
    assert "copy.parquet" in taken.source


@pytest.mark.slow
def test_a_rerun_measures_nothing_again(calibrated: Path) -> None:
    """Finished pieces stay as they are; the profile is fitted anew, to the same bytes."""
    before = {file: file.stat().st_mtime_ns for file in (calibrated / "samples").iterdir()}
    text = (calibrated / "cpu-quick.json").read_text()
    done = aquasim(*QUICK, "--out", "cpu", "--json", cwd=calibrated.parent)
    assert done.returncode == 0, done.stderr
    assert {"profile", "residuals"} == json.loads(done.stdout).keys()
    assert {file: file.stat().st_mtime_ns for file in (calibrated / "samples").iterdir()} == before
    assert (calibrated / "cpu-quick.json").read_text() == text


@pytest.mark.slow
def test_sample_files_are_fitted_like_any_table(calibrated: Path, tmp_path: Path) -> None:
    """`--from` takes the folder of samples and gives the same kernels under another name."""
    done = aquasim("calibrate", "--from", calibrated / "samples", "--name", "again", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    again, first = load_profile(tmp_path / "again.json"), load_profile(calibrated / "cpu-quick.json")
    assert again.gemm == first.gemm
    assert again.name == "again"


@pytest.mark.slow
def test_another_kind_of_run_does_not_mix_in(calibrated: Path) -> None:
    """A folder of quick samples is not continued in full."""
    said = refused("calibrate", "--device", "cpu", "--out", "cpu", cwd=calibrated.parent)
    assert "was measured with sizes quick, this is full; name another folder with --out" in said


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    """Interrupted, it exits with 130, says how to go on, and leaves whole files that a rerun builds on."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "aquasim", *QUICK, "--out", "cpu"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a shell may have it ignored
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "cpu" / "samples" / "memory.parquet").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    files = list((tmp_path / "cpu" / "samples").iterdir())
    assert all(len(read_samples(file)) for file in files)
    assert not list(tmp_path.rglob(".*"))


@needs_data
def test_published_tables_need_a_base_for_what_they_lack(tmp_path: Path) -> None:
    """LLMServingSim's tables of an RTX 4090 lack links: named without a base, filled and marked with one."""
    said = refused("calibrate", "--from", RTX4090, "--name", "mine", cwd=tmp_path)
    assert said.startswith("nothing measured for ")
    assert "links" in said.split(":")[0]
    done = aquasim("calibrate", "--from", RTX4090, "--name", "mine", "--base", "l40s", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert json.loads(done.stdout)["residuals"]["gemm"]["median"] < 0.02
    profile = load_profile(tmp_path / "mine.json")
    assert profile.blocks["links"]["pcie_h2d"]["source"].startswith("from profile l40s, not measured here")
    assert profile.peak_flops == load_profile("rtx4090").peak_flops


def test_a_mixture_of_sources_and_a_file_left_out(tmp_path: Path) -> None:
    """Tables and sample files may be mixed; a file in a folder that is no table is told, not hidden."""
    (tmp_path / "in").mkdir()
    rows = [
        (m, n, k, 1e-3 * (1 + m * n * k / 1e9))
        for m in (1, 64, 512)
        for n in (512, 1024)
        for k in (512, 1024)
    ]
    pd.DataFrame(rows, columns=["m", "n", "k", "latency_ms"]).to_csv(
        tmp_path / "in" / "gemm.csv", index=False
    )
    (tmp_path / "in" / "notes.csv").write_text("when,who\n1,2\n")
    done = aquasim(
        "calibrate", "--from", "in", "--name", "mine", "--base", "h100", "--out", "p.json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "note: in/notes.csv: left out, not a table of timings we know\n"
    assert load_profile(tmp_path / "p.json").name == "mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*BAD, "--quick"), "--device, --quick and --budget are for measuring; --from fits what is there"),
        (("--from", "none.csv", "--name", "x"), "none.csv: no such file or folder"),
        (("--from", "bad.csv", "--name", "x"), "bad.csv: column k is missing"),
        (("--from", "bad.csv"), "--from needs --name NAME"),
        (
            ("--from", "bad.csv", "--name", "x", "--base", "b200"),
            "--base: unknown hardware profile 'b200'; known: a100",
        ),
        (
            ("--from", "bad.csv", "--name", "x", "--out", "x.txt"),
            "--out x.txt: a profile's file must end in .json",
        ),
        (
            ("--from", "bad.csv", "--name", "x", "--out", "a/x.json"),
            "--out a/x.json: not a file in an existing folder",
        ),
        (("--device", "tpu"), "--device tpu: valid are cuda, cpu"),
        (("--device", "cpu", "--budget", "0"), "--budget 0: seconds above 0 are needed"),
        (("--device", "cpu", "--out", "bad.csv"), "--out bad.csv: exists and is not a folder"),
        (
            ("--device", "cpu", "--base", "old.json"),
            "--base: old.json: schema version is 0, this package reads 1",
        ),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    """Whatever is wrong is named in one line, with exit code 2, before anything is measured."""
    (tmp_path / "bad.csv").write_text("m,n,latency_ms\n1,2,3\n2,2,3\n")
    (tmp_path / "old.json").write_text('{"schema": 0}')
    assert refused("calibrate", *words, cwd=tmp_path).startswith(said)
    assert {path.name for path in tmp_path.iterdir()} == {"bad.csv", "old.json"}


def test_without_torch_fitting_still_works(tmp_path: Path) -> None:
    """Where torch cannot be imported, measuring is refused in one line, and profiles are listed all the same."""
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "aquasim", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    done = run("calibrate", "--quick")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("aquasim: measuring needs torch, which is not installed: pip install")
    assert run("profiles").returncode == 0


def test_profiles_lists_what_ships(tmp_path: Path) -> None:
    """Every shipped profile has a row with its memory, its sources and its residuals; JSON has the same in full."""
    table, text = (aquasim("profiles", *words, cwd=tmp_path) for words in ((), ("--json",)))
    rows = json.loads(text.stdout)
    assert sorted(rows) == profile_names()
    for name, row in rows.items():
        assert name in table.stdout
        assert row["title"] in table.stdout
        assert row["memory_gib"] > 10
        if name in kernel_profile_names():
            assert {"gemm", "decode_attention", "prefill_attention"} <= row["residuals"].keys()
            assert row["versions"]["vllm"]
    assert max(map(len, table.stdout.splitlines()[:11])) <= 80
