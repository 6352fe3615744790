"""The checksum of memory: what it is, and what it notices."""

import ctypes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquasim.runtime.copy import checksum


def weigh(data: bytes) -> int:
    """Return the checksum by its definition, word by word."""
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
    total = sum((2 * index + 1) * word for index, word in enumerate(words)) % 2**64
    return total - 2**64 if total >= 2**63 else total


def of(data: bytes, offset: int = 0) -> int:
    """Return the checksum of bytes that lie `offset` bytes beside an aligned address."""
    memory = ctypes.create_string_buffer(b"\0" * offset + data, offset + len(data))
    return checksum(ctypes.addressof(memory) + offset, len(data))


@given(st.binary(min_size=1, max_size=300), st.integers(0, 7))
def test_it_is_the_weighted_sum_at_any_address(data: bytes, offset: int) -> None:
    """Whatever the length and the alignment, it is the sum of (2 i + 1) w[i] modulo 2**64."""
    assert of(data, offset) == weigh(data)


@pytest.mark.parametrize("nbytes", [32768, 32768 + 8, (1 << 20) - 1, 1 << 20, (1 << 20) + 5, 3 << 20])
def test_it_is_the_weighted_sum_across_chunks(nbytes: int) -> None:
    """Rows, columns and chunks, by which it is computed, do not show in the result."""
    data = np.random.default_rng(nbytes).integers(0, 256, nbytes, dtype=np.uint8).tobytes()
    words = np.frombuffer(data + bytes(-nbytes % 8), dtype=np.uint64)
    weights = 2 * np.arange(len(words), dtype=np.uint64) + 1
    assert of(data) % 2**64 == int((words * weights).sum())


@given(st.binary(min_size=1, max_size=64), st.data())
def test_no_change_within_a_word_goes_unnoticed(data: bytes, draw: st.DataObject) -> None:
    """Flipping any bits of one byte changes it."""
    at = draw.draw(st.integers(0, len(data) - 1))
    flipped = bytes([data[at] ^ draw.draw(st.integers(1, 255))])
    assert of(data) != of(data[:at] + flipped + data[at + 1 :])


def test_it_tells_order() -> None:
    """Two blocks in the wrong order have another checksum."""
    assert of(b"a" * 64 + b"b" * 64) != of(b"b" * 64 + b"a" * 64)


def test_nothing_has_no_checksum() -> None:
    """An empty range is a mistake."""
    with pytest.raises(ValueError, match="0 bytes"):
        checksum(4096, 0)
