"""What adapters in slots add: the same as weights they are merged into, whoever else is in the batch."""

import math

import numpy as np
import pytest
import torch
from lora_model import ADAPTERS, CONFIG, LAYOUT, PADDED, PROMPT, RANK, WEIGHTS, generate, merged, plain

from aquasim.runtime.engine import KvPool, Prefill, Runner, random_weights
from aquasim.runtime.lora import Adapter, LoraLayout, LoraSlots, pack, random_adapter


def filled(count: int = 3, layout: LoraLayout = LAYOUT) -> LoraSlots:
    """Return slots with the first adapters in them."""
    slots = LoraSlots(layout, count)
    for slot in range(count):
        slots.memory[slot] = pack(ADAPTERS[slot], layout, torch.float32)
    return slots


@pytest.mark.parametrize("layout", [LAYOUT, LoraLayout(CONFIG, 2 * RANK)])
def test_tokens_are_those_of_merged_weights(layout: LoraLayout) -> None:
    """Three adapters, in slots of their rank and of a larger one, say what the merged model says: 24 tokens, greedy.

    Each says something else, and the model without any says what it says without slots.
    """
    engine = plain(slots=filled(layout=layout))
    said = [generate(engine, 24, slot) for slot in (0, 1, 2, -1)]
    assert said == [
        *(generate(plain(merged(adapter)), 24) for adapter in ADAPTERS[:3]),
        generate(plain(), 24),
    ]
    assert len({tuple(tokens) for tokens in said}) == 4


def test_logits_differ_from_the_merged_models_by_rounding_only() -> None:
    """Float32: the largest difference is below 1e-5, a thousandth of the gap between first and second token."""
    chunk = Prefill(1, PROMPT, 0, range(4), adapter=1)
    found = plain(slots=filled()).logits([chunk])[0]
    wanted = plain(merged(ADAPTERS[1])).logits([Prefill(1, PROMPT, 0, range(4))])[0]
    first, second = wanted.topk(2).values.tolist()
    assert (found - wanted).abs().max() < min(1e-5, (first - second) / 1000)


@pytest.mark.parametrize(
    "targets", [("q_proj",), ("k_proj", "v_proj"), ("up_proj", "o_proj"), ("down_proj", "gate_proj")]
)
def test_any_targets(targets: tuple[str, ...]) -> None:
    """Slots for some projections only: as merged. A v without a q adds to the right columns."""
    adapter = random_adapter(CONFIG, RANK, 9, targets=targets)
    slots = LoraSlots(LoraLayout(CONFIG, RANK, targets), 1)
    slots.memory[0] = pack(adapter, slots.layout, torch.float32)
    assert (
        generate(plain(slots=slots), 16, 0) == generate(plain(merged(adapter)), 16) != generate(plain(), 16)
    )


def mixed(slots: LoraSlots | None, who: list[tuple[int, int]]) -> dict[int, torch.Tensor]:
    """Return logits of (request, slot) pairs that prefill in one step and decode together, all steps stacked."""
    pool = KvPool.of(CONFIG, 40, 4, fill=math.nan)
    runner = Runner(CONFIG, WEIGHTS, pool, padded=PADDED, loras=slots)
    prompts = {id: [(7 * id + 3 * i) % 97 for i in range(4 + id)] for id, _ in who}
    blocks = {id: range(8 * id, 8 * id + 6) for id, _ in who}
    chunks = [Prefill(id, prompts[id], 0, blocks[id], adapter=slot) for id, slot in who]
    rows = [runner.logits(chunks)]
    for (id, slot), row in zip(who, rows[0], strict=True):
        runner.batch.join(id, int(row.argmax()), len(prompts[id]), blocks[id], adapter=slot)
    for _ in range(6):
        rows.append(runner.logits())
        runner.batch.advance(rows[-1].argmax(1).numpy())
    return {id: torch.stack([step[index] for step in rows]) for index, (id, _) in enumerate(who)}


def test_mixed_batches_equal_separate_runs() -> None:
    """Padded: logits of 5 requests with 3 adapters and none, in one batch, are those of each alone, bit for bit.

    Those without an adapter are those of a runner that has no slots.
    """
    who = [(0, 1), (1, -1), (2, 0), (3, 1), (4, 2)]
    together = mixed(filled(), who)
    for id, slot in who:
        alone = mixed(filled() if slot >= 0 else None, [(id, slot)])
        assert torch.equal(together[id], alone[id])


def test_another_slot_gives_the_same_bits() -> None:
    """The same adapter in the first and in the last slot."""
    slots = filled()
    slots.memory[2] = slots.memory[0]
    assert torch.equal(mixed(slots, [(1, 0)])[1], mixed(slots, [(1, 2)])[1])


def test_what_graphs_run_equals_what_steps_run() -> None:
    """Products of all slots, masked by row, differ from those grouped by adapter by rounding only."""
    slots, generator = filled(), torch.Generator().manual_seed(1)
    rows = np.array([1, -1, 0, 2, 2, -1, 0])
    grouped, masked = slots.delta(rows, 0), slots.masked(torch.from_numpy(rows))
    assert grouped is not None
    for group, inputs, outputs in (
        ("qkv", 32, 64),
        ("output", 32, 32),
        ("gate_up", 32, 96),
        ("down", 48, 32),
    ):
        x, y = torch.randn(7, inputs, generator=generator), torch.randn(7, outputs, generator=generator)
        one, other = y.clone(), y.clone()
        grouped(1, group, x, one)  # type: ignore[arg-type]
        masked(1, group, x, other)  # type: ignore[arg-type]
        assert (one - other).abs().max() < 1e-5
        assert torch.equal(one[rows < 0], y[rows < 0])
        assert torch.equal(other[rows < 0], y[rows < 0])
        assert (one[rows >= 0] != y[rows >= 0]).any(1).all()


def test_slots_that_are_not_there_are_refused() -> None:
    """A chunk that names a slot beyond the last, or any where there are none."""
    for slots, slot in ((filled(2), 2), (None, 0)):
        with pytest.raises(ValueError, match=f"there is no slot {slot} for adapters"):
            plain(slots=slots).step([Prefill(1, PROMPT, 0, range(4), adapter=slot)])


@pytest.mark.gpu
def test_graphs_and_eager_steps_and_merged_weights_agree_on_a_gpu() -> None:
    """Float32 on a GPU: decodes as CUDA graphs, without graphs, and merged into the weights say the same."""
    pytest.importorskip("triton")

    def said(graphs: bool) -> list[list[int]]:
        pool = KvPool.of(CONFIG, 16, 16, device="cuda", fill=math.nan)
        slots = LoraSlots(LAYOUT, 3, device="cuda")
        slots.memory.copy_(filled().memory)
        weights = random_weights(CONFIG, 3, device="cuda")
        runner = Runner(CONFIG, weights, pool, device="cuda", loras=slots, graphs=graphs, max_seqs=4)
        return [generate(runner, 12, slot) for slot in (0, 1, 2, -1)]

    assert said(True) == said(False)
    assert len({tuple(tokens) for tokens in said(True)}) == 4


def test_an_adapter_of_nothing_changes_nothing() -> None:
    """B is zero: the tokens are the model's."""
    some = ADAPTERS[0]
    nothing = {key: (a, torch.zeros_like(b)) for key, (a, b) in some.matrices.items()}
    slots = LoraSlots(LAYOUT, 1)
    slots.memory[0] = pack(Adapter("none", RANK, 1.0, nothing), LAYOUT, torch.float32)
    assert generate(plain(slots=slots), 16, 0) == generate(plain(), 16)
