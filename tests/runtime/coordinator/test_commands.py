"""The commands as their users meet them: coordinator, coordinator status, donate, doctor."""

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lease_stage import Stage, eventually

MIB = 1 << 20


class Command:
    """A command that runs, and what it has printed so far."""

    def __init__(self, folder: Path, *words: object) -> None:
        self.out = folder / f"out{len(list(folder.iterdir()))}"
        with self.out.open("wb") as out:
            words = (sys.executable, "-m", "aquasim", *map(str, words))
            self.process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT)  # type: ignore[arg-type]

    def says(self, text: str) -> bool:
        """Whether it has printed something, now or soon."""
        return eventually(lambda: text in self.out.read_text())

    def ends(self) -> int:
        """Wait for its end, return its exit code."""
        return self.process.wait(10)


@pytest.fixture
def command(stage: Stage) -> Iterator[Any]:
    """Give a function that starts commands; all are killed afterwards, and none has printed a traceback."""
    started: list[Command] = []

    def start(*words: object) -> Command:
        started.append(Command(stage.folder, *words))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        text = each.out.read_text()
        assert "Traceback" not in text, text
        assert "aquasim.arena/" not in text


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    line = [sys.executable, "-m", "aquasim", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, cwd=cwd)


def test_lending_by_commands_from_start_to_end(stage: Stage, command: Any) -> None:
    """A coordinator and a donor; SIGTERM has the donor wait for its consumer, a second one say for whom."""
    coordinator = command("coordinator", "--socket", stage.path, "--lease-s", 5)
    assert coordinator.says(f"listening at {stage.path}")
    donor = command("donate", "--socket", stage.path, "--gib", 0.01, "--extent-mib", 4, "--name", "d7")
    assert donor.says("d7 lends 0.01 GiB of memfd memory")
    consumer = stage.consumer(obey=False)
    consumer.ask("want", 8 * MIB)
    assert eventually(lambda: len(consumer.ask("extents")) == 2)
    shown = run("coordinator", "status", "--socket", stage.path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "d7" in shown.stdout
    assert "leased" in shown.stdout
    donor.process.terminate()
    assert donor.says("taking back 0.00781 GiB: held by c0 0.00781 GiB")
    donor.process.send_signal(signal.SIGINT)
    assert donor.says("held by c0, epoch 1")
    assert donor.says("waiting on")
    assert donor.process.poll() is None
    consumer.ask("leave")
    assert donor.ends() == 0
    assert donor.says("everything is back")
    coordinator.process.terminate()
    assert coordinator.ends() == 0
    assert not stage.path.exists()


def test_with_force_a_donor_leaves_the_dead_behind_but_not_the_living(stage: Stage, command: Any) -> None:
    """No coordinator is left to prove a death: --force does, on the second signal."""
    coordinator = stage.coordinator()
    donor = command("donate", "--socket", stage.path, "--gib", 0.004, "--extent-mib", 4, "--force")
    consumer = stage.consumer(obey=False)
    consumer.ask("want", MIB)
    assert eventually(lambda: consumer.ask("extents"))
    coordinator.kill()
    donor.process.terminate()
    assert donor.says("the coordinator is away")
    donor.process.terminate()
    assert donor.says("waiting on")
    consumer.kill()
    donor.process.terminate()
    assert donor.says("all holders are dead: leaving")
    assert donor.ends() == 1


def test_a_placements_map_says_who_may_have_whose_memory(stage: Stage, command: Any, tmp_path: Path) -> None:
    """What `place --out` writes is what `coordinator --map` takes: GPU 1 gets memory of GPU 0, none of GPU 2."""
    mix = tmp_path / "mix.toml"
    mix.write_text(
        "servers = { count = 1, gpus = 3, hbm_gib = 80 }\n"
        "models = { need = { gib = -20 }, spare = { gib = 20, replicas = 2 } }\n"
    )
    assert run("place", mix, "--out", tmp_path / "map.json").returncode == 0
    pairs = json.loads((tmp_path / "map.json").read_text())["servers"][0]["map"]
    ((consumer, (near,)),) = pairs.items()
    (other,) = {0, 1, 2} - {int(consumer), near["gpu"]}
    assert command("coordinator", "--socket", stage.path, "--map", tmp_path / "map.json").says("listening")
    for gpu in (other, near["gpu"]):
        stage.donor(f"gpu{gpu}").ask("donate", 2 * MIB)
    needy = stage.consumer(f"gpu{consumer}")
    needy.ask("want", 4 * MIB)
    assert eventually(lambda: len(needy.ask("extents")) == 2)
    assert {row[0] for row in needy.ask("extents")} == {f"gpu{near['gpu']}"}


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--map", "none.json"), "none.json: No such file"),
        (("--map", "bad.json"), "bad.json: not a map"),
        (("--map", "good.json", "--server", 1), "--server 1: good.json has 1 servers"),
    ],
)
def test_a_faulty_map_is_a_users_error(tmp_path: Path, words: tuple[Any, ...], part: str) -> None:
    """One line, exit code 2."""
    (tmp_path / "bad.json").write_text("[1]")
    (tmp_path / "good.json").write_text('{"servers": [{"server": 0, "map": {}}]}')
    done = run("coordinator", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert part in done.stderr


def test_ctrl_c_ends_an_idle_donor(stage: Stage, command: Any) -> None:
    """Nobody holds anything, and there is no coordinator: it just leaves."""
    donor = command("donate", "--socket", stage.path, "--gib", 0.004, "--extent-mib", 1)
    assert donor.says("no coordinator yet")
    donor.process.send_signal(signal.SIGINT)
    assert donor.ends() == 0


def test_metrics_over_http_are_the_same_and_nothing_else_is_there(stage: Stage, command: Any) -> None:
    """GET /metrics on 127.0.0.1; other paths 404, other verbs 405."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    coordinator = command("coordinator", "--socket", stage.path, "--metrics-port", port)
    assert coordinator.says("listening")
    stage.donor().ask("donate", MIB)
    assert eventually(lambda: stage.states() == ["free"])
    url = f"http://127.0.0.1:{port}"
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        lines = answer.read().decode().splitlines()
    assert 'aquasim_extent_bytes{donor="d0",state="free"} 1048576' in lines
    assert all(re.fullmatch(r"# (HELP|TYPE) .+|aquasim_\w+(\{.+\})? [0-9.e+-]+", line) for line in lines)
    by_socket = run("coordinator", "status", "--metrics", "--socket", stage.path).stdout.splitlines()
    assert [line for line in by_socket if line.startswith("#")] == [
        line for line in lines if line.startswith("#")
    ]
    for path, data, code in (("/", None, 404), ("/metrics", b"x", 405)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url + path, data, timeout=5)
        caught.value.close()
        assert caught.value.code == code


REFUSED = {
    "coordinator --pairs nonsense": "--pairs: 'nonsense' is not CONSUMER=DONOR,...",
    "coordinator --lease-s 0": "--lease-s: 0 is not between",
    "coordinator status": "no coordinator at",
    "donate --gib 0": "--gib: 0 is not between",
    "donate --gib 1 --backend tape": "--backend: no 'tape'",
    "donate --gib 1e5 --extent-mib 100000": "bytes of host memory are to be lent",
    "donate --gib 1 --name coordinator": "name 'coordinator'",
}


@pytest.mark.parametrize("words", REFUSED)
def test_users_errors_are_one_line(words: str, stage: Stage) -> None:
    """Exit code 2, nothing on stdout that promises anything."""
    done = run(*words.split(), "--socket", stage.path)
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("aquasim: ")
    assert REFUSED[words] in done.stderr


def test_a_second_coordinator_is_refused(stage: Stage) -> None:
    """The first one goes on."""
    stage.coordinator()
    done = run("coordinator", "--socket", stage.path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "already listens" in done.stderr
    assert stage.states() == []


def test_a_stopped_coordinator_does_not_hang_its_status(stage: Stage) -> None:
    """It is said that it does not answer."""
    coordinator = stage.coordinator()
    coordinator.stop()
    done = run("coordinator", "status", "--socket", stage.path)
    assert done.returncode == 2
    assert "does not answer" in done.stderr


def test_the_doctor_measures_between_two_processes(stage: Stage) -> None:
    """Each back end works, with rates, or has a reason; exit code 0, since memfd works wherever these tests do."""
    done = run("doctor", "--json", "--socket", stage.path)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert [arena["backend"] for arena in found["arenas"]] == ["memfd", "host", "cuda-ipc", "cuda-vmm"]
    for arena in found["arenas"]:
        rates = (arena["write_bytes_per_s"], arena["read_bytes_per_s"])
        assert arena["works"] == all(rates)
        assert arena["works"] != bool(arena["reason"])
    assert found["arenas"][0]["works"]
    checks = {check["name"]: check["ok"] for check in found["checks"]}
    assert {
        "pid namespace",
        "time namespace",
        "proof of death",
        "cgroup memory",
        "open files",
    } <= checks.keys()
    assert checks["socket folder"] is True


def test_the_doctor_sees_a_folder_that_is_open_to_others(stage: Stage) -> None:
    """And says what to do."""
    stage.folder.chmod(0o755)
    done = run("doctor", "--socket", stage.path)
    assert done.returncode == 0
    assert "chmod 700" in " ".join(done.stdout.split())


def test_without_any_arena_the_doctor_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    """Exit code 1 where no memory can be lent."""
    from aquasim.cli.doctor import doctor_command
    from aquasim.runtime.peers import doctor

    monkeypatch.setattr(doctor, "available", lambda: dict.fromkeys(("memfd", "host"), "none here"))
    with pytest.raises(SystemExit) as caught:
        doctor_command(tmp_path / "c.sock", "json")
    assert caught.value.code == 1
    assert not any(arena["works"] for arena in json.loads(capsys.readouterr().out)["arenas"])


def test_a_lender_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the other process's last line, and no process is left."""
    from aquasim.runtime.peers import doctor

    monkeypatch.setattr(doctor, "PROBE_BYTES", -1)
    row = doctor._arena("memfd", None)
    assert not row["works"]
    assert "an arena of -1 bytes" in row["reason"]


def test_the_coordinator_needs_nothing_heavy() -> None:
    """No numpy, no simulator: a small process that starts fast."""
    heavy = ("numpy", "simpy", "torch")
    code = f"import sys, aquasim.runtime.coordinator.serve; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
