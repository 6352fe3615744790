"""Copies beside the caller: bytes arrive, tensors stay put meanwhile, and no lease is written to that forbids it."""

import threading
from typing import TYPE_CHECKING

import pytest
from faked import KIB, Fake, data, same, side

from aquasim.runtime.copy import HostEvent
from aquasim.runtime.tensors import AquaTensor, Part

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")


def part(tensor: AquaTensor, first: int, held: "torch.Tensor") -> Part:
    """Return the part of a tensor that a row of bytes stands for."""
    return Part(tensor, first, held.nbytes, held.data_ptr())


def test_parts_are_fetched_and_stored(fake: Fake) -> None:
    """Parts of two tensors, on the host and on a lease, in one flight: exactly their bytes, and counted by side."""
    fake.grant(8 * KIB)
    fake.later()
    one, other = fake.pool.put(data(6 * KIB, 1)), fake.pool.put(data(10 * KIB, 2))
    assert (one.where, other.where) == ("peer", "host")
    new = [data(100, 3), data(200, 4)]
    flight = fake.pool.store([part(one, 5, new[0]), part(other, 1000, new[1])])
    flight.wait()
    assert (flight.peer_bytes, flight.host_bytes) == (100, 200)
    for tensor, seed, first, row in ((one, 1, 5, new[0]), (other, 2, 1000, new[1])):
        wanted = data(tensor.nbytes, seed)
        wanted[first : first + len(row)] = row
        assert same(tensor.get(), wanted)
    found = [torch.zeros(50, dtype=torch.uint8), torch.zeros(200, dtype=torch.uint8)]
    flight = fake.pool.fetch([part(one, 5, found[0]), part(other, 1000, found[1])])
    flight.wait()
    assert same(found[0], new[0][:50])
    assert same(found[1], new[1])
    fake.pool.fetch([]).wait()


def test_a_tensor_in_flight_stays_where_it_is(fake: Fake) -> None:
    """Neither called back, promoted nor freed until the copy has ended; then at the next respond."""
    mapped = fake.grant()
    fake.later()
    tensor = fake.pool.put(data(KIB))
    gate, target = HostEvent(), torch.zeros(KIB, dtype=torch.uint8)
    flight = fake.pool.fetch([part(tensor, 0, target)], gate)
    fake.revoke(mapped)
    assert fake.later().held == KIB
    assert tensor.where == "peer"
    with pytest.raises(BufferError):
        tensor.free()
    assert not flight.done()
    gate.set()
    flight.wait()
    assert same(target, data(KIB))
    assert fake.later().demoted == KIB
    assert same(tensor.get(), data(KIB))


def test_a_store_that_the_lease_forbids_goes_to_the_host_whole(fake: Fake) -> None:
    """The rest of the tensor is copied there first, after stores that are under way; respond makes it its place."""
    mapped = fake.grant()
    fake.later()
    tensor, gate = fake.pool.put(data(KIB)), HostEvent()
    first, second = data(10, 5), data(20, 6)
    fake.pool.store([part(tensor, 0, first)], gate)
    fake.held[mapped] = False
    threading.Timer(0.05, gate.set).start()
    flight = fake.pool.store([part(tensor, 100, second)])
    assert (flight.peer_bytes, flight.host_bytes) == (0, 20)
    flight.wait()
    wanted = data(KIB)
    wanted[:10], wanted[100:120] = first, second
    assert same(tensor.get(), wanted)
    assert side(tensor) == "peer"
    fake.pool.respond()
    assert side(tensor) == "host"
    assert same(tensor.get(), wanted)
    fake.pool.check()


def test_a_write_waits_for_what_is_read(fake: Fake) -> None:
    """Contents are replaced only once a fetch that began before has them."""
    tensor, gate = fake.pool.put(data(KIB, 1)), HostEvent()
    target = torch.zeros(KIB, dtype=torch.uint8)
    fake.pool.fetch([part(tensor, 0, target)], gate)
    threading.Timer(0.05, gate.set).start()
    tensor.write(data(KIB, 2))
    assert same(target, data(KIB, 1))
    assert same(tensor.get(), data(KIB, 2))
