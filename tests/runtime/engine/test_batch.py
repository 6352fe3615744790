"""The persistent batch against a dict, under any joins, leaves, growth and steps."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from aquasim.runtime.engine import DecodeBatch, Sampling


class Batches(RuleBasedStateMachine):
    """Real batch beside a plain model: id -> (token, position, blocks, temperature)."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.batch = DecodeBatch(5, 6, 4, idle=99)
        self.model: dict[int, tuple[int, int, list[int], float]] = {}
        self.made = 0

    @precondition(lambda self: len(self.model) < 5)
    @rule(target=ids, token=st.integers(0, 50), blocks=st.lists(st.integers(0, 50), min_size=1, max_size=6),
          data=st.data(), warm=st.booleans())  # fmt: skip
    def join(self, token: int, blocks: list[int], data: st.DataObject, warm: bool) -> int:
        """Somebody new, anywhere in its blocks."""
        position = data.draw(st.integers(0, len(blocks) * 4 - 1))
        self.made += 1
        self.batch.join(self.made, token, position, blocks, Sampling(temperature=float(warm)))
        self.model[self.made] = (token, position, list(blocks), float(warm))
        return self.made

    @rule(id=consumes(ids))
    def leave(self, id: int) -> None:
        """Somebody goes."""
        self.batch.leave(id)
        del self.model[id]

    @rule(id=ids, block=st.integers(0, 50))
    def grow(self, id: int, block: int) -> None:
        """Somebody gets a block, or the table is full."""
        if len(self.model[id][2]) == 6:
            with pytest.raises(ValueError, match="holds 6 blocks"):
                self.batch.grow(id, block)
        else:
            self.batch.grow(id, block)
            self.model[id][2].append(block)

    @rule()
    def step(self) -> None:
        """Everybody advances by a token, unless somebody lacks a block."""
        if any(position >= 4 * len(blocks) for _, position, blocks, _ in self.model.values()):
            with pytest.raises(ValueError, match="have no block for their next token"):
                self.batch.begin()
            return
        self.batch.begin()
        tokens = np.array([id * 7 + self.model[id][1] for id in self.batch.ids], np.int64)
        self.batch.advance(tokens)
        for id, token in zip(self.batch.ids, tokens.tolist(), strict=True):
            _, position, blocks, warm = self.model[id]
            self.model[id] = (token, position + 1, blocks, warm)

    @invariant()
    def same(self) -> None:
        """Rows hold what the model holds; rows beyond stand for nobody."""
        self.batch.check()
        assert set(self.batch.ids) == set(self.model)
        assert self.batch.longest() == max((m[1] + 1 for m in self.model.values()), default=0)
        choices = self.batch.choices()
        for row, id in enumerate(self.batch.ids):
            token, position, blocks, warm = self.model[id]
            assert self.batch.token(id) == (token, position)
            assert self.batch.blocks(id) == blocks
            assert self.batch.tables.device[row, : len(blocks)].tolist() == blocks
            assert int(self.batch.tokens.device[row]) == token
            assert (choices.temperature[row], choices.position[row]) == (warm, position + 1)


TestBatches = Batches.TestCase
TestBatches.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_misuse_is_refused() -> None:
    """Twice the same id, no room, blocks that do not reach, ids that are not in; nothing changes."""
    batch = DecodeBatch(1, 2, 4, idle=9)
    with pytest.raises(ValueError, match="position 4 is not in its 1 blocks"):
        batch.join(1, 5, 4, [0])
    with pytest.raises(ValueError, match="has 3 blocks; the batch's tables hold 2"):
        batch.join(1, 5, 4, [0, 1, 2])
    batch.join(1, 5, 3, [0])
    with pytest.raises(ValueError, match="request 1 is in the batch already"):
        batch.join(1, 5, 3, [0])
    with pytest.raises(ValueError, match="the batch is full: 1 sequences"):
        batch.join(2, 5, 3, [0])
    with pytest.raises(KeyError):
        batch.leave(2)
    assert (len(batch), 1 in batch, 2 in batch) == (1, True, False)
    batch.check()
