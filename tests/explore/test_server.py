"""`aquasim explore` as a process: what it answers, what it refuses, how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import aquasim
from aquasim.explore.controls import controls_of
from aquasim.records.run import Run
from aquasim.scenario import Scenario, load_scenario
from aquasim.scenario.load import find

EVIL = '</script><img src=x onerror="window.hit=1">'


def place(id: str, value: float) -> int:
    """Return a control's stop nearest to a value."""
    scenario = load_scenario("small-h100", ["workload.requests=60"])
    assert isinstance(scenario, Scenario)
    (control,) = [control for control in controls_of(scenario) if control.id == id]
    return min(range(len(control.stops)), key=lambda n: abs(control.stops[n] - value))


def test_answers_are_the_simulators(explorer: Any) -> None:
    """The table's figures are those of a run with the same changes; the time and the changes are stated."""
    found = explorer.simulate({"burst": place("burst", 80), "peer": place("peer", 5)}, ["fcfs", "aqua"]).json
    changes = [
        "workload.requests=60", "workload.arrivals.phases=[[1.0, 10], [80.0, 3], [1.0, 600]]", "machine.peer_gib=5",
    ]  # fmt: skip
    run: Run = aquasim.simulate("small-h100", "aqua", changes=changes)
    row = found["table"]["rows"][1]

    assert row[0]["text"] == "aqua"
    assert row[2]["text"] == f"{run.summary()['ttft_p99']:,.2f}"
    assert found["said"].startswith("2 systems, 60 requests each, simulated in ")
    assert found["changed"] == [
        "Rate within the burst: 80/s instead of 40/s",
        "Peer memory, per GPU: 5 GiB instead of 20 GiB",
    ]
    assert 3 <= len(found["figures"]) <= 4
    for figure in found["figures"]:
        assert figure["spec"]["width"] == "container"
        assert not any("url" in str(data) for data in (figure["spec"].get("data"), figure["tables"]))


def test_the_page_and_its_parts(explorer: Any) -> None:
    """The page, its script, its style and the library come from here, under a policy that lets nothing else in."""
    for path, kind in (
        ("/", "text/html"),
        ("/explore.js", "text/javascript"),
        ("/style.css", "text/css"),
        ("/vega.js", "text/javascript"),
    ):
        reply = explorer.ask("GET", path)
        assert reply.status == 200
        assert reply.headers["Content-Type"].startswith(kind)
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in reply.headers
    page = explorer.ask("GET", "/").body.decode()
    assert "http://" not in page
    assert "https://" not in page


@pytest.mark.parametrize(
    "path", ["/nothing", "/../etc/passwd", "/explore.html", "//evil", "/?x=1", "/%2e%2e/"]
)
def test_nothing_else_is_served(explorer: Any, path: str) -> None:
    """Other paths are 404: no file is looked up."""
    assert explorer.ask("GET", path).status == 404
    assert explorer.ask("POST", path, b"{}", Content_Type="application/json").status == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", "127.0.0.1:{port}@x"]
)
def test_other_names_are_refused(explorer: Any, host: str) -> None:
    """A name that was pointed here (DNS rebinding) gets nothing, neither the page nor an answer."""
    given = host.format(port=explorer.port)
    for method, path in (("GET", "/"), ("POST", "/simulate")):
        reply = explorer.ask(method, path, b"{}", Host=given, Content_Type="application/json")
        assert reply.status in (400, 421)
        assert b"<html" not in reply.body


def test_other_sites_are_refused(explorer: Any) -> None:
    """Another origin is refused, and neither preflights nor other methods are answered; localhost is us, too."""
    asked = json.dumps({"values": {}, "systems": ["fcfs"]}).encode()
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{explorer.port}", "http://127.0.0.1:1"):
        assert (
            explorer.ask("POST", "/simulate", asked, Origin=origin, Content_Type="application/json").status
            == 403
        )
    assert explorer.ask("OPTIONS", "/simulate", Origin="http://evil.example").status == 501
    assert explorer.ask("PUT", "/simulate", b"{}").status == 501
    ours = f"localhost:{explorer.port}"
    reply = explorer.ask(
        "POST", "/simulate", asked, Host=ours, Origin=f"http://{ours}", Content_Type="application/json"
    )
    assert reply.status == 200


BAD: list[tuple[Any, str]] = [
    ([], "values and systems"),
    ({"values": {}}, "values and systems"),
    ({"values": {}, "systems": ["fcfs"], "more": 1}, "values and systems"),
    ({"values": [], "systems": ["fcfs"]}, "values: an object"),
    ({"values": {}, "systems": []}, "choose 1 to 8"),
    ({"values": {}, "systems": "fcfs"}, "a list of names"),
    ({"values": {}, "systems": [1]}, "a list of names"),
    ({"values": {}, "systems": [EVIL]}, "no system"),
    ({"values": {"machine.peer_gib": 1}, "systems": ["fcfs"]}, "no control"),
    ({"values": {EVIL: 1}, "systems": ["fcfs"]}, "no control"),
    ({"values": {"peer": -1}, "systems": ["fcfs"]}, "stop -1"),
    ({"values": {"peer": 10**30}, "systems": ["fcfs"]}, "stop 1000"),
    ({"values": {"peer": 1.5}, "systems": ["fcfs"]}, "stop 1.5"),
    ({"values": {"peer": True}, "systems": ["fcfs"]}, "stop True"),
    ({"values": {"peer": "1"}, "systems": ["fcfs"]}, "stop '1'"),
    ({"values": {"peer": None}, "systems": ["fcfs"]}, "stop None"),
]


