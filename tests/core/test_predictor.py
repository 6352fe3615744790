"""The tables that a cost-weighing policy plans by."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquasim.core.predictor import Curve, Predictor, Surface


def test_a_curve_is_linear_between_its_points_and_zero_at_zero() -> None:
    """Exact at the points, halfway between two the mean, flat below the first, 0 at 0 and below."""
    curve = Curve([10, 20, 40], [5.0, 9.0, 10.0])
    assert [curve.at(x) for x in (-1, 0, 3, 10, 15, 20, 30, 40)] == [0.0, 0.0, 5.0, 5.0, 7.0, 9.0, 9.5, 10.0]


def test_nobody_asks_beyond_what_was_measured() -> None:
    """An assertion, not a guess."""
    with pytest.raises(AssertionError, match="41 is beyond the last point 40"):
        Curve([10, 40], [1.0, 2.0]).at(41)
    surface = Surface([1, 4], [Curve([8], [1.0]), Curve([8], [2.0])])
    with pytest.raises(AssertionError, match="5 requests, measured up to 4"):
        surface.at(5, 8)


@pytest.mark.parametrize("points", [[], [3, 3], [4, 2], [0, 2]])
def test_points_ascend_from_above_zero(points: list[int]) -> None:
    """Anything else is a mistake of whoever made the table."""
    with pytest.raises(AssertionError):
        Curve(points, [1.0] * len(points))


@given(
    a=st.floats(0, 10), b=st.floats(0, 10), c=st.floats(0, 10), n=st.integers(1, 64), m=st.integers(1, 1000)
)
def test_bilinear_is_exact_for_what_is_bilinear(a: float, b: float, c: float, n: int, m: int) -> None:
    """a + b * requests + c * tokens comes out at every point between the rows."""
    requests, tokens = [1, 2, 4, 64], [1, 500, 1000]
    rows = [Curve(tokens, [a + b * r + c * t for t in tokens]) for r in requests]
    assert Surface(requests, rows).at(n, m) == pytest.approx(a + b * n + c * m)
    assert Surface(requests, rows).at(0, m) == Surface(requests, rows).at(n, 0) == 0.0


def test_tables_survive_json() -> None:
    """What is stored with a run is what replay reads."""
    surface = Surface([1, 4], [Curve([8, 16], [1.0, 2.0]), Curve([8], [2.0])])
    tables = Predictor(3, Curve([1], [2.0]), Curve([4], [1.5]), Curve([7, 9], [1.0, 3.0]), surface, 0.5)
    again = Predictor.from_json(json.loads(json.dumps(tables.as_json())))
    assert again.as_json() == tables.as_json()
    assert again.host_decode.at(2, 8) == tables.host_decode.at(2, 8)
    assert again.gpu_decode.at(8) == 2.0
