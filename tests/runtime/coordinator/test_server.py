"""A coordinator among strangers: what is wrong ends that connection and nothing else."""

import json
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lease_messages import KINDS, values
from lease_stage import Actor, Stage, eventually
from lease_stranger import Stranger

from aquasim.core.leases import Closed, ConsumerReport, DonorReport, Extent, Process, Row, messages
from aquasim.runtime.coordinator import wire
from aquasim.runtime.coordinator.channel import HEADER, LIMIT
from aquasim.runtime.coordinator.codec import encode
from aquasim.runtime.coordinator.identity import own
from aquasim.runtime.coordinator.wire import Answer, Ask, Handed, Hello, Query, Refused, Welcome

MIB = 1 << 20


@pytest.fixture
def busy(stage: Stage) -> Iterator[Stage]:
    """Give a stage on which extents are leased; they still are afterwards, under their first epoch, unharmed."""
    stage.coordinator()
    donor, consumer = stage.donor(), stage.consumer()
    donor.ask("donate", 2 * MIB)
    consumer.ask("want", 2 * MIB)
    assert eventually(lambda: len(consumer.ask("extents")) == 2)
    yield stage
    assert [row[2] for row in consumer.ask("extents")] == [1, 1]
    assert eventually(lambda: all(row[4] for row in consumer.ask("extents")))
    assert consumer.ask("verify") == []
    assert len([e for e in stage.status()["extents"] if e["state"] == "leased"]) == 2


def hello(me: Process, role: Any = "donor", version: int = wire.VERSION) -> Hello:
    """A first word."""
    return Hello(version, role, me)


ME = own("stranger")
EXTENT = Extent(ME, 0)
BAD_STARTS: dict[str, bytes] = {
    "no json": b"{",
    "empty": b"",
    "unknown": b'{"type":"Nothing"}',
    "welcome": encode(Welcome(1, 1, 1, 1)),
    "report first": encode(DonorReport(ME, 1, 0, ())),
    "lease message of others": encode(messages.Died(ME)),
    "no role": encode(hello(ME, "coordinator")),
}


@pytest.mark.parametrize("text", BAD_STARTS.values(), ids=BAD_STARTS)
def test_who_does_not_begin_well_is_cut_off(text: bytes, stage: Stage) -> None:
    """Malformed or out of order before Hello."""
    stage.coordinator()
    with Stranger(stage) as stranger:
        stranger.send(text)
        assert stranger.over()
    assert stage.status()["donors"] == []


DONOR_LIES: dict[str, Any] = {
    "second hello": hello(ME),
    "another's report": DonorReport(Process("d0", 1), 1, 0, ()),
    "another's extent": DonorReport(ME, 1, 0, (Row(Extent(Process("d0", 1), 0), 1, 0, None, True),)),
    "an extent twice": DonorReport(ME, 1, 0, (Row(EXTENT, 1, 0, None, True),) * 2),
    "consumer's word": ConsumerReport(ME, 1, 0, ()),
    "a proof": messages.Died(ME),
    "an order": messages.Free(EXTENT, 1, ME, True),
    "another's handle": Handed(Extent(Process("d0", 1), 0), 1, ME, "x"),
    "garbage": b"\0" * 100,
    "a query": Query("status"),
}
CONSUMER_LIES: dict[str, Any] = {
    "another's report": ConsumerReport(Process("c0", 1), 1, 0, ()),
    "a lease twice": ConsumerReport(ME, 1, 0, ((EXTENT, 1, 1),) * 2),
    "another's close": Closed(Process("c0", 1), EXTENT, 1),
    "donor's word": DonorReport(ME, 1, 0, ()),
    "garbage": b"[]",
}
LIES = [pytest.param("donor", lie, id=f"donor {name}") for name, lie in DONOR_LIES.items()]
LIES += [pytest.param("consumer", lie, id=f"consumer {name}") for name, lie in CONSUMER_LIES.items()]


@pytest.mark.parametrize(("role", "lie"), LIES)
def test_words_that_are_not_ones_own_end_the_connection(role: str, lie: Any, stage: Stage) -> None:
    """Messages of other roles, of other processes, about others' extents."""
    stage.coordinator()
    with Stranger(stage) as stranger:
        stranger.enter(role, ME).send(lie)
        assert stranger.over()
    seen = stage.status()
    assert seen["extents"] == []


def test_everything_wrong_at_once_disturbs_nobody(busy: Stage) -> None:
    """Oversized, partial and malformed frames, stray descriptors: leases of others go on."""
    for data in (HEADER.pack(LIMIT + 1), HEADER.pack(1 << 31 | 4) + b"{}{}", HEADER.pack(2) + b"{}"):
        with Stranger(busy) as stranger:
            stranger.sock.sendall(data)
            assert stranger.over()
    with Stranger(busy) as partial:
        partial.sock.sendall(HEADER.pack(1000) + b"{")
    with Stranger(busy) as stranger:
        reader, writer = os.pipe()
        text = encode(hello(own("s")))
        socket.send_fds(stranger.sock, [HEADER.pack(len(text)) + text], [reader])
        os.close(reader)
        os.close(writer)
        assert stranger.over()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=200), max_size=4))
