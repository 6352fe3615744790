"""`aquasim serve` as its clients meet it: a process, sockets, whole answers and streams."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
from prometheus_client.parser import text_string_to_metric_families

SMALL = ("burst-local", "--system", "cfs-host", "--device", "cpu", "--set", "engine.kv_blocks=40")
CHANGES = ("--set", "engine.max_model_len=160", "--max-open", "32", "--port", "0")


class Server:
    """A server process, and calls to it."""

    def __init__(self, log: Path, *words: str) -> None:
        command = [sys.executable, "-m", "aquasim", "serve", *words]
        with log.open("w") as out:
            self.process = subprocess.Popen(
                command, stderr=out, stdout=out, env=os.environ | {"OMP_NUM_THREADS": "1"},
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
        until(lambda: "listening at" in log.read_text() or self.process.poll() is not None, 60)
        self.said = log.read_text()
        self.port = int(self.said.rsplit(":", 1)[1]) if "listening at" in self.said else 0

    def ask(self, **body: Any) -> tuple[int, Any]:
        """Ask for a completion; return status and JSON."""
        return self.post(json.dumps({"temperature": 0, **body}).encode())

    def post(self, body: bytes, path: str = "/v1/completions") -> tuple[int, Any]:
        """Post bytes."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def text(self, **body: Any) -> str:
        """Ask for one completion; return its text."""
        status, found = self.ask(**body)
        assert status == 200, found
        return str(found["choices"][0]["text"])

    def stream(self, **body: Any) -> tuple[HTTPConnection, Any]:
        """Begin a stream; return the connection and the answer to read from."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = {"temperature": 0, "stream": True, **body}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.getheader("content-type", "").startswith("text/event-stream")
        return connection, answer

    def metrics(self) -> dict[str, float]:
        """Return samples by name and labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return {
            " ".join([sample.name, *sample.labels.values()]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.03)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve a small model with a small cache."""
    started = Server(tmp_path_factory.mktemp("serve") / "log", *SMALL, *CHANGES)
    assert started.port, started.said
    yield started
    started.process.send_signal(signal.SIGINT)
    assert started.process.wait(20) == 0


def events(answer: Any) -> list[Any]:
    """Read a stream to its end: events, [DONE] as None."""
    lines = [line for line in answer.read().decode().split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    data = [line.removeprefix("data: ") for line in lines]
    return [None if each == "[DONE]" else json.loads(each) for each in data]


def test_a_stream_is_the_whole_answer_in_pieces(server: Server) -> None:
    """Same text, a reason in the last piece only, usage when asked for, [DONE] at the end."""
    asked: dict[str, Any] = {"prompt": "once upon a time", "max_tokens": 24}
    status, whole = server.ask(**asked)
    assert status == 200
    assert whole["usage"] == {"prompt_tokens": 16, "completion_tokens": 24, "total_tokens": 40}
    assert whole["choices"][0]["finish_reason"] == "length"
    connection, answer = server.stream(**asked, stream_options={"include_usage": True})
    found = events(answer)
    connection.close()
    assert found[-1] is None
    assert found[-2]["usage"] == whole["usage"]
    pieces = [each["choices"][0] for each in found[:-2]]
    assert "".join(piece["text"] for piece in pieces) == whole["choices"][0]["text"]
    assert [piece["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]


def test_a_burst_is_paged_and_changes_nobodys_answer(server: Server) -> None:
    """Twelve at once on a cache for three or four: each text is the one it has alone, and bytes really moved."""
    prompts = [[number + 1] * 60 + [7, number] for number in range(12)]
    alone = [server.text(prompt=prompt, max_tokens=60) for prompt in prompts]
    before = server.metrics().get("aquasim_paged_bytes_total out host", 0)
    with ThreadPoolExecutor(12) as pool:
        burst = list(pool.map(lambda prompt: server.text(prompt=prompt, max_tokens=60), prompts))
    assert burst == alone
    until(lambda: server.metrics().get("aquasim_paged_bytes_total out host", 0) > before)


def test_prompts_of_a_list_are_choices_in_their_order(server: Server) -> None:
    """Text and token prompts; each choice is what its prompt has alone."""
    prompts = ["a tale", "of two", "cities"]
    _, found = server.ask(prompt=prompts, max_tokens=9)
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    alone = [server.text(prompt=prompt, max_tokens=9) for prompt in prompts]
    assert [choice["text"] for choice in found["choices"]] == alone
    tokens = [list(prompt.encode()) for prompt in prompts]
    _, again = server.ask(prompt=tokens, max_tokens=9)
    assert [choice["text"] for choice in again["choices"]] == alone


def test_a_stop_string_ends_an_answer_before_itself(server: Server) -> None:
    """The text up to it, reason stop, and no more tokens than were needed."""
    text = server.text(prompt="north", max_tokens=40)
    mark = text[8:10]
    _, found = server.ask(prompt="north", max_tokens=40, stop=[mark, "never there"])
    choice = found["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text[: text.index(mark)], "stop")
    assert found["usage"]["completion_tokens"] < 40


def test_seeds_decide_what_is_drawn(server: Server) -> None:
    """One seed, one text; another seed, another."""
    texts = [server.text(prompt="dice", max_tokens=20, temperature=1.0, seed=seed) for seed in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]


def test_a_client_that_leaves_frees_its_memory(server: Server) -> None:
    """Streaming or waiting: the request is aborted, counted, and holds nothing any more."""
    before = server.metrics().get("aquasim_requests_total aborted", 0)
    connection, answer = server.stream(prompt="forever", max_tokens=140)
    assert answer.read(20)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    waiting = HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = json.dumps({"prompt": "and ever", "max_tokens": 140})
    waiting.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    until(lambda: server.metrics()["aquasim_running"] > 0)
    waiting.sock.shutdown(socket.SHUT_RDWR)
    waiting.close()
    until(lambda: server.metrics().get("aquasim_requests_total aborted", 0) >= before + 2)
    until(lambda: server.metrics()["aquasim_free_blocks"] == 40)


@pytest.mark.parametrize(
    ("body", "status", "param", "part"),
    [
        ({"prompt": ""}, 400, "prompt", "must not be empty"),
        ({"prompt": ["x", ""]}, 400, "prompt", "must not be empty"),
        ({}, 400, "prompt", "required"),
        ({"prompt": "x", "max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ({"prompt": "x", "temperature": -1}, 400, "temperature", "greater"),
        ({"prompt": "x", "n": 2}, 400, "n", "less than or equal to 1"),
        ({"prompt": "x", "logprobs": 2}, 400, "logprobs", "not permitted"),
        ({"prompt": "x" * 200}, 400, "prompt", "200 tokens; at most 159"),
        ({"prompt": [1, 9_000_000]}, 400, "prompt", "the vocabulary has"),
        ({"prompt": "x", "model": "gpt-9"}, 404, "model", "'gpt-9' is not served"),
        ({"prompt": ["x"] * 33}, 429, None, "at most 32"),
    ],
)
def test_what_is_not_served_is_an_error_that_clients_can_read(
    server: Server, body: dict[str, Any], status: int, param: str | None, part: str
) -> None:
    """Status, message and parameter, as OpenAI's clients read them; the server goes on."""
    found, answer = server.ask(**body)
    assert (found, answer["error"]["param"]) == (status, param), answer
    assert part in answer["error"]["message"]
    assert server.text(prompt="still here", max_tokens=1)


def test_garbage_is_refused(server: Server) -> None:
    """Not JSON, not an object, not UTF-8."""
    for body in (b"{", b"[]", b"\xff\xfe", b'"x"'):
        assert server.post(body)[0] == 400
    assert server.post(b"{}", "/v1/nothing")[0] == 404


def test_counters_add_up(server: Server) -> None:
    """Tokens, requests and histograms after one more answer."""
    before = server.metrics()
    server.text(prompt="count me", max_tokens=5)
    until(lambda: server.metrics()["aquasim_rct_seconds_count"] > before["aquasim_rct_seconds_count"])
    after = server.metrics()
    gained = {name: after[name] - before.get(name, 0) for name in after}
    assert gained["aquasim_generated_tokens_total"] == 5
    assert gained["aquasim_prompt_tokens_total"] == 8
    assert gained["aquasim_ttft_seconds_count"] == gained["aquasim_requests_total finished"] == 1
    assert gained["aquasim_itl_seconds_count"] == 4


def test_a_port_in_use_is_a_users_error(server: Server, tmp_path: Path) -> None:
    """One line, exit code 2."""
    second = Server(tmp_path / "log", *SMALL, "--port", str(server.port))
    assert second.process.wait(20) == 2
    assert second.said.startswith("aquasim: --host 127.0.0.1 --port")
    assert second.said.count("\n") == 1


def test_sigterm_ends_a_server_that_is_streaming(tmp_path: Path) -> None:
    """Within seconds, whatever is under way."""
    server = Server(tmp_path / "log", *SMALL, *CHANGES)
    connection, answer = server.stream(prompt="go on", max_tokens=140)
    assert answer.read(20)
    server.process.terminate()
    assert server.process.wait(30) in (0, -signal.SIGTERM)
    connection.close()
    assert "Traceback" not in (tmp_path / "log").read_text()
