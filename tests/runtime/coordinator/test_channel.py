"""Frames with descriptors over a socket pair, cut anywhere; violations end the connection and leak nothing."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.runtime.coordinator.channel import BACKLOG, GONE, HEADER, LIMIT, Channel
from aquasim.runtime.coordinator.errors import ProtocolError

WITH = 1 << 31


class End:
    """One end of a pair as a channel, what it got, and the other end as a raw socket."""

    def __init__(self) -> None:
        mine, self.raw = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.got: list[tuple[bytes, int | None]] = []
        self.ended: list[str] = []
        self.channel = Channel(mine, self.take, self.ended.append)

    def take(self, text: bytes, fd: int | None) -> None:
        """Note a frame; descriptors are compared by what they refer to."""
        self.got.append((text, None if fd is None else os.fstat(fd).st_ino))
        if fd is not None:
            os.close(fd)
        if text == b"refuse this":
            raise ProtocolError("refused")


def play(scene: Callable[[End], Awaitable[Any]]) -> End:
    """Run a scene, and check that it leaks no descriptor."""
    before = len(os.listdir("/proc/self/fd"))

    async def run() -> End:
        end = End()
        await scene(end)
        end.channel.close("done")
        end.raw.close()
        return end

    end = asyncio.run(run())
    assert len(os.listdir("/proc/self/fd")) == before
    return end


async def drain(end: End) -> None:
    """Let the channel read what there is."""
    for _ in range(20):
        await asyncio.sleep(0)
    await asyncio.sleep(0.002)


def frame(text: bytes, more: int = 0) -> bytes:
    """Return a frame's bytes."""
    return HEADER.pack(len(text) | more) + text


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=40), st.booleans()), min_size=1, max_size=6),
    st.lists(st.integers(1, 30), min_size=1),
)
def test_frames_arrive_whole_in_order_and_with_their_descriptors(
    frames: list[tuple[bytes, bool]], cuts: list[int]
) -> None:
    """However the bytes are cut; a descriptor is sent with its frame's first bytes, as `Channel` does."""
    wanted: list[tuple[bytes, int | None]] = []

    async def scene(end: End) -> None:
        turn = 0
        for text, carries in frames:
            fd = os.memfd_create("test") if carries else None
            wanted.append((text, None if fd is None else os.fstat(fd).st_ino))
            data, fds = frame(text, WITH if carries else 0), [] if fd is None else [fd]
            while data:
                size = cuts[turn % len(cuts)]
                turn += 1
                socket.send_fds(end.raw, [data[:size]], fds)
                data, fds = data[size:], []
                if turn % 3 == 0:
                    await drain(end)
            if fd is not None:
                os.close(fd)
        await drain(end)

    assert play(scene).got == wanted


def test_a_channel_and_a_channel_understand_each_other() -> None:
    """Megabytes and descriptors, faster than they are read, arrive in order."""
    texts = [bytes([n]) * (n * 20_001) for n in range(30)]

    async def scene(end: End) -> None:
        sender = Channel(end.raw.dup(), lambda text, fd: None, lambda reason: None)
        for n, text in enumerate(texts):
            sender.send(text, os.memfd_create("test") if n % 3 == 0 else None)
        for _ in range(500):
            await asyncio.sleep(0.001)
            if sender.idle and len(end.got) == len(texts):
                break
        sender.close("done")

    got = play(scene).got
    assert [text for text, _ in got] == texts
    assert [fd is not None for _, fd in got] == [n % 3 == 0 for n in range(30)]


@pytest.mark.parametrize(
    ("data", "fds", "reason"),
    [
        (HEADER.pack(LIMIT + 1), 0, "the limit"),
        (HEADER.pack(0x7FFFFFFF) + b"x", 0, "the limit"),
        (frame(b"a", WITH), 0, "did not come along"),
        (frame(b"a"), 1, "no frame speaks of"),
        (frame(b"a", WITH) + frame(b"b"), 2, "no frame speaks of"),
        (b"\0\0", 2, "no frame speaks of"),
        (b"\0\0", 7, "more file descriptors"),
        (frame(b"refuse this") + frame(b"never read"), 0, "refused"),
        (frame(b"refuse this", WITH), 1, "refused"),
    ],
)
def test_violations_end_the_connection(data: bytes, fds: int, reason: str) -> None:
    """Oversized frames, and descriptors missing or too many; nothing is read after."""

    async def scene(end: End) -> None:
        made = [os.memfd_create("test") for _ in range(fds)]
        socket.send_fds(end.raw, [data], made)
        for fd in made:
            os.close(fd)
        await drain(end)

    end = play(scene)
    assert len(end.ended) == 1
    assert reason in end.ended[0]
    assert b"never read" not in [text for text, _ in end.got]


@pytest.mark.parametrize(("data", "reason"), [(b"", GONE), (b"\0", "middle"), (frame(b"abc")[:-1], "middle")])
def test_an_end_in_the_middle_of_a_frame_is_told_from_a_good_one(data: bytes, reason: str) -> None:
    """The connection is over either way; half a frame is never handed over."""

    async def scene(end: End) -> None:
        end.raw.sendall(data)
        end.raw.shutdown(socket.SHUT_WR)
        await drain(end)

    end = play(scene)
    assert reason in end.ended[0]
    assert end.got == []


def test_last_words_are_heard_although_nobody_hears_the_answer() -> None:
    """Who says three things and is gone has said all three, even if the first one is answered: into nothing."""

    async def scene(end: End) -> None:
        def answer(text: bytes, fd: int | None) -> None:
            end.take(text, fd)
            end.channel.send(b"answer", os.memfd_create("test"))

        end.channel._frame = answer
        end.raw.sendall(frame(b"a") + frame(b"b"))
        file = os.memfd_create("test")
        socket.send_fds(end.raw, [frame(b"c", WITH)], [file])
        os.close(file)
        end.raw.close()
        await drain(end)

    end = play(scene)
    assert [text for text, _ in end.got] == [b"a", b"b", b"c"]
    assert end.ended == [GONE]


def test_somebody_who_does_not_read_is_cut_off() -> None:
    """What waits for a stopped process is bounded."""

    async def scene(end: End) -> None:
        for _ in range(BACKLOG // LIMIT + 2):
            end.channel.send(b"x" * LIMIT, os.memfd_create("test"))
        end.channel.send(b"lost")

    assert play(scene).ended == ["does not read"]