def test_random_bytes_disturb_nobody(busy: Stage, parts: list[bytes]) -> None:
    """Garbage in random pieces, as frames and not."""
    with Stranger(busy) as stranger:
        try:
            for part in parts:
                stranger.sock.sendall(part)
                stranger.send(part)
        except OSError:
            return  # cut off already, as it should be


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(["donor", "consumer"]))
def test_messages_that_make_no_sense_disturb_nobody(busy: Stage, data: st.DataObject, role: str) -> None:
    """Well-formed nonsense of every kind from a process that is known: reports of extents that never were, say."""
    me = own("stranger")
    with Stranger(busy) as stranger:
        stranger.enter(role, me)
        for _ in range(3):
            message = data.draw(st.one_of([values(getattr(messages, kind)) for kind in KINDS]))
            if isinstance(message, DonorReport):
                rows = {
                    row.extent.number: row._replace(extent=Extent(me, row.extent.number))
                    for row in message.rows
                }
                message = message._replace(donor=me, rows=tuple(rows.values()))
            elif isinstance(message, ConsumerReport | Closed):
                message = message._replace(consumer=me)
            try:
                stranger.send(message)
            except OSError:
                break
    assert isinstance(busy.status()["uptime_s"], float)


def test_a_wrong_version_name_or_pid_is_refused_with_a_reason(stage: Stage) -> None:
    """The reason reaches the one who can do something about it."""
    stage.coordinator()
    cases = {
        "protocol version 99": hello(ME, version=99),
        "is taken": hello(ME._replace(name="coordinator")),
        "share a PID namespace": hello(Process("x", ME.run + (1 << 10))),
        "did not start": hello(Process("x", ME.run + (1 << 32))),
    }
    for reason, word in cases.items():
        with Stranger(stage) as stranger:
            stranger.send(word)
            answer = stranger.hear()
            assert isinstance(answer, Refused)
            assert reason in answer.reason
            assert stranger.over()
    assert stage.status()["counts"]["refused"] == len(cases)


def test_another_user_is_refused(stage: Stage) -> None:
    """By SO_PEERCRED. Here the coordinator is told to serve another uid than ours, so that we are the stranger."""
    stage.coordinator(only=[os.getuid() + 1])
    with Stranger(stage) as stranger:
        answer = stranger.hear()
        assert isinstance(answer, Refused)
        assert "may not connect" in answer.reason
        assert stranger.over()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_refused_by_the_socket_and_by_the_coordinator(stage: Stage) -> None:
    """A real process of another uid: the folder keeps it out; where others may knock, its uid is looked at."""
    first = stage.coordinator()
    outside = stage.donor("outside", uid=65534)
    assert "connected: False" in str(outside.ask("refusal", 0.5))
    first.kill()
    stage.folder.chmod(0o755)
    stage.coordinator(uids=(12345,))
    assert "uid 65534 may not connect" in outside.ask("refusal")


def test_a_coordinator_of_another_user_is_not_trusted(stage: Stage) -> None:
    """A donor hands no memory to whoever took the coordinator's place."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(stage.path))
        stage.folder.chmod(0o777)
        stage.path.chmod(0o777)
        if os.fork() == 0:
            os.setuid(65534)
            listener.listen()  # SO_PEERCRED of a connection is who listened
            os.read(os.open(os.devnull, os.O_RDONLY), 1)
            connection, _ = listener.accept()
            connection.recv(1)
            os._exit(0)
        assert eventually(lambda: stage.listens())
        donor = stage.donor()
        assert "run by uid 65534" in donor.ask("refusal")
    os.wait()


def test_a_handle_goes_only_to_the_holder(busy: Stage) -> None:
    """Somebody else who asks for an extent's memory gets nothing, whatever epoch is named."""
    found = busy.status()["extents"][0]
    extent = Extent(Process(found["donor"], found["donor_run"]), found["number"])
    with Stranger(busy) as stranger:
        stranger.enter("consumer", ME)
        for epoch in range(4):
            stranger.send(Ask(extent, epoch))
        stranger.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            stranger.hear()


def test_a_second_connection_takes_the_place_of_the_first(stage: Stage) -> None:
    """A client that connects anew before its old connection is known to be gone is not locked out."""
    stage.coordinator()
    with Stranger(stage) as first, Stranger(stage) as second:
        first.enter("consumer", ME)
        second.enter("consumer", ME)
        assert first.over()
        second.send(ConsumerReport(ME, 1, 5, ()))
        assert eventually(lambda: [c["want_bytes"] for c in stage.status()["consumers"]] == [5])


def test_status_is_there_for_whoever_may_connect_and_changes_nothing(busy: Stage) -> None:
    """Metrics and status over the same socket, any number of times."""
    with Stranger(busy) as stranger:
        for what in ("status", "metrics", "status"):
            stranger.send(Query(what))
            answer = stranger.hear()
            assert isinstance(answer, Answer)
            if what == "status":
                assert json.loads(answer.text)["schema"] == "aquasim.coordinator/1"
            else:
                assert 'aquasim_extent_bytes{donor="d0",state="leased"} 2097152' in answer.text.splitlines()


def test_a_crowd_and_a_lack_of_descriptors_are_survived(stage: Stage) -> None:
    """Out of descriptors the coordinator waits and goes on when there are some again."""
    import resource

    coordinator: Actor = stage.coordinator()
    resource.prlimit(coordinator.pid, resource.RLIMIT_NOFILE, (40, 4096))
    crowd = [Stranger(stage) for _ in range(60)]
    assert eventually(lambda: "Too many open files" in stage.logs())
    for stranger in crowd:
        stranger.sock.close()
    assert eventually(lambda: stage.status()["counts"]["connections"] >= 60)


def test_stale_lengths_are_not_waited_for_in_memory(stage: Stage) -> None:
    """A frame that says it is 2 GiB long ends the connection at its header."""
    stage.coordinator()
    with Stranger(stage) as stranger:
        stranger.sock.sendall(struct.pack("!I", 0x7FFFFFFF))
        assert stranger.over()
