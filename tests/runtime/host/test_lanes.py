"""NEO's requirements N2, N3, N5 and N6 on a real model: who attends changes no token."""

import math
from typing import Any

import pytest
import torch
from host_model import CONFIG, PROMPTS, STEPS, blocks, made

from aquasim.runtime.copy import HostCopier
from aquasim.runtime.engine import Hosted, KvPool, Prefill, Runner, Sides, runner
from aquasim.runtime.engine.sampling import choose
from aquasim.runtime.engine.wires import Staged

Told = dict[int, list[int]]


def generate(
    engine: Runner, hosted: set[int], staged: bool = True, second: int = 2, steps: int = STEPS
) -> Told:
    """Return what each request says; those in `hosted` decode on the host, `second` at least in sub-batch 1."""
    told: Told = {}
    for id, prompt in PROMPTS.items():
        there = id in hosted and staged
        told[id] = [engine.step([Prefill(id, prompt, 0, blocks(id), staged=there)], False)[id]]
        if id not in hosted:
            engine.batch.join(id, told[id][0], len(prompt), blocks(id))
    for _ in range(steps - 1):
        asked = [
            Hosted(id, told[id][-1], len(PROMPTS[id]) + len(told[id]) - 1, blocks(id))
            for id in sorted(hosted)
        ]
        cut = max(0, len(asked) - second)
        for id, token in engine.step((), True, Sides(asked[:cut], asked[cut:])).items():
            told[id].append(token)
    return told


@pytest.fixture(scope="module")
def alone() -> Told:
    """What each request says with nobody beside it, wholly on the device."""
    told = {}
    for id, prompt in PROMPTS.items():
        engine = made()
        told[id] = [engine.step([Prefill(id, prompt, 0, blocks(id))], False)[id]]
        engine.batch.join(id, told[id][0], len(prompt), blocks(id))
        told[id] += [engine.step()[id] for _ in range(STEPS - 1)]
        close(engine)
    return told


def close(engine: Runner) -> None:
    """End an engine's threads."""
    assert engine.host is not None
    engine.host.close()


@pytest.mark.parametrize("second", [0, 2, 6])
@pytest.mark.parametrize("hosted", [set(), {0, 2, 5}, set(PROMPTS)], ids=["0%", "50%", "100%"])
def test_n2_greedy_tokens_are_equal_wherever_attention_is_computed(
    hosted: set[int], second: int, alone: Told
) -> None:
    """Float32: 0, 50 and 100 % of requests on the host, in either sub-batch or both: the tokens each has alone."""
    engine = made()
    assert generate(engine, hosted, second=second) == alone
    assert engine.host is not None
    assert engine.host.computed == len(hosted) * CONFIG.layers * (STEPS - 1)
    written = torch.isfinite(engine.pool.data).flatten(1).any(1)
    assert {int(block) // 10 for block in torch.nonzero(written)} == set(
        PROMPTS
    ) - hosted  # none for staged ones
    close(engine)


def test_products_in_padded_shapes_are_the_same_too(alone: Told) -> None:
    """In the mode for tests, both sub-batches are filled up to whole shapes."""
    engine = made(padded=32)
    assert generate(engine, {1, 2, 4}) == alone
    close(engine)


def test_n6_staged_pages_are_those_of_the_gpu_to_the_bit() -> None:
    """A prompt's keys and values leave layer by layer; its blocks on the host are what a GPU's blocks would be."""
    engine, other = made(padded=32), made(padded=32)
    for id, prompt in PROMPTS.items():
        engine.step([Prefill(id, prompt, 0, blocks(id), staged=True)], False)
        other.step([Prefill(id, prompt, 0, blocks(id))], False)
    assert engine.host is not None
    assert torch.equal(engine.host.pool.data.view(torch.int32), other.pool.data.view(torch.int32))
    tokens = sum(map(len, PROMPTS.values()))
    assert engine.host.staged == tokens * CONFIG.layers * 2 * CONFIG.kv_heads * CONFIG.head_dim * 4
    assert not torch.isfinite(engine.pool.data).any()
    close(engine)
    close(other)


def test_n3_the_host_appends_new_keys_and_the_gpu_stores_none(alone: Told) -> None:
    """After decodes, all computed tokens of a request are in the host's pool, and nothing of it anywhere else."""
    engine = made()
    generate(engine, set(PROMPTS))
    assert engine.host is not None
    for id, prompt in PROMPTS.items():
        slots = engine.host.slots(blocks(id), 0, 40)
        known = torch.isfinite(engine.host.pool.read(CONFIG.layers - 1, slots)[0]).all(dim=(1, 2))
        assert int(known.sum()) == len(prompt) + STEPS - 1
        assert known[: len(prompt) + STEPS - 1].all()
    assert not torch.isfinite(engine.pool.data).any()
    close(engine)


