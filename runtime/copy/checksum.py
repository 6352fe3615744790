"""A checksum of memory that a GPU computes beside a copy and a CPU at memory speed, with equal results."""

import ctypes

import numpy as np
import numpy.typing as npt

_COLUMNS, _ROWS = 4096, 32  # 1 MiB at a time stays in the L2 cache between the two passes
_COLUMN_WEIGHTS = 2 * np.arange(_COLUMNS, dtype=np.uint64) + 1
_ROW_WEIGHTS = 2 * _COLUMNS * np.arange(_ROWS, dtype=np.uint64)


def checksum(start: int, nbytes: int) -> int:
    """Weigh `nbytes` bytes of host memory at address `start`; the result fits a signed 64-bit integer.

    It is the sum over little-endian 64-bit words w[i] (zeros pad the last one) of (2 i + 1) w[i], modulo 2**64: odd
    weights let no change of a single word go by, and growing ones tell order. It guards against faults, not against
    people. The range must be readable; raises ValueError for less than one byte.
    """
    if nbytes <= 0 or start <= 0:
        raise ValueError(f"checksum of {nbytes} bytes at address {start}")
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(start))
    whole = nbytes - nbytes % 8
    words = memory[:whole].view(np.uint64)
    step = _COLUMNS * _ROWS
    total = sum(_weigh(words[at : at + step], at) for at in range(0, len(words), step))
    rest = int.from_bytes(memory[whole:].tobytes(), "little")
    return _signed(total + (2 * len(words) + 1) * rest)


def _weigh(words: npt.NDArray[np.uint64], first: int) -> int:
    """Weigh words that begin at index `first`.

    Laid out in rows, a word's weight is its column's plus its row's; so it takes sums over both and few products,
    where multiplying every word would be three times slower.
    """
    full = len(words) // _COLUMNS
    grid, rest = words[: full * _COLUMNS].reshape(full, _COLUMNS), words[full * _COLUMNS :]
    columns, rows = grid.sum(axis=0), grid.sum(axis=1)
    total = int(columns @ _COLUMN_WEIGHTS) + int(rows @ _ROW_WEIGHTS[:full]) + 2 * first * int(rows.sum())
    base = 2 * (first + full * _COLUMNS)
    return total + int(rest @ _COLUMN_WEIGHTS[: len(rest)]) + base * int(rest.sum())


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value
