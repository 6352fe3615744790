"""A producer in simulated time: batches in a row, stretched by what transfers take of its GPU's memory bandwidth."""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquasim.core.informers import BatchInformer
from aquasim.errors import UserError
from aquasim.hardware.profile import Profile, load_profile
from aquasim.producers import BatchTime, Producer, load_producer
from aquasim.records.tables import COLUMNS, RunTables
from aquasim.sim.clock import Clock
from aquasim.sim.tenants.base import Tenant
from aquasim.sim.tenants.batch import BatchTenant
from aquasim.sim.topology import TOPOLOGIES, Server

GIB, SECOND = 2**30, 10**9
H100 = load_profile("h100")


@dataclass(frozen=True)
class Fixed:
    """Batches of `seconds`, `bound` of them for memory."""

    seconds: float
    bound: float

    def time(self, profile: Profile, batch: int) -> BatchTime:
        """Return the same for every batch."""
        return BatchTime(self.seconds, self.bound)

    def working_bytes(self, batch: int) -> int:
        """A GiB an item."""
        return batch * GIB


def producer(seconds: float = 2.0, bound: float = 0.5) -> Producer:
    """Return a producer of fixed times."""
    return Producer("fixed", "Fixed", "images", 8, 3 * GIB, 0, Fixed(seconds, bound))


@dataclass
class Stage:
    """A tenant on GPU 1 of a server, its clock and its records."""

    env: Clock
    server: Server
    tenant: BatchTenant
    tables: RunTables
    peaks: list[int]

    def load(self, gpu: int, share: float) -> None:
        """Let flows take a share of one GPU's HBM bandwidth from now on."""
        self.server.fabric.hbm = {**self.server.fabric.hbm, gpu: share * H100.hbm_read}
        for changed in self.server.fabric._gpu_watchers.get(gpu, ()):
            changed()

    def at(self, when: int, gpu: int, share: float) -> None:
        """Do so at `when`."""
        self.env.at(when, lambda _: self.load(gpu, share))

    def play(self) -> np.ndarray:
        """Run to the end and return the rows (start, end, items, ...) of `work`."""
        self.tenant.start()
        while self.env.play():
            pass
        columns = len(COLUMNS["work"])
        return np.frombuffer(bytes(self.tables.rows["work"]), np.int64).reshape(-1, columns)


def stage(made: Producer, batch: int = 4, duration: int = 5 * SECOND) -> Stage:
    """Return a server of H100s with a tenant on GPU 1."""
    env, tables, peaks = Clock(), RunTables(), list[int]()
    server = Server(env, TOPOLOGIES["8xH100"], H100)
    tenant = BatchTenant("images", env, server, 1, made, batch, duration, tables, peaks.append)
    return Stage(env, server, tenant, tables, peaks)


def test_batches_follow_each_other_until_time_is_up() -> None:
    """With 2 s batches and 5 s to go there are three, back to back; the last is finished."""
    scene = stage(producer())
    tenant: Tenant = scene.tenant
    assert not tenant.done
    assert scene.play()[:, :3].tolist() == [
        [0, 2 * SECOND, 4],
        [2 * SECOND, 4 * SECOND, 4],
        [4 * SECOND, 6 * SECOND, 4],
    ]
    assert tenant.done


def test_a_batch_that_ends_with_the_time_is_the_last() -> None:
    """At the end of the duration no batch begins; with none at all there is none."""
    assert stage(producer(), duration=4 * SECOND).play()[:, 1].tolist() == [2 * SECOND, 4 * SECOND]
    scene = stage(producer(), duration=0)
    assert len(scene.play()) == 0
    assert scene.tenant.done
    assert scene.peaks == []


@pytest.mark.parametrize("name", ["sd", "sdxl", "kandinsky", "audiogen", "musicgen"])
def test_alone_the_cost_model_holds(name: str) -> None:
    """Without transfers every batch takes the producer's time, to the nanosecond."""
    made = load_producer(name)
    rows = stage(made, made.max_batch, 200 * SECOND).play()
    whole = round(made.time(H100, made.max_batch).seconds * 1e9)
    assert rows[:, 1].tolist() == [whole * (i + 1) for i in range(len(rows))]
    assert set(rows[:, 2]) == {made.max_batch}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95, 2.0])
def test_a_constant_load_stretches_by_the_closed_form(share: float) -> None:
    """The memory-bound part takes 1 / (1 - share) as long; at most 95 % of the bandwidth is taken."""
    scene = stage(producer(), duration=1)
    scene.load(1, share)
    taken = min(0.95, share)
    assert scene.play()[0, 1] == pytest.approx((1.5 + 0.5 / (1 - taken)) * SECOND, abs=1)


