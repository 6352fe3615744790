"""When donors lend and reclaim: exact boundaries, and hysteresis over random loads."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.core.informers import GIB, MIB, BatchInformer, QueueInformer, WindowInformer

SECOND = 1_000_000_000


def test_m8_the_batch_informer_offers_once_and_never_reclaims() -> None:
    """Free minus 5 GiB at the first call; afterwards 0, however memory changes."""
    informer = BatchInformer()
    assert informer.inform(35 * GIB) == -30 * GIB
    assert informer.donated_bytes == 30 * GIB
    assert [informer.inform(free) for free in (0, 5 * GIB, 80 * GIB)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("free", "told"),
    [(5 * GIB - 1, 0), (5 * GIB, 0), (5 * GIB + (30 << 10) - 1, 0), (5 * GIB + (30 << 10), -30 << 10)],
)
def test_m8_too_little_is_not_offered(free: int, told: int) -> None:
    """The smallest offer of the release is 30 KiB, exactly; a refusal to offer is final too."""
    informer = BatchInformer()
    assert informer.inform(free) == told
    assert informer.inform(80 * GIB) == 0


@given(st.lists(st.integers(0, 100 * GIB), min_size=1, max_size=20), st.integers(0, 10 * GIB))
def test_m8_never_lends_into_the_retained_bytes(frees: list[int], retain: int) -> None:
    """What is left of the first call's free memory is at least what is retained; at most one loan."""
    informer = BatchInformer(retain_bytes=retain)
    told = [informer.inform(free) for free in frees]
    assert told[1:] == [0] * (len(frees) - 1)
    assert told[0] == 0 or frees[0] + told[0] == retain


def window(informer: WindowInformer, samples: list[tuple[int, int]], start: int = 0) -> list[int]:
    """Give (free, queue) samples one second apart and return the answers."""
    return [informer.inform(start + i * SECOND, *sample) for i, sample in enumerate(samples)]


def test_m9_the_window_rule_lends_all_but_five_gib() -> None:
    """Quiet for 10 s with 20 GiB free: at the sample that completes the window, least free minus 5 GiB."""
    informer = WindowInformer()
    told = window(informer, [(20 * GIB + i, 0) for i in range(11)])
    assert told == [0] * 10 + [-15 * GIB]
    assert informer.donated_bytes == 15 * GIB


@pytest.mark.parametrize(
    ("low", "high", "growth", "lends"),
    [
        (10 * GIB, 10 * GIB, 0, False),
        (10 * GIB + 1, 10 * GIB + 1, 0, True),
        (20 * GIB, 20 * GIB + 300_000_000, 0, False),
        (20 * GIB, 20 * GIB + 299_999_999, 0, True),
        (20 * GIB, 20 * GIB, 10, False),
        (20 * GIB, 20 * GIB, 9, True),
        (20 * GIB, 20 * GIB, -50, True),
    ],
)
def test_m9_window_rule_lending_boundaries(low: int, high: int, growth: int, lends: bool) -> None:
    """More than 5 GiB to lend, swing below 300 MB, rate below 1 request/s: each comparison strict."""
    samples = [(low, 50)] + [(high, 50)] * 9 + [(high, 50 + growth)]
    assert window(WindowInformer(), samples)[-1] == (5 * GIB - low if lends else 0)


@pytest.mark.parametrize(
    ("free", "first", "last", "reclaims"),
    [
        (800 * MIB - 1, 0, 16, True),
        (800 * MIB, 0, 16, False),
        (800 * MIB - 1, 0, 15, False),
        (800 * MIB - 1, 2, 18, True),
    ],
)
def test_m9_window_rule_reclaim_boundaries(free: int, first: int, last: int, reclaims: bool) -> None:
    """Least free below 800 MiB, mean queue above 2, rate above 1.5 requests/s: each comparison strict."""
    informer = WindowInformer(donated_bytes=9 * GIB)
    assert not any(window(informer, [(free, first)] * 5 + [(free, last)] * 6))
    assert informer.reclaiming is reclaims


def test_m9_window_rule_mean_queue_boundary() -> None:
    """A mean queue of exactly 2 reclaims nothing: one sample of 22 in eleven."""
    informer = WindowInformer(donated_bytes=9 * GIB)
    window(informer, [(0, 0)] * 10 + [(0, 22)])
    assert not informer.reclaiming
    window(informer, [(0, 0)] * 10 + [(0, 23)], start=20 * SECOND)
    assert informer.reclaiming


