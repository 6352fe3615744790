"""Smooth monotone surfaces of time over logarithmic axes, fitted by regularised least squares.

A surface is a table of log2(nanoseconds) at the knots of a grid, multilinear in log2 of the coordinates
between them (hat functions), flat outside: what aquasim.hardware.grid evaluates at run time.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, identity, kron
from scipy.sparse.linalg import spsolve

Floats = NDArray[np.float64]
Expected = Callable[[Floats], Floats]

_HUBER = 0.1  # octaves: an error beyond this (7 %) counts linearly, so that one hiccup bends nothing
_ROUNDS = 6
_SWEEPS = 200


class Surface:
    """Estimator of time over positive coordinates (shape: samples x axes).

    `knots` holds the knots of each axis, ascending; `smooth` weighs second differences along all axes against
    the samples (slopes in octaves per octave); along the axes `rising` time never falls.

    Where samples are sparse, `expected` gives seconds at points (rows x axes) from the hardware's peaks. What
    is then smooth is the ratio to it, and `ridge` weighs, for each axis, the ratio's first differences: knots
    without samples take their neighbours' share of the peak. No knot gets less than `least` seconds.
    """

    def __init__(
        self,
        knots: tuple[tuple[float, ...], ...],
        *,
        smooth: float,
        rising: tuple[int, ...],
        expected: Expected | None = None,
        ridge: tuple[float, ...] = (),
        least: float = 0.0,
    ) -> None:
        self.knots = knots
        self.smooth = smooth
        self.rising = rising
        self.expected = expected
        self.ridge = ridge
        self.least = least

    def fit(self, x: Floats, seconds: Floats) -> Self:
        """Fit to `seconds` at the points `x`, by relative error. Sets `table_`, log2 ns at the knots."""
        design, target = self._design(x), np.log2(seconds * 1e9)
        prior = self._prior()
        if prior is not None:
            target = target - design @ prior
        roughness = self._roughness()
        weights = np.ones(len(target))
        for _ in range(_ROUNDS):
            weighted = design.multiply(weights[:, None]).tocsr()
            solution = spsolve((design.T @ weighted + roughness).tocsc(), weighted.T @ target)
            error = np.abs(design @ solution - target)
            weights = np.minimum(1.0, _HUBER / np.maximum(error, 1e-9))
        table = solution if prior is None else solution + prior
        if self.least:
            table = np.maximum(table, np.log2(self.least * 1e9))
        self.table_ = self._monotone(table.reshape([len(axis) for axis in self.knots]))
        return self

    def predict(self, x: Floats) -> Floats:
        """Return seconds at the points `x`."""
        return np.asarray(np.exp2(self._design(x) @ self.table_.ravel()) * 1e-9)

    def _prior(self) -> Floats | None:
        """Return log2 ns expected at the knots, where an expectation was given."""
        if self.expected is None:
            return None
        points = np.stack(np.meshgrid(*self.knots, indexing="ij"), axis=-1).reshape(-1, len(self.knots))
        return np.asarray(np.log2(self.expected(points) * 1e9))

    def _design(self, x: Floats) -> csr_matrix:
        """Return the weight of each knot at each point (samples x knots)."""
        cells, shares = zip(*(self._locate(axis, x[:, i]) for i, axis in enumerate(self.knots)), strict=True)
        shape = [len(axis) for axis in self.knots]
        rows = np.arange(len(x))
        total = csr_matrix((len(rows), int(np.prod(shape))))
        for corner in product((0, 1), repeat=len(shape)):
            steps = [np.minimum(c + d, n - 1) for c, d, n in zip(cells, corner, shape, strict=True)]
            weight = np.prod([s if d else 1 - s for s, d in zip(shares, corner, strict=True)], axis=0)
            columns = np.ravel_multi_index(steps, shape)
            total = total + csr_matrix((weight, (rows, columns)), shape=total.shape)
        return total

    @staticmethod
    def _locate(axis: tuple[float, ...], values: Floats) -> tuple[NDArray[np.intp], Floats]:
        """Return the cell of each value and how far into it, in log2; outside the axis the nearest end."""
        logs = np.log2(np.asarray(axis))
        inside = np.clip(np.log2(values), logs[0], logs[-1])
        cell = np.clip(np.searchsorted(logs, inside, side="right") - 1, 0, max(0, len(logs) - 2))
        width = logs[np.minimum(cell + 1, len(logs) - 1)] - logs[cell]
        return cell, (inside - logs[cell]) / np.where(width > 0, width, 1)

    def _roughness(self) -> csr_matrix:
        """Return the quadratic form of second differences along every axis, and of first ones by `ridge`."""
        total = 1e-9 * identity(int(np.prod([len(axis) for axis in self.knots])), format="csr")
        for i, axis in enumerate(self.knots):
            operator = self._along(i, _second_difference(np.log2(np.asarray(axis))))
            total = total + self.smooth * (operator.T @ operator)
        for i, weight in enumerate(self.ridge):
            operator = self._along(i, _first_difference(np.log2(np.asarray(self.knots[i]))))
            total = total + weight * (operator.T @ operator)
        return total.tocsr()

    def _along(self, axis: int, matrix: csr_matrix) -> csr_matrix:
        """Return the operator that applies `matrix` along one axis of the table."""
        sizes = [len(knots) for knots in self.knots]
        parts = [identity(n) for n in sizes[:axis]] + [matrix] + [identity(n) for n in sizes[axis + 1 :]]
        operator = parts[0]
        for part in parts[1:]:
            operator = kron(operator, part)
        return operator

    def _monotone(self, table: Floats) -> Floats:
        """Return a table near `table` that falls along none of the rising directions."""
        pooled = table.copy()
        for _ in range(_SWEEPS):
            for low, high in self._neighbours(pooled):
                mean, falls = (low + high) / 2, low > high
                low[falls], high[falls] = mean[falls], mean[falls]
        above = below = pooled
        for axis in self.rising:
            above = np.maximum.accumulate(above, axis=axis)
            below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis=axis), axis)
        return (above + below) / 2

    def _neighbours(self, table: Floats) -> Iterator[tuple[Floats, Floats]]:
        """Yield views of knots and of the next ones along each rising axis, no knot twice in one pair."""
        for axis, start in product(self.rising, (0, 1)):
            view = np.moveaxis(table, axis, 0)
            yield view[start:-1:2], view[start + 1 :: 2]


def _first_difference(x: Floats) -> csr_matrix:
    """Return the matrix that gives the change between knots, over the root of their distance."""
    matrix = np.zeros((max(1, len(x) - 1), len(x)))
    for i in range(len(x) - 1):
        matrix[i, i : i + 2] = np.array([-1.0, 1.0]) / np.sqrt(x[i + 1] - x[i])
    return csr_matrix(matrix)


def _second_difference(x: Floats) -> csr_matrix:
    """Return the matrix that gives the change of slope at each inner knot."""
    rows = max(0, len(x) - 2)
    matrix = np.zeros((rows, len(x)))
    for i in range(rows):
        left, right = x[i + 1] - x[i], x[i + 2] - x[i + 1]
        matrix[i, i : i + 3] = 1 / left, -1 / left - 1 / right, 1 / right
    return csr_matrix(matrix) if rows else csr_matrix((1, len(x)))
