"""A cache split along heads says what a whole one says, wherever the rest is and however it moves."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from faked import Fake
from long_model import CONFIG, COUNT, PADDED, PROMPT, ROW, WEIGHTS, Noted, ordinary

from aquasim.records.tables import COLUMNS
from aquasim.runtime.longprompt import LongPrompt
from aquasim.runtime.tensors import PoolFullError

MIB = 1 << 20


@pytest.fixture(scope="module")
def expected() -> tuple[list[int], list[torch.Tensor]]:
    """Return tokens and logits of the ordinary runner."""
    return ordinary(COUNT)


@pytest.fixture
def fake() -> Iterator[Fake]:
    """Give a pool with 2 MiB on the host, and leases by hand."""
    made = Fake(host_bytes=2 * MIB)
    yield made
    made.pool.close()


@pytest.mark.parametrize("segment", [7, 512])
@pytest.mark.parametrize(("share", "remote"), [(0.0, 0), (0.5, 2), (0.7, 3), (1.0, 4)])
def test_any_share_says_what_the_runner_says(
    fake: Fake, expected: tuple[list[int], list[torch.Tensor]], share: float, remote: int, segment: int
) -> None:
    """No head elsewhere, half of them, all: equal tokens, and in padded mode equal logits, bit for bit.

    What is read for a token is exactly the remote heads' share of what is cached, and so are the records.
    """
    with Noted(CONFIG, WEIGHTS, fake.pool, tokens=128, share=share, segment=segment, padded=PADDED) as engine:
        assert engine.remote == remote
        assert engine.generate(PROMPT, COUNT) == expected[0]
        assert all(torch.equal(one, other) for one, other in zip(engine.logits, expected[1], strict=True))
        for index, each in enumerate(engine.iterations):
            cached = len(PROMPT) + index - 1 if index else 0
            assert each.traffic.host_read == cached * remote * ROW * CONFIG.layers
            assert each.traffic.peer_read == 0
            assert each.traffic.written == each.tokens * remote * ROW * CONFIG.layers
        work = np.frombuffer(engine.tables.rows["work"], np.int64).reshape(-1, len(COLUMNS["work"]))
        assert work[:, 4].tolist() == [each.traffic.host_read for each in engine.iterations]
        assert (work[:, 1] > work[:, 0]).all()


def test_products_of_any_shape_give_the_same_tokens(fake: Fake) -> None:
    """Without padding too."""
    with LongPrompt(CONFIG, WEIGHTS, fake.pool, tokens=128, share=0.5) as engine:
        assert engine.generate(PROMPT, COUNT) == ordinary(COUNT, None)[0]


@pytest.mark.parametrize("chunk", [1, 16, 50])
def test_a_prompt_in_chunks(fake: Fake, expected: tuple[list[int], list[torch.Tensor]], chunk: int) -> None:
    """Chunks read what earlier ones stored: the same tokens, the same bytes read as if it had been decoded."""
    with LongPrompt(CONFIG, WEIGHTS, fake.pool, tokens=128, share=0.5, segment=32, padded=PADDED) as engine:
        assert engine.generate(PROMPT, 8, chunk=chunk) == expected[0][:8]
        starts = range(0, len(PROMPT), chunk)
        reads = [each.traffic.host_read for each in engine.iterations[: len(starts)]]
        assert reads == [start * 2 * ROW * CONFIG.layers for start in starts]


def test_one_sequence_after_another(fake: Fake, expected: tuple[list[int], list[torch.Tensor]]) -> None:
    """A second prompt after a longer one says what it says alone; memory elsewhere is free between and after."""
    room = fake.pool.room
    engine = LongPrompt(CONFIG, WEIGHTS, fake.pool, tokens=128, share=0.5, segment=16, padded=PADDED)
    engine.generate([1, 2, 3] * 30, 20)
    assert engine.generate(PROMPT, COUNT) == expected[0]
    engine.close()
    assert fake.pool.room == room
    assert engine.cached == 0


def test_it_moves_between_lender_and_host_while_it_generates(
    fake: Fake, expected: tuple[list[int], list[torch.Tensor]]
) -> None:
    """Leases come, are called back and come again, every few tokens: the same logits, bit for bit.

    Bytes are read from where they are, all of them, and after a call back nothing is read from the lender.
    """
    sides, held = [], []
    with Noted(CONFIG, WEIGHTS, fake.pool, tokens=128, share=0.5, segment=16, padded=PADDED) as engine:

        def note(token: int) -> None:
            sides.append(engine.iterations[-1].traffic)
            fake.pool.check()
            fake.now += 5
            if len(sides) % 6 == 3:
                held.append(fake.grant(MIB))
            elif len(sides) % 6 == 0:
                fake.revoke(held.pop())

        assert engine.generate(PROMPT, COUNT, on_token=note) == expected[0]
        assert all(torch.equal(one, other) for one, other in zip(engine.logits, expected[1], strict=True))
        peer = [index for index, each in enumerate(sides) if each.peer_read]
        assert peer == [index for index in range(1, COUNT) if index % 6 in (3, 4, 5)]
        assert all(each.host_read == 0 for each in sides if each.peer_read)
        moved = [each.moves for each in engine.iterations]
        assert sum(each.promoted > 0 for each in moved) == sum(each.demoted > 0 for each in moved) + len(held)


def test_a_lease_that_lapses_is_read_and_not_written(
    fake: Fake, expected: tuple[list[int], list[torch.Tensor]]
) -> None:
    """No renewal, no call back: what is there is still read from the lender, and what is new goes to the host."""
    mapped = fake.grant(MIB)
    with Noted(CONFIG, WEIGHTS, fake.pool, tokens=128, share=1.0, segment=16, padded=PADDED) as engine:

        def lapse(token: int) -> None:
            fake.held[mapped] = len(engine.iterations) not in range(10, 30)
            fake.now += 5

        assert engine.generate(PROMPT, COUNT, on_token=lapse) == expected[0]
        assert all(torch.equal(one, other) for one, other in zip(engine.logits, expected[1], strict=True))
        lapsed = engine.iterations[20].traffic
        assert lapsed.peer_read > 0
        assert lapsed.host_read > 0
        assert engine.iterations[-1].traffic.host_read == 0


def test_a_spoilt_byte_elsewhere_changes_what_comes_out(
    fake: Fake, expected: tuple[list[int], list[torch.Tensor]]
) -> None:
    """Bytes in the tensors are really read: with them wiped in the middle, logits differ from then on."""
    with Noted(CONFIG, WEIGHTS, fake.pool, tokens=128, share=0.5, segment=16, padded=PADDED) as engine:

        def wipe(token: int) -> None:
            if len(engine.iterations) == 10:
                for kept in engine._kv._kept:
                    kept[0].write(torch.zeros(kept[0].shape))

        engine.generate(PROMPT, COUNT, on_token=wipe)
        same = [torch.equal(one, other) for one, other in zip(engine.logits, expected[1], strict=True)]
        assert same == [True] * 10 + [False] * (COUNT - 10)


def test_the_next_layer_is_on_its_way_while_one_computes(fake: Fake) -> None:
    """Fetches of two layers begin before the first is needed, and each later one once its buffer has been read."""
    engine = LongPrompt(CONFIG, WEIGHTS, fake.pool, tokens=128, share=0.5)
    engine.step(PROMPT)
    order: list[str] = []
    kv = engine._kv
    begin, attend = kv._prefetch, kv.attend

    def noted_begin(layer: int) -> None:
        order.append(f"fetch {layer}")
        begin(layer)

    def noted_attend(layer: int, queries: torch.Tensor) -> torch.Tensor:
        order.append(f"compute {layer}")
        return attend(layer, queries)

    kv._prefetch, kv.attend = noted_begin, noted_attend  # type: ignore[method-assign]
    engine.step([1])
    engine.close()
    assert [word for word in order if word != "fetch 5" and word != "fetch 6"] == [
        "fetch 0", "fetch 1", "compute 0", "fetch 2", "compute 1", "fetch 3", "compute 2", "fetch 4", "compute 3",
        "compute 4",
    ]  # fmt: skip


def test_no_room_is_one_error_and_nothing_is_lost() -> None:
    """Neither lender nor host has room for another segment: PoolFullError; once closed all of it is free."""
    fake = Fake(host_bytes=MIB // 2)
    room = fake.pool.room
    engine = LongPrompt(CONFIG, WEIGHTS, fake.pool, tokens=512, share=1.0, segment=64)
    with pytest.raises(PoolFullError, match="bytes asked for; free are 0 leased"):
        engine.generate(PROMPT * 6, 40)
    engine.close()
    assert fake.pool.room == room
    fake.pool.close()


def test_sizes_that_are_none_are_refused(fake: Fake) -> None:
    """A share outside 0 to 1, tokens beyond the model, no segment; a step of nothing or of too much."""
    for options, message in (
        ({"share": 1.5}, "share is 1.5; it must be between 0 and 1"),
        ({"tokens": 513}, "tokens is 513; it must be 1 to 512"),
        ({"segment": 0}, "segment is 0; it must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            LongPrompt(CONFIG, WEIGHTS, fake.pool, **{"tokens": 64} | options)
    engine = LongPrompt(CONFIG, WEIGHTS, fake.pool, tokens=8)
    for tokens in ([], [1] * 9):
        with pytest.raises(ValueError, match="tokens after 0; the cache holds 8"):
            engine.step(tokens)


@pytest.mark.gpu
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_gpu_says_what_its_runner_says(share: float) -> None:
    """The same on a GPU, the remote share in pinned host memory: tokens of the ordinary runner, float32."""
    from aquasim.runtime.engine import random_weights
    from aquasim.runtime.tensors import PeerPool

    weights = random_weights(CONFIG, seed=5, device="cuda")
    with PeerPool(None, "long", 0, 4 * MIB, device=0) as pool:
        engine = LongPrompt(CONFIG, weights, pool, tokens=128, share=share, segment=16, device="cuda")
        assert engine.generate(PROMPT, COUNT) == ordinary(COUNT, None, "cuda")[0]
        engine.close()
