"""Requests wait for their adapters and for nothing else; slots are used in turn; bytes come back as they left."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from faked import Fake
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_jobs import NAMES, fetches, jobs, submit
from lora_model import ADAPTERS, CONFIG, LAYOUT, RANK, SIZE, engine

from aquasim.core import Aborted, Arrived
from aquasim.errors import UserError
from aquasim.runtime.arenas import create
from aquasim.runtime.copy import HostCopier
from aquasim.runtime.engine import KvPool
from aquasim.runtime.executor import Executor
from aquasim.runtime.executor.worker import Threaded
from aquasim.runtime.lora import HostHome, LoraCache, LoraLayout, LoraSlots, PeerHome, pack
from aquasim.runtime.pager import Pager, Window
from aquasim.runtime.tensors import PoolFullError

ROW = LAYOUT.elements * 4


class Gate:
    """A home whose loads end when a test says so."""

    def __init__(self) -> None:
        self.open = False
        self.begun: list[str] = []
        self.broken: set[str] = set()

    def load(self, name: str, slot: torch.Tensor) -> tuple[Any, Any]:
        """See Home."""
        self.begun.append(name)
        if name in self.broken:
            raise OSError("the file is gone")
        slot.copy_(pack(ADAPTERS[NAMES.index(name)], LAYOUT, torch.float32))
        return self, "host"

    def done(self) -> bool:
        """See Loading."""
        return self.open

    def respond(self) -> None:
        """See Home."""


def serve(home: Any, count: int, **options: Any) -> Executor:
    """Return an executor with `count` slots over a home."""
    slots = LoraSlots(LAYOUT, count)
    executor = engine(slots, **options)
    executor.loras = LoraCache(slots, home, NAMES)
    return executor


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    """Return what each of 24 requests says alone, its adapter in the only slot."""
    found = []
    for job in jobs(1, 24):
        gate = Gate()
        gate.open = True
        executor = serve(gate, 1)
        told = submit(executor, [job])
        executor.run()
        found.append(told[0])
    return found


@pytest.fixture
def fake() -> Iterator[Fake]:
    """Give a pool with room for all adapters on the host, and a client whose leases come and go by hand."""
    made = Fake(host_bytes=len(NAMES) * (ROW + 256) + 4096)
    yield made
    for tensor in list(made.pool._tensors.values()):
        tensor.free()
    made.pool.close()


def peer_home(fake: Fake, small: bool = False) -> PeerHome:
    """Return all adapters in a pool's tensors."""
    home = PeerHome(fake.pool, LAYOUT, torch.float32, small=small)
    for adapter in ADAPTERS:
        home.add(adapter)
    return home


@pytest.mark.parametrize(("slots", "most"), [(1, 0), (2, 0), (2, 1), (6, 0)])
def test_more_adapters_than_slots(fake: Fake, slots: int, most: int, expected: list[list[int]]) -> None:
    """24 requests of 6 adapters and none, over fewer slots: nobody waits for ever, tokens are those of each alone.

    Every adapter that was needed was loaded, and with fewer slots than adapters some of them again.
    """
    executor = serve(peer_home(fake), slots, max_loras=most)
    wanted = jobs(1, 24)
    told = submit(executor, wanted, 4)
    executor.run()
    assert [told[id] for id in range(24)] == expected
    cache = executor.loras
    assert cache is not None
    cache.check()
    assert cache.waiting == 0
    used = {adapter for _, _, adapter in wanted if adapter}
    fetched = fetches(executor, "object")
    assert {NAMES[number] for number in fetched} == used
    assert (len(fetched) > len(used)) == (slots < len(used))


def test_adapters_move_between_lender_and_host_while_they_are_used(
    fake: Fake, expected: list[list[int]]
) -> None:
    """Leases come and are called back again and again during the run: tokens are the same, loads come from both."""
    executor = serve(peer_home(fake), 2)
    held: list[Any] = []
    turns = 0

    def move() -> bool:
        nonlocal turns
        turns += 1
        if turns % 11 == 0:
            fake.now += 5
            fake.revoke(held.pop()) if held else held.append(fake.grant(4 * (ROW + 256)))
            fake.pool.respond()
            fake.pool.check()
        return False

    executor.upkeep = move
    told = submit(executor, jobs(1, 24), 4)
    executor.run()
    assert [told[id] for id in range(24)] == expected
    assert set(fetches(executor, "source")) == {0, 1}


def test_a_perturbed_adapter_changes_what_is_said(fake: Fake, expected: list[list[int]]) -> None:
    """One adapter's tensor is overwritten while no slot holds it: its requests say something else."""
    home = peer_home(fake)
    wanted = jobs(1, 24)
    victim = next(adapter for _, _, adapter in wanted if adapter)
    (tensor,) = home.kept[victim]
    tensor.write(tensor.get().flip(0))
    executor = serve(home, 2)
    told = submit(executor, wanted)
    executor.run()
    for id, (_, _, adapter) in enumerate(wanted):
        assert (told[id] == expected[id]) == (adapter != victim)