def test_a_spoilt_page_on_the_host_changes_the_output(alone: Told) -> None:
    """What lies in the host's pool is really read: other bytes, other tokens, of that request only."""
    engine = made()
    assert engine.host is not None
    page = engine.host.pool.data[blocks(4)[0]]
    spoilt = False

    def spoil(*args: Any) -> None:
        nonlocal spoilt
        if not spoilt:
            page.mul_(-3.0)
            spoilt = True
        attend(*args)

    attend = engine.host.attention.attend
    engine.host.attention.attend = spoil  # type: ignore[method-assign, assignment]
    found = generate(engine, {2, 4})
    assert found[4] != alone[4]
    assert {id: found[id] for id in PROMPTS if id != 4} == {id: alone[id] for id in PROMPTS if id != 4}
    close(engine)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-2), (torch.bfloat16, 0.15)])
def test_half_precision_differs_by_its_rounding_only(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits after the same tokens: the host sums in float32 and rounds once, where torch rounds on the way.

    They are about 4 across; a rounding of float16 is 1/2048 of a value and of bfloat16 1/256, three layers of them
    add up. Tokens may differ where two logits are nearer to each other than that, so logits are compared.
    """
    seen: list[torch.Tensor] = []

    def keep(logits: torch.Tensor, choices: Any) -> torch.Tensor:
        seen.append(logits.float().clone())
        return choose(logits, choices)

    monkeypatch.setattr(runner, "choose", keep)
    last = []
    for hosted in (set(), set(PROMPTS)):
        engine = made(dtype)
        generate(engine, hosted, steps=2)
        last.append(seen[-1])
        close(engine)
    difference = (last[0] - last[1]).abs().max().item()
    assert 0 < difference < tolerance
    assert last[0].max() - last[0].min() > 20 * tolerance


def test_what_the_host_raises_is_raised_by_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error on the host's thread is not lost."""
    engine = made()
    assert engine.host is not None

    def fail(*args: Any) -> None:
        raise RuntimeError("no more memory")

    monkeypatch.setattr(engine.host.attention, "attend", fail)
    with pytest.raises(RuntimeError, match="no more memory"):
        generate(engine, {0})
    close(engine)


def test_staged_prompts_need_a_host_and_are_whole() -> None:
    """One line, and nothing has changed."""
    engine = made()
    with pytest.raises(ValueError, match="request 3: whole prompts are staged"):
        engine.step([Prefill(3, [1, 2], 4, [0, 1], staged=True)])
    close(engine)
    engine.host = None
    with pytest.raises(ValueError, match="request 3: whole prompts are staged"):
        engine.step([Prefill(3, [1, 2], 0, [0, 1], staged=True)])


def test_a_staging_layer_leaves_block_by_block() -> None:
    """What a GPU does, with memory of the CPU: a layer's tokens of several prompts, laid out as blocks and copied one
    by one, lie where a direct write puts them; other layers and blocks stay as they are."""
    pools = [KvPool.of(CONFIG, 60, 4, fill=-1.0) for _ in range(2)]
    lengths = {1: 9, 4: 4, 5: 17}
    slots = torch.cat([
        pools[0].slots(torch.tensor(blocks(id))[torch.arange(n) // 4], torch.arange(n)) for id, n in lengths.items()
    ])  # fmt: skip
    keys, values = (torch.randn(30, CONFIG.kv_heads, CONFIG.head_dim) for _ in range(2))
    pools[0].write(1, slots, keys, values)
    staged = Staged.of(pools[1], slots)
    assert len(staged.blocks) == 3 + 1 + 5
    staging = torch.full((9, 2, 4, CONFIG.kv_heads, CONFIG.head_dim), -1.0)
    staged.fill(staging, keys, values)
    with HostCopier() as copier:
        copier.submit(staged.copies(staging.data_ptr(), 1), copier.outgoing).wait()
    assert torch.equal(pools[0].data, pools[1].data)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("attention", ["sdpa", "triton"])
def test_lanes_on_a_gpu_say_what_lanes_on_the_cpu_say(attention: str, alone: Told) -> None:
    """The same code with streams, events and pinned buffers: the tokens that the CPU has, in float32."""
    if attention == "triton":
        pytest.importorskip("triton")
    for hosted in (set(), {0, 2, 5}, set(PROMPTS)):
        engine = made(device="cuda", attention=attention)
        assert generate(engine, hosted) == alone
        assert engine.host is not None
        assert engine.host.computed == len(hosted) * CONFIG.layers * (STEPS - 1)
        for id in hosted:
            slots = engine.host.slots(blocks(id), 0, len(PROMPTS[id]) + STEPS - 1)
            assert all(math.isfinite(x) for x in engine.host.pool.read(0, slots)[0].flatten().tolist())
        close(engine)
