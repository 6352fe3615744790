"""AQUA's requirements M8 and M9: when producers lend, and when they want their memory back."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aquasim
from aquasim.core.informers import GIB, MIB, BatchInformer, QueueInformer, WindowInformer
from aquasim.hardware.profile import load_profile
from aquasim.producers import load_producer

SECOND = 1_000_000_000
TEXT = """
question = "What does an image producer lend?"
duration_s = 60

[machine]
server = "8xH100"

[tenants.images]
kind = "batch"
gpu = 0
model = "sd"

[systems.lends]
leases.protocol = "PROTOCOL"
"""


@pytest.mark.parametrize("protocol", ["intended", "faithful"])
def test_m08_a_batch_producer_offers_once_after_its_first_batch(tmp_path: Path, protocol: str) -> None:
    """Free memory at the largest batch minus 5 GiB, offered when the first batch is over, and never recalled."""
    path = tmp_path / "images.toml"
    path.write_text(TEXT.replace("PROTOCOL", protocol))
    run = aquasim.simulate(path)
    producer, profile = load_producer("sd"), load_profile("h100")
    ((time, event, size),) = run.leases[["time_ns", "event", "bytes"]].itertuples(index=False)
    assert (event, size) == ("offered", producer.free_bytes(profile, producer.max_batch) - 5 * GIB)
    assert time == run.work["end_ns"].iloc[0]
    assert len(run.work) > 1


@settings(deadline=None)
@given(st.lists(st.integers(0, 192 * GIB), min_size=1, max_size=20))
def test_m08_the_first_look_decides_and_nothing_is_reclaimed(frees: list[int]) -> None:
    """Whatever is free later: one offer at most, of all but 5 GiB, and no byte is ever asked back."""
    informer = BatchInformer()
    told = [informer.inform(free) for free in frees]
    offer = frees[0] - 5 * GIB
    assert told == [-offer if offer >= 30 << 10 else 0] + [0] * (len(frees) - 1)


# --- the rule of the first release: windows of 10 s ----------------------------------------------------------

WINDOWS = st.lists(
    st.tuples(
        st.sampled_from([300 * MIB, 799 * MIB, 800 * MIB, 10 * GIB, 10 * GIB + 1, 40 * GIB]),
        st.sampled_from([0, 299_999_999, 300_000_000]),
        st.sampled_from([0, 9, 10, 15, 16, 30]),
        st.sampled_from([0, 2, 3]),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(WINDOWS)
def test_m09_window_rule(windows: list[tuple[int, int, int, int]]) -> None:
    """Per window of 10 s (least free, swing, growth of the queue, its start): lends below 1/s, reclaims above 1.5/s.

    Lends if more than 5 GiB beyond the retained 5 GiB are free and swing by less than 300 MB. Reclaims if less than
    800 MiB are free and the mean queue is above 2. Between the two nothing changes: that is the hysteresis.
    """
    informer = WindowInformer()
    for index, (low, swing, growth, queue) in enumerate(windows):
        lent = informer.donated_bytes
        start = index * 100 * SECOND
        samples = [(low, queue)] + [(low + swing, queue)] * 9 + [(low, queue + growth)]
        told = [informer.inform(start + i * SECOND, *sample) for i, sample in enumerate(samples)]
        lends = not lent and low > 10 * GIB and swing < 300_000_000 and growth < 10
        assert told == [0] * 10 + [5 * GIB - low if lends else 0]
        mean = queue + growth / 11
        assert informer.reclaiming == (lent > 0 and low < 800 * MIB and mean > 2 and growth > 15)
        if informer.reclaiming:
            informer.returned()
            assert informer.inform(start + 20 * SECOND, low, queue) == lent, "every byte, once"


# --- the rule of the later release: two thresholds ----------------------------------------------------------

LOADS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=80)


@settings(deadline=None)
@given(LOADS, st.integers(1, 10))
def test_m09_queue_rule(loads: list[tuple[int, int]], retain: int) -> None:
    """(queue, GiB in use): lends all but `retain` at a queue of 2 and below, reclaims at 10 and above, else stays.

    It lends once the cache in use is below what it retains, and only when the engine has made the space.
    """
    informer = QueueInformer(min_retain_bytes=retain * GIB, max_bytes=30 * GIB)
    size = 30 * GIB
    for queue, used in loads:
        size += (told := informer.inform(queue, used * GIB))
        lent = size < 30 * GIB
        assert size in (retain * GIB, 30 * GIB)
        if told < 0:
            assert queue <= 2
            assert used < retain
            assert informer.donated_bytes == 0, "not before the space is made"
            assert informer.done_making_space() == 30 * GIB - size
        elif lent and queue >= 10:
            assert informer.reclaiming
            informer.returned()
        else:
            assert not informer.reclaiming
            assert told or lent or queue > 2 or used >= retain, "it might have lent"


@settings(deadline=None)
@given(st.lists(st.integers(3, 9), max_size=60), st.booleans())
def test_m09_queue_rule_has_hysteresis(queues: list[int], lent: bool) -> None:
    """Between the thresholds nothing changes, whichever side it came from."""
    informer = QueueInformer(min_retain_bytes=5 * GIB, max_bytes=30 * GIB)
    if lent:
        informer.inform(0, 0)
        informer.done_making_space()
    assert [informer.inform(queue, 0) for queue in queues] == [0] * len(queues)
    assert (informer.donated_bytes > 0, informer.reclaiming, informer.making_space) == (lent, False, False)