def test_loads_beside_steps_in_another_thread(fake: Fake, expected: list[list[int]]) -> None:
    """Steps compute in a thread of their own while adapters come to slots: the same tokens."""
    worker = Threaded()
    executor = serve(peer_home(fake), 2, worker=worker)
    told = submit(executor, jobs(1, 24), 4)
    executor.run()
    worker.close()
    assert [told[id] for id in range(24)] == expected


def test_slices_that_page_keep_each_requests_adapter(fake: Fake, expected: list[list[int]]) -> None:
    """Time slices page requests out and in again, over a cache of few blocks: the same tokens, and bytes moved."""
    nbytes = KvPool.of(CONFIG, 1, SIZE).block_bytes
    with HostCopier() as copier, create("memfd", 100 * nbytes) as arena:
        pager = Pager(copier, Window(arena.ptr, nbytes), "always")
        pager.tier("host").add("own", arena.ptr, 100 * nbytes)
        pager.tier("host").grow(100)
        executor = serve(peer_home(fake), 6, blocks=9, policy="cfs", pager=pager)
        told = submit(executor, jobs(1, 24), 1)
        executor.run()
        assert pager.moved_bytes > 20 * nbytes
    assert executor.repaired == 0
    assert [told[id] for id in range(24)] == expected


@pytest.mark.parametrize("small", [False, True])
def test_eviction_and_reload_give_the_same_bytes(fake: Fake, small: bool) -> None:
    """Over one slot, adapter after adapter and all again: the slot's bytes are each one's, whatever was there before.

    As one tensor each, or as one for each A and B.
    """
    home, slots = peer_home(fake, small), LoraSlots(LAYOUT, 1)
    assert len(home.kept[NAMES[0]]) == (LAYOUT.tensors if small else 1)
    cache = LoraCache(slots, home, NAMES)
    for id, number in enumerate([0, 1, 2, 0, 1, 2]):
        while not (cache.submit(id, number) or cache.ready()[0]):
            pass
        assert cache.resident == [NAMES[number]]
        used = torch.cat([view.flatten() for *_, view in LAYOUT.pieces(slots.memory[0])])
        row = pack(ADAPTERS[number], LAYOUT, torch.float32)
        assert torch.equal(used, torch.cat([view.flatten() for *_, view in LAYOUT.pieces(row)]))
        cache.gone(id, number)
    assert [load.number for load in cache.loads] == [0, 1, 2, 0, 1, 2]


def test_only_those_wait_whose_adapter_is_not_there() -> None:
    """While a load hangs, requests without an adapter are served to their end; then the others are."""
    gate = Gate()
    executor = serve(gate, 2)
    told = submit(executor, [([1, 2, 3], 8, "a1"), ([1, 2, 3], 8, None), ([4, 5], 8, "a1")])
    while executor.sequences.keys() != {0, 2}:
        executor.turn()
    assert [len(told[id]) for id in range(3)] == [0, 8, 0]
    gate.open = True
    executor.run()
    assert [len(told[id]) for id in range(3)] == [8, 8, 8]
    assert gate.begun == ["a1"]


def test_the_first_in_line_gets_a_slot_however_popular_the_others_are() -> None:
    """One slot, and requests for its adapter that never cease: somebody else's turn comes all the same.

    Those who use it run to their end, those who came later for it wait behind the other.
    """
    gate = Gate()
    gate.open = True
    executor = serve(gate, 1)
    order: list[int] = []
    executor.on_gone = lambda id, outcome: order.append(id)
    executor.submit(0, [1, 2], 6, adapter="a0")
    for _ in range(3):
        executor.turn()
    executor.submit(1, [1, 2], 2, adapter="a1")
    for id in range(2, 12):
        executor.turn()
        executor.submit(id, [1, 2], 6, adapter="a0")
    executor.run()
    assert order[:2] == [0, 1]
    assert gate.begun == ["a0", "a1", "a0"]


def test_a_load_that_fails_rejects_who_waited_for_it() -> None:
    """Its requests are rejected with the reason, the slot serves others, and nobody else notices."""
    gate = Gate()
    gate.open = True
    gate.broken = {"a2"}
    executor = serve(gate, 1)
    told = submit(executor, [([1, 2], 3, "a2"), ([1, 2], 3, "a3"), ([3], 3, "a2")])
    executor.run()
    assert [len(told[id]) for id in range(3)] == [0, 3, 0]
    assert executor.tables.reasons == dict.fromkeys((0, 2), "adapter a2: the file is gone")
    assert executor.loras is not None
    executor.loras.check()