@pytest.mark.parametrize(("asked", "words"), BAD)
def test_only_known_controls_at_their_stops(explorer: Any, asked: Any, words: str) -> None:
    """Anything but known controls, at one of their stops, with known systems, is one line of JSON that says why."""
    reply = explorer.ask("POST", "/simulate", json.dumps(asked).encode(), Content_Type="application/json")
    assert reply.status == 400
    assert words in reply.json["error"]
    assert "\n" not in reply.json["error"]
    assert reply.headers["Content-Type"] == "application/json"


def test_bodies_are_bounded(explorer: Any) -> None:
    """Too long, of unknown length, of another type, not JSON, nested too deeply: refused without a traceback."""
    kind = {"Content_Type": "application/json"}
    asked = [
        (413, b"x", {**kind, "Content_Length": str(10**9)}),
        (413, b"x", {**kind, "Content_Length": "9" * 400}),
        (411, None, kind),
        (411, b"x", {**kind, "Content_Length": "-1"}),
        (411, b"x", {**kind, "Transfer_Encoding": "chunked"}),
        (415, b"{}", {"Content_Type": "text/plain"}),
        (400, b"{", kind),
        (400, b"\xff\xfe", kind),
        (400, b"[" * 9000, kind),
    ]
    for status, body, headers in asked:
        assert explorer.ask("POST", "/simulate", body, **headers).status == status, headers
    assert explorer.simulate({}, ["fcfs"]).status == 200


def test_newer_input_ends_what_is_under_way(start: Callable[..., Any]) -> None:
    """Of several questions at once the last is answered and the others are told so; nobody waits for all of them."""
    with start("burst-h100", "--set", "workload.requests=400") as running:
        systems = ["fcfs", "cfs-host-scattered", "cfs-host", "cfs-peer", "aqua"]
        assert running.simulate({}, systems).status == 200
        began = time.monotonic()
        assert running.simulate({}, systems).status == 200
        alone = time.monotonic() - began
        with ThreadPoolExecutor(4) as pool:
            asked = []
            for seed in range(4):
                asked.append(pool.submit(running.simulate, {"seed": seed}, systems))
                time.sleep(0.1)
            statuses = [each.result().status for each in asked]
        assert statuses == [409, 409, 409, 200]
        assert time.monotonic() - began < 12 * alone + 10


def test_a_scenarios_errors_are_beside_their_control(start: Callable[..., Any]) -> None:
    """What cannot be simulated is one line with the control that was moved; the next answer is fine."""
    with start("neo/length-a10g", "--set", "workload.requests=20") as running:
        assert "Host memory, per GPU" in running.ask("GET", "/").body.decode()
        assert "Peer memory" not in running.ask("GET", "/").body.decode()
        found = running.simulate({"host": 0}, ["neo"]).json
        assert found["control"] == "host"
        assert "\n" not in found["error"]
        assert running.simulate({}, ["neo"]).json["said"].startswith("1 system, 20 requests, simulated in ")


def test_long_scenarios_are_made_short(start: Callable[..., Any]) -> None:
    """A scenario of thousands of requests is explored with few, and the page says so."""
    with start("neo/length-a10g") as running:
        found = running.simulate({}, ["gpu-only"]).json
    assert found["changed"] == ["Requests: 180 instead of 2,000"]
    assert "180 requests" in found["said"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_with_its_workers(start: Callable[..., Any], number: signal.Signals) -> None:
    """Ctrl-C, also while something is simulated, ends it with code 0 and without a word; so its processes."""
    with start() as running, ThreadPoolExecutor(1) as pool:
        pool.submit(running.simulate, {}, ["fcfs", "aqua"])
        time.sleep(0.5)
        children = _children(running.process.pid)
        running.process.send_signal(number)
        _, said = running.process.communicate(timeout=20)
    assert running.process.returncode == 0
    assert said == ""
    assert children
    until = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("after", ["at once", "warm", "simulating"])
def test_ctrl_c_in_a_terminal_is_silent(start: Callable[..., Any], after: str) -> None:
    """SIGINT goes to the whole group, also while workers start: code 0, no traceback of any of them, none left."""
    with start() as running, ThreadPoolExecutor(1) as pool:
        if after == "warm":
            assert running.simulate({}, ["fcfs"]).status == 200
        elif after == "simulating":
            pool.submit(running.simulate, {}, ["fcfs", "aqua"])
            time.sleep(0.3)
        children = _children(running.process.pid)
        os.killpg(running.process.pid, signal.SIGINT)
        _, said = running.process.communicate(timeout=20)
    assert (running.process.returncode, said) == (0, "")
    assert children
    until = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < until
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    done = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


def test_users_errors_are_one_line(tmp_path: Path) -> None:
    """A taken port, an unknown scenario, one with tenants, a faulty value: code 2, one line, at once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words, said in (
            (["--port", port], f"--port {port}"),
            (["nothing"], "unknown scenario 'nothing'"),
            (["aqua/s5-elastic-h100"], "this one has tenants"),
            (["--set", "machine.server=moon"], "machine.server is 'moon'"),
            (["--set", "model.name=Llama-3.1-70B"], "Llama-3.1-70B"),
        ):
            command = [sys.executable, "-m", "aquasim", "explore", "--no-browser", *words]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode == 2, words
            assert said in done.stderr
            assert done.stderr.count("\n") == 1
            assert done.stdout == ""


def test_hostile_names_are_text(start: Callable[..., Any], tmp_path: Path) -> None:
    """A scenario whose question and file name are markup: escaped in the page."""
    text = find("small-h100").read_text().replace('question = "The', f"question = '''{EVIL}''' # \"")
    path = tmp_path / "<img src=x onerror=hit()>.toml"
    path.write_text(text)
    with start(path, "--set", "workload.requests=20") as running:
        page = running.ask("GET", "/").body.decode()
    assert "<img" not in page
    assert "&lt;/script&gt;&lt;img src=x onerror=" in page
