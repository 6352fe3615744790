"""Invariants of scheduling, for every policy, through random workloads."""

import pytest
from driver import Driver
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loads import MODES, PLAIN, Mode, options, random_limits

from aquasim.core import Step, make_policy, replay


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9), caching=st.booleans())
def test_every_request_ends_and_no_invariant_breaks(name: str, mode: Mode, seed: int, caching: bool) -> None:
    """Every request finishes, is rejected or aborted; blocks are owned once; budgets hold; nothing leaks."""
    limits, load = random_limits(seed, mode, caching)
    driver = Driver(limits, make_policy(name, **options(name, seed, mode)), load, seed).run()
    assert set(driver.outcome) == set(range(len(load.jobs)))
    assert driver.scheduler.pool.free == limits.blocks
    assert all(pool.held == 0 for pool in driver.scheduler.pager.tiers.values())
    assert not driver.scheduler.requests
    assert not driver.scheduler.running
    assert not driver.scheduler.paged


@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**9), caching=st.booleans())
def test_replaying_the_events_gives_the_same_commands(name: str, seed: int, caching: bool) -> None:
    """A recorded event stream, fed to a fresh scheduler, yields every command again."""
    limits, load = random_limits(seed, "chunked", caching)
    driver = Driver(limits, make_policy(name, **options(name, seed)), load, seed, check=False).run()
    assert replay(limits, make_policy(name, **options(name, seed)), driver.records) == driver.commands
    assert any(isinstance(command, Step) for command in driver.commands) or not driver.todo