def test_unknown_adapters_are_refused() -> None:
    """The line names what there is; nothing has changed. Without a cache there is none at all."""
    executor = serve(Gate(), 1)
    with pytest.raises(UserError, match=r"there is no adapter 'x'; valid: a0, a1, a2, a3, a4, a5"):
        executor.submit(1, [1], 1, adapter="x")
    assert not executor.busy
    executor.loras = None
    with pytest.raises(UserError, match="adapter 'a0' is asked for, and this engine has none"):
        executor.submit(1, [1], 1, adapter="a0")


def test_who_gives_up_while_waiting_is_gone() -> None:
    """An abort before the adapter came: the scheduler never hears of the request, and the slot is another's."""
    gate = Gate()
    executor = serve(gate, 1)
    executor.log = []
    told = submit(executor, [([1, 2], 3, "a0"), ([1, 2], 3, "a1")])
    executor.turn()
    executor.abort(0)
    gate.open = True
    executor.run()
    assert [len(told[id]) for id in range(2)] == [0, 3]
    heard = [event for _, event in executor.log if isinstance(event, Arrived | Aborted)]
    assert [event.request for event in heard] == [1]
    assert gate.begun == ["a0", "a1"]


def test_adapters_do_not_share_prefixes() -> None:
    """Two requests of one prompt and different adapters find none of each other's blocks; the same adapter does."""
    gate = Gate()
    gate.open = True
    executor = serve(gate, 2, prefix_caching=True)
    prompt = list(range(3 * SIZE))
    cached = []
    executor.on_gone = lambda id, outcome: None
    for id, adapter in enumerate(["a0", "a1", "a0", None]):
        executor.submit(id, prompt, 2, adapter=adapter, prefix=(11, 12, 13))
        sequence = executor.sequences[id]
        executor.run()
        cached.append(sequence.cached)
    assert cached == [0, 0, 2 * SIZE, 0]


def test_host_memory_is_a_home_too(expected: list[list[int]]) -> None:
    """Adapters in memory of our own: the same tokens."""
    home = HostHome(LAYOUT, torch.float32)
    for adapter in ADAPTERS:
        home.add(adapter)
    executor = serve(home, 2)
    told = submit(executor, jobs(1, 24))
    executor.run()
    assert [told[id] for id in range(24)] == expected
    home.close()


def test_a_pool_that_is_full_keeps_nothing_of_an_adapter() -> None:
    """The tensors that were put before it was full are freed again; a name is kept once."""
    fake = Fake(host_bytes=ROW // 2)
    home = PeerHome(fake.pool, LAYOUT, torch.float32, small=True)
    with pytest.raises(PoolFullError):
        home.add(ADAPTERS[0])
    assert not home.kept
    assert fake.pool.room[1] == ROW // 2 // 256 * 256
    fake.pool.close()
    assert (CONFIG.layers, RANK) == (2, 4)


class Late:
    """A home whose loads each take some looks to end."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def load(self, name: str, slot: torch.Tensor) -> tuple[Any, Any]:
        """See Home."""
        looks = self._rng.randrange(4)

        class Loading:
            def done(self) -> bool:
                nonlocal looks
                looks -= 1
                return looks < 0

        return Loading(), "host"

    def respond(self) -> None:
        """See Home."""


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), count=st.integers(1, 4))
def test_every_request_is_ready_some_time(seed: int, count: int) -> None:
    """Random arrivals, ends and aborts, loads of any length: adapters in use always have a slot each, and stay there.

    Once no more come, all are served.
    """
    rng, slots = random.Random(seed), LoraSlots(LoraLayout(CONFIG, 1, ("v_proj",)), count)
    cache = LoraCache(slots, Late(rng), NAMES)
    active: dict[int, tuple[int, int]] = {}
    waiting: dict[int, int] = {}
    arrived = 0
    while arrived < 60 or waiting:
        if arrived < 60 and len(active) < 8:
            number = min(rng.randrange(6), rng.randrange(6))
            if cache.submit(arrived, number):
                active[arrived] = (number, cache.slot(number))
            else:
                waiting[arrived] = number
            arrived += 1
        for id in cache.ready()[0]:
            number = waiting.pop(id)
            active[id] = (number, cache.slot(number))
        for id in [id for id in active if rng.random() < 0.2]:
            cache.gone(id, active.pop(id)[0])
        if waiting and rng.random() < 0.05:
            id = rng.choice(list(waiting))
            cache.gone(id, waiting.pop(id))
        cache.check()
        assert all(cache.slot(number) == slot for number, slot in active.values())
        assert len({number for number, _ in active.values()}) <= count
        assert cache.waiting == len(waiting)
