"""Changes, ranges, terms, intervals and fronts: the parts of a sweep that are plain functions."""

import contextlib
import math
import tomllib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquasim.errors import UserError
from aquasim.scenario.changes import as_toml, flatten, join, parse_change, split, with_changes
from aquasim.sweep.intervals import interval, share_at_least
from aquasim.sweep.knobs import Knob
from aquasim.sweep.pareto import front
from aquasim.sweep.ranges import ChoiceRange, IntegerRange, LinearRange, LogRange, unit_points
from aquasim.sweep.terms import Metrics, parse_constraint, parse_objective

PART = st.text("abc._- \n\x1b<>[]ü", min_size=1).map(str.strip).filter(bool)
VALUE = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(st.lists(PART, min_size=1, max_size=4))
def test_a_dotted_key_comes_apart_as_it_was_put_together(parts: list[str]) -> None:
    """`split` undoes `join`, whatever the parts hold, dots and control characters included."""
    assert split(join(parts)) == tuple(parts)


@pytest.mark.parametrize("key", ["", ".", "a.", ".a", "a..b", '"a', 'a b"c'])
def test_what_is_no_key_is_refused(key: str) -> None:
    """In one line that quotes it."""
    with pytest.raises(UserError, match="is no key"):
        split(key)


@given(VALUE)
def test_values_survive_as_toml(value: Any) -> None:
    """A value written as TOML in one line reads back equal, of the same type."""
    text = as_toml(value)
    found = tomllib.loads(f"value = {text}")["value"]
    assert found == value
    assert type(found) is type(value)
    assert "\n" not in text


def test_changes_leave_the_original_alone() -> None:
    """Tables on the way are copied, others are shared, later changes win, new tables appear."""
    data = {"a": {"b": {"c": 1, "d": 2}}, "e": {"f": 3}}
    changed = with_changes(data, [("a.b.c", 9), ("a.b.c", 10), ("x.y", 5)])
    assert changed == {"a": {"b": {"c": 10, "d": 2}}, "e": {"f": 3}, "x": {"y": 5}}
    assert data == {"a": {"b": {"c": 1, "d": 2}}, "e": {"f": 3}}
    assert changed["e"] is data["e"]


def test_a_value_given_for_a_table_is_never_written_to() -> None:
    """A change below a table that another change put in place does not reach the table that was given."""
    given_table = {"kind": "poisson", "rate": 1}
    changed = with_changes({"w": {}}, [("w.arrivals", given_table), ("w.arrivals.rate", 2)])
    assert changed["w"]["arrivals"]["rate"] == 2
    assert given_table["rate"] == 1


def test_a_change_through_a_value_is_refused() -> None:
    """The text names the part that is no table."""
    with pytest.raises(UserError, match=r"seed\.x: 'seed' is a value, not a table"):
        with_changes({"seed": 3}, [("seed.x", 1)])


def test_nested_and_dotted_keys_are_the_same() -> None:
    """However TOML nests a scenario key, one dotted key comes out; a quoted one keeps a table as its value."""
    tables = tomllib.loads('a.b = 1\n"c.d" = 2\n[e.f]\ng = [3]\n[h]\n"i.j" = {k = 4}')
    assert flatten(tables) == {"a.b": 1, "c.d": 2, "e.f.g": [3], "h.i.j": {"k": 4}} | {}


def test_a_change_on_the_command_line() -> None:
    """A TOML value or a bare string after the sign."""
    assert parse_change("a.b = [1, 2]") == ("a.b", [1, 2])
    assert parse_change("model.name=Qwen3-14B") == ("model.name", "Qwen3-14B")
    with pytest.raises(UserError, match=r"--set a: write path\.to\.key=value"):
        parse_change("a")


# --- ranges ------------------------------------------------------------------------------------------------


