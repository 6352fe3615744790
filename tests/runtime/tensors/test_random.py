"""Tensors in leased memory, in random sequences of all that can happen to them."""

from typing import TYPE_CHECKING, Any

import pytest
from faked import KIB, PERIOD_S, Fake, data, same
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aquasim.runtime.peers import Mapped
from aquasim.runtime.tensors import AquaTensor, PoolFullError

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")


class Against(RuleBasedStateMachine):
    """The pool against a dict, over extents that come, lapse, are renewed and called back."""

    tensors = Bundle("tensors")

    def __init__(self) -> None:
        super().__init__()
        self.fake = Fake(host_bytes=16 * KIB)
        self.pool = self.fake.pool
        self.model: dict[AquaTensor, torch.Tensor] = {}
        self.views: list[tuple[AquaTensor, torch.Tensor]] = []
        self.before: dict[AquaTensor, str] = {}
        self.lapsed: dict[Mapped, bytes] = {}
        """What was in extents when their leases lapsed."""
        self.fake.grant(8 * KIB)
        self.pool.respond()

    @rule(target=tensors, nbytes=st.sampled_from([0, 1, KIB, 3 * KIB, 5 * KIB]), seed=st.integers(0, 99))
    def put(self, nbytes: int, seed: int) -> Any:
        """Put a tensor; a refusal changes nothing."""
        contents = data(nbytes, seed)
        room = self.pool.room
        try:
            made = self.pool.put(contents)
        except PoolFullError:
            assert room == self.pool.room
            return multiple()
        self.model[made] = contents
        self.before[made] = made.where
        return made

    @rule(tensor=tensors, seed=st.integers(100, 199))
    def write(self, tensor: AquaTensor, seed: int) -> None:
        """Replace the contents; a refusal leaves the old ones."""
        contents = data(tensor.nbytes, seed)
        try:
            tensor.write(contents)
        except (PoolFullError, BufferError):
            return
        self.model[tensor] = contents

    @rule(tensor=tensors)
    def view(self, tensor: AquaTensor) -> None:
        """Take a view and keep it."""
        self.views.append((tensor, tensor.to_torch_tensor()))

    @precondition(lambda self: self.views)
    @rule()
    def drop(self) -> None:
        """Drop all views."""
        self.views.clear()

    @rule(tensor=consumes(tensors))
    def free(self, tensor: AquaTensor) -> None:
        """Free a tensor."""
        self.views = [entry for entry in self.views if entry[0] is not tensor]
        tensor.free()
        del self.model[tensor], self.before[tensor]

    @precondition(lambda self: len(self.fake.held) < 4)
    @rule(nbytes=st.sampled_from([4 * KIB, 8 * KIB]))
    def grant(self, nbytes: int) -> None:
        """Lease an extent."""
        self.fake.grant(nbytes)

    @precondition(lambda self: self.fake.held)
    @rule(which=st.integers(0, 3), deed=st.sampled_from(["revoke", "lapse", "renew"]))
    def lease(self, which: int, deed: str) -> None:
        """Let something happen to a lease."""
        mapped = list(self.fake.held)[which % len(self.fake.held)]
        if deed == "revoke" and mapped not in self.fake.leaving:
            self.fake.revoke(mapped)
        elif deed == "lapse":
            self.fake.held[mapped] = False
            self.lapsed.setdefault(mapped, bytes(mapped.mapping.view()))
        elif deed == "renew":
            self.fake.held[mapped] = True
            self.lapsed.pop(mapped, None)

    @rule(seconds=st.sampled_from([0.0, 1.0, PERIOD_S]))
    def respond(self, seconds: float) -> None:
        """Let time pass and respond; only here may a tensor change its place."""
        self.fake.later(seconds)
        self.before = {tensor: tensor.where for tensor in self.model}

    @invariant()
    def right(self) -> None:
        """Contents are the model's, views too, and nothing has moved since the last `respond`."""
        self.pool.check()
        assert {tensor: tensor.where for tensor in self.model} == self.before
        assert all(same(tensor.get(), contents) for tensor, contents in self.model.items())
        assert all(same(view, self.model[tensor]) for tensor, view in self.views)
        for mapped in self.lapsed.keys() & self.fake.held.keys():
            assert bytes(mapped.mapping.view()) == self.lapsed[mapped]

    def teardown(self) -> None:
        """Close; every extent is given back."""
        self.views.clear()
        self.pool.close()
        assert not self.fake.held


def test_m05_random_sequences_against_a_dict() -> None:
    """Whatever the order of puts, writes, views, frees, grants, lapses, reclaims and responds: see `Against`."""
    sizes = settings(max_examples=100, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(Against, settings=sizes)