def test_other_gpus_do_not_matter() -> None:
    """Load on GPU 0 leaves GPU 1 as it is."""
    scene = stage(producer(), duration=1)
    scene.load(0, 0.9)
    assert scene.play()[0, 1] == 2 * SECOND


def test_a_real_transfer_slows_as_its_rate_says() -> None:
    """A flow from GPU 0 to GPU 1 at 100 GB/s for the whole batch."""
    scene = stage(producer(), duration=1)
    _, path = scene.server.between(0, 1)
    scene.server.fabric.start(path, 10**12, 100e9, lambda: None)
    share = 100e9 / H100.hbm_read
    assert scene.play()[0, 1] == pytest.approx((1.5 + 0.5 / (1 - share)) * SECOND, abs=1)


shares = st.integers(0, 19).map(lambda twentieths: twentieths / 20)
changes = st.lists(st.tuples(st.integers(0, 7 * SECOND), shares), max_size=30)


def exact_ends(moments: list[tuple[int, float]], batches: int, seconds: int, bound: Fraction) -> list[int]:
    """Return the batches' ends by rational arithmetic: each nanosecond adds 1 / (time under its load)."""
    load = 0.0
    now, ends = Fraction(0), list[int]()
    left = Fraction(1)
    for when, share in [*moments, (10**18, 0.0)]:
        while len(ends) < batches:
            taken = Fraction(min(0.95, load * H100.hbm_read / H100.hbm_read))
            whole = seconds * SECOND + bound * SECOND * taken / (1 - taken)
            if now + left * whole > when:
                left -= max(Fraction(0), when - now) / whole
                now = max(now, Fraction(when))
                break
            now = Fraction(ceil(now + left * whole))
            ends.append(int(now))
            left = Fraction(1)
        load = share
    return ends


@given(changes)
def test_progress_integrates_exactly(moments: list[tuple[int, float]]) -> None:
    """Under any sequence of loads a batch ends when its progress reaches 1, within a nanosecond a batch."""
    moments = sorted(moments, key=lambda moment: moment[0])
    scene = stage(producer())
    for when, share in moments:
        scene.at(when, 1, share)
    found = scene.play()[:, 1].tolist()
    assert found == pytest.approx(exact_ends(moments, len(found), 2, Fraction(1, 2)), abs=len(found), rel=0)


@given(changes)
def test_rows_are_contiguous_and_repeatable(moments: list[tuple[int, float]]) -> None:
    """Under any loads the rows follow without a gap, batches are never shorter than alone, and runs are equal."""
    rows = []
    for _ in range(2):
        scene = stage(producer())
        for when, share in moments:
            scene.at(when, 1, share)
        rows.append(scene.play())
    assert rows[0].tolist() == rows[1].tolist()
    assert rows[0][0, 0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(rows[0].tolist()))
    assert (rows[0][:, 1] - rows[0][:, 0] >= 2 * SECOND).all()


def test_calls_without_a_change_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand changes of other GPUs' rates plan nothing anew; this one's, up and down, add no events."""
    scene = stage(producer())
    scene.tenant.start()
    queued = len(scene.env._queue)
    with monkeypatch.context() as patch:
        patch.setattr(scene.tenant, "_plan", None)  # to call it would fail
        scene.load(0, 0.5)
        changed = scene.server.fabric._gpu_watchers[1][-1]
        for _ in range(100_000):
            changed()
    for i in range(10_000):
        scene.load(1, (i % 10) / 20)
    assert len(scene.env._queue) == queued


def test_the_peak_is_told_once_after_the_first_batch() -> None:
    """Free bytes beside the peak come with the first end; the informer lends them but 5 GiB, for good."""
    scene = stage(producer(), batch=4)
    moments: list[int] = []

    def on_peak(free: int) -> None:
        scene.peaks.append(free)
        moments.append(scene.env.ns)

    scene.tenant._on_peak = on_peak
    scene.play()
    assert scene.peaks == [H100.memory_bytes - 7 * GIB]
    assert moments == [2 * SECOND]
    informer = BatchInformer()
    assert informer.inform(scene.peaks[0]) == -(H100.memory_bytes - 12 * GIB)
    assert informer.inform(scene.peaks[0]) == 0


def test_a_transfer_begun_by_the_peak_counts_from_the_next_batch() -> None:
    """Whoever is told the peak may move data at once: the first batch is over, the second feels it."""
    scene = stage(producer(), duration=3 * SECOND)
    scene.tenant._on_peak = lambda _: scene.load(1, 0.5)
    assert scene.play()[:, 1].tolist() == [2 * SECOND, 2 * SECOND + 2_500_000_000]


def test_a_batch_that_does_not_fit_is_refused() -> None:
    """The error says how much it needs and what there is."""
    with pytest.raises(UserError, match=r"fixed with batches of 100 needs 103\.0 GiB; h100 has 79\.6"):
        stage(producer(), batch=100)