@settings(deadline=None)  # the first example imports scipy
@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 9))
def test_a_latin_hypercube_has_one_point_in_each_slice(count: int, dimensions: int, seed: int) -> None:
    """Along every axis, each of `count` equal slices holds exactly one point; equal seeds draw the same."""
    points = np.array(unit_points("latin", count, dimensions, seed))
    for axis in points.T:
        assert sorted((axis * count).astype(int).tolist()) == list(range(count))
    assert unit_points("latin", count, dimensions, seed) == points.tolist()


@given(st.floats(0, 1), st.floats(1e-3, 1e3), st.floats(1.001, 1e3), st.integers(-5, 5), st.integers(1, 9))
def test_ranges_keep_their_bounds(share: float, low: float, times: float, first: int, more: int) -> None:
    """Whatever the share, a value lies within its range; the ends are reached."""
    for of in (
        LinearRange(kind="linear", low=low, high=low * times),
        LogRange(kind="log", low=low, high=low * times),
    ):
        assert of.low <= of.at(share) <= of.high * (1 + 1e-12)
        assert math.isclose(of.at(0), of.low)
        assert math.isclose(of.at(1), of.high)
    whole = IntegerRange(kind="integer", low=first, high=first + more)
    assert whole.low <= whole.at(share) <= whole.high
    assert (whole.at(0), whole.at(1)) == (whole.low, whole.high)
    assert ChoiceRange(kind="choice", values=("a", "b")).at(share) in ("a", "b")


# --- terms -------------------------------------------------------------------------------------------------

METRICS = Metrics(["ttft_p99", "ttft_p50", "throughput_tok_s", "paged_bytes."], ["fcfs", "cfs", "cfs-peer"])
FIGURES = {
    (None, "ttft_p99"): 2.0,
    (None, "throughput_tok_s"): 90.0,
    ("fcfs", "throughput_tok_s"): 100.0,
    ("cfs-peer", "ttft_p99"): 4.0,
    (None, "paged_bytes.peer_out"): 8.0,
}


def figure(name: Any) -> float:
    """Return a figure by name."""
    return FIGURES[name.system, name.metric]


@pytest.mark.parametrize(
    ("text", "slack"),
    [
        ("ttft_p99 <= 3", 1.0),
        ("throughput >= 0.95 * fcfs.throughput", -5.0),
        ("cfs-peer.ttft_p99 - ttft_p99 > 1 + 2 * 3 / 4", -0.5),
        ("-(ttft_p99 + 1) < -2", 1.0),
        ("paged_bytes.peer_out/4 <= .5e1", 3.0),
    ],
)
def test_a_constraint_is_arithmetic(text: str, slack: float) -> None:
    """Slack is the distance to the bound, negative where it does not hold; products bind before sums."""
    constraint = parse_constraint(text, METRICS)
    assert constraint.slack(figure) == pytest.approx(slack)
    assert bool(constraint.holds(slack)) == (slack > 0)
    assert (float(constraint.miss(figure)) == 0) == (slack > 0)


def test_equality_meets_what_has_an_equals_sign() -> None:
    """`<=` holds at its bound, `<` does not."""
    assert parse_constraint("ttft_p99 <= 2", METRICS).holds(0.0)
    assert not parse_constraint("ttft_p99 < 2", METRICS).holds(0.0)