def test_m10_window_rule_gets_every_byte_back_once() -> None:
    """While reclaiming 0; after `returned` the loan, once; and lending starts from a fresh window."""
    informer = WindowInformer(donated_bytes=9 * GIB, reclaiming=True)
    assert informer.inform(0, 0, 99) == 0
    informer.returned()
    assert (informer.donated_bytes, informer.reclaiming) == (0, False)
    assert informer.inform(SECOND, 0, 99) == 9 * GIB
    assert window(informer, [(20 * GIB, 0)] * 11, start=2 * SECOND) == [0] * 10 + [-15 * GIB]


SAMPLES = st.lists(
    st.tuples(
        st.integers(1, 12 * SECOND),
        st.sampled_from([0, 700 * MIB, 5 * GIB, 11 * GIB, 11 * GIB + 1, 30 * GIB]),
        st.sampled_from([0, 1, 3, 12, 40, 90]),
        st.booleans(),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(SAMPLES)
def test_m9_window_rule_hysteresis(samples: list[tuple[int, int, int, bool]]) -> None:
    """Never lends into the retained bytes nor twice; changes of mind are a window apart; all comes back, no more."""
    informer = WindowInformer()
    now, out, changes = 0, 0, []
    for gap, free, queue, done in samples:
        now += gap
        if informer.reclaiming and done:
            informer.returned()
        was = (informer.donated_bytes, informer.reclaiming)
        told = informer.inform(now, free, queue)
        assert told >= 0 or (out == 0 and free + told >= informer.retain_bytes)
        assert told <= 0 or told == out
        out -= told
        if told < 0 or (informer.reclaiming and not was[1]):
            changes.append(now)
    assert all(b - a >= informer.window_ns for a, b in pairwise(changes))


def quiet(**changes: Any) -> QueueInformer:
    """A later-release informer that retains 5 of 30 GiB."""
    return QueueInformer(min_retain_bytes=5 * GIB, max_bytes=30 * GIB, **changes)


@pytest.mark.parametrize(
    ("queue", "used", "lends"),
    [(2, 5 * GIB - 1, True), (3, 0, False), (2, 5 * GIB, False), (0, 0, True)],
)
def test_m9_queue_rule_lending_boundaries(queue: int, used: int, lends: bool) -> None:
    """Queue at most 2 and cache in use below what is retained: lends the rest; otherwise waits."""
    informer = quiet()
    assert informer.inform(queue, used) == (-25 * GIB if lends else 0)
    assert informer.making_space is lends


def test_m9_queue_rule_lends_only_what_is_really_free() -> None:
    """M4: nothing counts as lent before the engine has made space, and nothing is decided meanwhile."""
    informer = quiet()
    assert informer.inform(0, 0) == -25 * GIB
    assert [informer.inform(queue, 0) for queue in (0, 10, 99)] == [0, 0, 0]
    assert informer.donated_bytes == 0
    assert informer.done_making_space() == 25 * GIB == informer.donated_bytes
    assert informer.inform(9, 0) == 0
    assert not informer.reclaiming
    assert informer.inform(10, 0) == 0
    assert informer.reclaiming


def test_m10_queue_rule_returns_to_its_original_capacity() -> None:
    """Shrunk by 25 GiB, grown by 25 GiB: the answers sum to 0 once the loan is back."""
    informer = quiet()
    told = [informer.inform(0, 0)]
    informer.done_making_space()
    told += [informer.inform(10, 0), informer.inform(10, 0)]
    informer.returned()
    told += [informer.inform(10, 0), informer.inform(10, 0)]
    assert told == [-25 * GIB, 0, 0, 25 * GIB, 0]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 30), st.booleans()), max_size=80))
def test_m9_queue_rule_hysteresis(samples: list[tuple[int, int, bool]]) -> None:
    """Lends at queue <= 2 only and reclaims at >= 10 only, exactly then; keeps what it retains; sums stay within."""
    informer = quiet()
    capacity = informer.max_bytes
    for queue, used_gib, done in samples:
        if done and informer.making_space:
            informer.done_making_space()
        elif done and informer.reclaiming:
            informer.returned()
        settled = not (informer.making_space or informer.reclaiming or informer.back_bytes)
        lent = informer.donated_bytes
        capacity += (told := informer.inform(queue, used_gib * GIB))
        assert informer.min_retain_bytes <= capacity <= informer.max_bytes
        assert (told < 0) == (settled and not lent and queue <= 2 and used_gib < 5)
        assert (settled and informer.reclaiming) == (settled and lent > 0 and queue >= 10)


def test_wrong_thresholds_are_refused() -> None:
    """A ValueError names both values."""
    with pytest.raises(ValueError, match="min_retain_bytes is 5, max_bytes 5"):
        QueueInformer(min_retain_bytes=5, max_bytes=5)
    with pytest.raises(ValueError, match="donate_queue is 10, reclaim_queue 10"):
        quiet(donate_queue=10)
