"""Which points no other beats."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def front(costs: Any) -> Mask:
    """Say which rows are not dominated: no other is as small in every column and smaller in one.

    Rows with NaN are not on the front, and beat nobody. Equal rows are on it together.
    """
    table = np.asarray(costs, np.float64)
    if table.ndim != 2:
        raise ValueError(f"costs have {table.ndim} dimensions; rows and columns are needed")
    found = np.zeros(len(table), np.bool_)
    rows = np.flatnonzero(~np.isnan(table).any(axis=1))
    if not len(rows) or not table.shape[1]:
        return found
    unique, place = np.unique(table[rows], axis=0, return_inverse=True)
    kept = _front_of_two(unique) if table.shape[1] == 2 else _front_of_many(unique)
    found[rows] = kept[place.reshape(-1)]
    return found


def _front_of_two(ordered: Any) -> Mask:
    """Rows ascend, so one is on the front if its second number is below all before it."""
    best = np.minimum.accumulate(ordered[:, 1])
    kept = np.ones(len(ordered), np.bool_)
    kept[1:] = ordered[1:, 1] < best[:-1]
    return kept


def _front_of_many(ordered: Any) -> Mask:
    """Rows ascend and differ, so only earlier ones dominate: those on the front so far are enough to ask."""
    kept = np.zeros(len(ordered), np.bool_)
    members = np.empty_like(ordered)
    count = 0
    for index, row in enumerate(ordered):
        if not (members[:count] <= row).all(axis=1).any():
            kept[index] = True
            members[count] = row
            count += 1
    return kept