def test_a_division_by_nothing_is_undefined() -> None:
    """It is NaN, and holds nothing, instead of stopping everything."""
    constraint = parse_constraint("ttft_p99 / (ttft_p99 - ttft_p99) <= 1", METRICS)
    assert math.isnan(constraint.slack(figure))
    assert not constraint.holds(constraint.slack(figure))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ttft_p99", "write TERM <= TERM"),
        ("1 <= 2", "names no metric"),
        ("ttft_p99 <= ", "a number or a name is missing"),
        ("ttft_p99 <= (1", r"a \) is missing"),
        ("ttft_p99 <= 1 2", "'2' is one too many"),
        ("ttft_p99 <= $x", "is neither a number nor a name"),
        ("ttft_p98 <= 1", "unknown metric 'ttft_p98'; did you mean 'ttft_p99'"),
        ("ttft <= 1", "may be any of: ttft_p50, ttft_p99"),
        ("fcfs.ttft_p98 <= 1", "unknown metric 'ttft_p98'"),
        ("ttft_p99 <= 1 <= 2", "write TERM <= TERM"),
        ("ttft_p99 <= 200ms", r"times are in seconds, without a unit: 0\.2 instead of 200ms"),
        ("1.5 min >= ttft_p99", r"times are in seconds, without a unit: 90 instead of 1\.5min"),
        ("ttft_p99 <= 1 x", "'x' is one too many"),
        ("ttft_p99 <= 1/0", "a division by 0"),
        ("ttft_p99 / (2 - 2) <= 1", "a division by 0"),
        ("ttft_p99 <= 1e999", "1e999 is too large a number"),
        ("ttft_p99 <= 1e300 * 1e300", "too large a number"),
    ],
)
def test_a_faulty_constraint_is_quoted(text: str, says: str) -> None:
    """In one line, with what is valid."""
    with pytest.raises(UserError, match=says) as caught:
        parse_constraint(text, METRICS)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_objective_is_a_direction_and_a_metric() -> None:
    """What is sought becomes a cost; a system's name, or none, is refused."""
    assert parse_objective("max throughput", METRICS).cost(figure) == -90
    assert parse_objective("min ttft_p99", METRICS).cost(figure) == 2
    with pytest.raises(UserError, match='write "min METRIC" or "max METRIC"'):
        parse_objective("ttft_p99", METRICS)
    with pytest.raises(UserError, match=r"leave out 'fcfs\.'"):
        parse_objective("min fcfs.ttft_p99", METRICS)


@given(st.text(max_size=30))
def test_no_text_breaks_the_grammar(text: str) -> None:
    """Anything is either a constraint or a user's error."""
    with contextlib.suppress(UserError):
        assert parse_constraint(text, METRICS).names()


# --- intervals and fronts ----------------------------------------------------------------------------------


def test_an_interval_is_students() -> None:
    """Four values against the textbook: mean 2.5, t(0.975, 3) = 3.182, s = 1.291; one value has no interval."""
    found = interval([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5
    assert found.high == pytest.approx(2.5 + 3.18245 * 1.290994 / 2, rel=1e-5)
    assert interval([3.0]) == (1, 3.0, None, None)
    assert interval([math.nan]) == (0, None, None, None)


def test_the_share_that_passes_is_exact() -> None:
    """n of n at 95 %: 0.05 ** (1 / n); of none nothing is known."""
    for n in (1, 10, 59):
        assert share_at_least(n, n) == pytest.approx(0.05 ** (1 / n))
    assert share_at_least(0, 10) == 0
    assert share_at_least(7, 10) == pytest.approx(0.3934, abs=1e-4)


COSTS = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.lists(st.one_of(st.integers(0, 5), st.just(math.nan)), min_size=width, max_size=width),
        min_size=1,
        max_size=30,
    )
)


@given(COSTS)
def test_the_front_is_what_nothing_dominates(rows: list[list[float]]) -> None:
    """As comparing everything with everything says; rows with NaN are not on it."""

    def dominates(a: list[float], b: list[float]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    known = [row for row in rows if not any(map(math.isnan, row))]
    wanted = [row in known and not any(dominates(other, row) for other in known) for row in rows]
    found = front(np.array(rows, float).reshape(len(rows), len(rows[0]))).tolist()
    assert found == wanted


def test_one_iteration_is_not_iterations() -> None:
    """A slice of one iteration, of two iterations; other units stay as they are."""
    slices = Knob("systems.aqua.options.slice_length", " iterations", 5.0, lambda value: ())
    assert [slices.text(value) for value in (1.0, 2.0)] == ["1 iteration", "2 iterations"]
    memory = Knob("machine.peer_gib", " GiB", 5.0, lambda value: ())
    assert memory.text(1.0) == "1 GiB"
