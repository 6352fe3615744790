"""Figures: what they show is what the records say, and nothing is left out without a word."""

from xml.etree import ElementTree

import numpy as np
import pytest
from large import large_run

from aquasim.api import simulate
from aquasim.figures import bars, distributions, fairness, gantt, links, load, requests
from aquasim.figures.residence import paged_out
from aquasim.figures.series import Systems, horizon
from aquasim.figures.theme import CATEGORY, Figure, spec, stems, svg
from aquasim.records.run import Run
from aquasim.report.runs import runs_page


def column(figure: Figure, name: str, system: str, table: str = "rows") -> list[object]:
    """Return a column's values of one system."""
    rows = figure.data[table]
    return [value for value, owner in zip(rows[name], rows["system"], strict=True) if owner == system]


def test_distributions_mark_the_percentiles_of_the_summary(burst: Systems) -> None:
    """The dots of TTFT, ITL and RCT are the summary's percentiles, to the digits drawn."""
    for figure, key in zip(distributions.distributions(burst), ("ttft", "itl", "rct"), strict=True):
        for label, run in burst:
            summary = run.summary()
            wanted = [summary[f"{key}_p{percent}"] for percent in (50, 90, 99)]
            assert column(figure, "value", label, "marks") == pytest.approx(wanted, rel=1e-4)


def test_every_request_is_a_point(burst: Systems) -> None:
    """A small run's strip has a point per finished request, at its arrival."""
    ttft = requests.strips(burst)[0]
    for label, run in burst:
        assert len(column(ttft, "t", label)) == run.count("requests")


def test_bars_hold_every_token(burst: Systems) -> None:
    """Stays account for all tokens but each request's first (and those of completing chunks)."""
    for _, run in burst:
        found = bars.request_bars(run)
        decoded = int(found.amount[found.kind == bars.CODES["decode"]].sum())
        chunks = run.columns("chunks")
        assert decoded <= run.summary()["generated_tokens"] <= decoded + len(chunks["step"])
        assert (found.end >= found.start).all()


def test_bars_lie_within_their_requests(burst: Systems) -> None:
    """No stay, chunk or move of a request starts before it came; computing ends by its end."""
    for _, run in burst:
        found = bars.request_bars(run)
        alive = found.take(found.kind == bars.ALIVE)
        begin, stop = (np.zeros(len(alive.row) + 1, np.int64) for _ in range(2))
        begin[alive.row], stop[alive.row] = alive.start, alive.end
        assert (found.start >= begin[found.row]).all()
        work = found.take(np.isin(found.kind, [bars.CODES["decode"], bars.CODES["prefill"]]))
        assert (work.end <= stop[work.row]).all()


def test_rows_are_in_the_order_of_arrival(burst: Systems) -> None:
    """The Gantt's rows are numbered from 1 in the order in which requests came, whatever their ids."""
    for _, run in burst:
        found = bars.request_bars(run)
        alive = found.take(found.kind == bars.ALIVE)
        order = np.argsort(alive.row)
        assert alive.row[order].tolist() == list(range(1, run.count("requests") + 1))
        assert (np.diff(alive.start[order]) >= 0).all()
    odd = large_run(50)
    odd.columns("requests")["arrival_ns"][:] = odd.columns("requests")["arrival_ns"][::-1].copy()
    found = bars.request_bars(odd)
    alive = found.take(found.kind == bars.ALIVE)
    assert (np.diff(alive.start[np.argsort(alive.row)]) >= 0).all()


def test_merging_covers_the_same_time() -> None:
    """Merged bars cover what they are made of, keep rows and kinds apart, and say how many they were."""
    random = np.random.default_rng(1)
    size = 300
    start = random.integers(0, 5000, size)
    each = bars.Bars(
        random.integers(0, 3, size),
        start,
        start + random.integers(1, 9, size),
        random.integers(0, 2, size),
        start,
    )
    merged = bars.merge(each, 5)
    assert merged.amount.sum() == size
    for row, begin, end, kind, _ in zip(*each, strict=True):
        mine = (merged.row == row) & (merged.kind == kind)
        assert ((merged.start[mine] <= begin) & (merged.end[mine] >= end)).any()


def test_a_host_lane_is_drawn() -> None:
    """What the host's cores decode has bars of its own, and a lane per engine."""
    run = simulate("neo/length-t4", "neo", changes=["workload.requests=60"])
    figure = gantt.lanes_figure([("neo", run)])[0]
    assert "decode on the host" in figure.legend
    assert any("host's cores" in lane for lane in figure.data["labels"]["lane"])


def test_links_carry_what_was_paged(burst: Systems) -> None:
    """Bytes by direction, over time, sum to the summary's paged bytes."""
    for _, run in burst:
        flows = links.flows_of(run)
        moved = {path: int(sum(flow.sizes.sum() for flow in some)) for path, some in flows.items()}
        paged = run.summary()["paged_bytes"]
        assert moved == {
            f"{'to' if way == 'out' else 'from'} {tier}": size
            for key, size in paged.items()
            for tier, way in [key.rsplit("_", 1)]
            if size
        }


def test_the_capacity_is_that_of_the_run_s_gpus(burst: Systems) -> None:
    """Two GPUs' links to a peer carry twice one link."""
    aqua = dict(burst)["aqua"]
    one = aqua.meta["links"]["gpu2.nvlink-out"]["capacity"]
    assert links.capacity(aqua, "to peer") == 2 * one
    assert links.capacity(aqua, "to the moon") is None


def test_what_is_paged_out_comes_back(burst: Systems) -> None:
    """The amount of KV cache elsewhere is never negative and is nothing at the end."""
    for steps in paged_out(dict(burst)["aqua"]).values():
        assert steps.values.min() >= 0
        assert steps.values[-1] == 0
        assert steps.values.max() > 0


def test_equal_turns_are_fair() -> None:
    """Requests that all get the same have an index of 1, and the index lies between 1/n and 1."""
    found, gap = fairness._judge(np.array([5.0, 5.0, 5.0]), np.ones(3), 1.0, np.ones(3))
    assert found == pytest.approx(1.0)
    assert gap == 0.0
    found, gap = fairness._judge(np.array([9.0, 0.0, 0.0]), np.ones(3), 1.0, np.ones(3))
    assert found == pytest.approx(1 / 3)
    assert gap == 9.0
    found, _ = fairness._judge(np.array([10.0, 5.0]), np.array([1.0, 0.5]), 1.0, np.ones(2))
    assert found == pytest.approx(1.0), "who is there for half the window gets half"


def test_leases_are_drawn() -> None:
    """A tenants' run shows what donors offered and what consumers use: in use never exceeds offered."""
    run = simulate("aqua/s5-elastic-h100", "intended")
    found = load.lent(run)
    assert set(found) == {"offered", "granted", "in use"}
    assert found["in use"].values.min() >= 0
    assert found["in use"].values.max() <= found["granted"].values.max() <= found["offered"].values.max()
    assert min(steps.values.min() for steps in found.values()) >= 0
    assert {"hbm", "host", "peer"} <= set(load.tier_sizes(run))


def test_large_figures_say_what_they_fold() -> None:
    """Beyond its limits every figure says in words what a point stands for."""
    page = runs_page([("big", large_run(8000))])
    words = {figure.name: figure.text for figure in page.figures}
    assert "median of about" in words["ttft-by-arrival"]
    assert "drawn as one" in words["engines"]
    assert "Shown are" in words["requests-big"]
    assert "percentiles of up to 8,000" in words["ttft-distribution"]


def test_requests_that_come_at_once_are_in_their_order() -> None:
    """Where all arrive together, the axis is their order, not a line of points above each other."""
    run = simulate("neo/length-t4", "vllm", changes=["workload.requests=40"])
    figure = requests.strips([("vllm", run)])[0]
    assert figure.window is None
    assert figure.data["rows"]["t"] == list(range(1, 41))


def test_no_run_ends_after_the_horizon(burst: Systems) -> None:
    """Every point of a figure over time lies within the time of the page."""
    end = horizon(burst)
    for figure in runs_page(burst).figures:
        if figure.window is not None and "t" in figure.data["rows"]:
            assert max(figure.data["rows"]["t"]) <= end * 1.001


def test_colours_follow_the_order(burst: Systems) -> None:
    """Every figure of systems lists them in one order; both palettes have as many colours."""
    names = {figure.legend for figure in runs_page(burst).figures if figure.legend and not figure.kinds}
    assert len(names) == 1
    assert len(CATEGORY["light"]) == len(CATEGORY["dark"])


def test_every_figure_is_valid_vega_lite(burst: Systems) -> None:
    """Altair checks each chart against the schema, and vl-convert draws it."""
    for figure in runs_page(burst).figures[:6]:
        assert spec(figure)["width"] == "container"
        assert svg(figure).startswith("<svg")


@pytest.mark.parametrize("name", ["<b>&amp;", "\x00\x1b[31m\u2028", "\ud800", "]]>", '" onload="alert(1)'])
def test_drawings_are_xml_whatever_is_in_them(name: str) -> None:
    """Names of engines and tiers are text in an SVG: it has no script, no event and no element of theirs."""
    run = large_run(30)
    run.labels = {**run.labels, "engine": [name, "other"], "tier": [name]}
    for figure in gantt.lanes_figure([(name, run)]):
        tree = ElementTree.fromstring(svg(figure))
        tags = {element.tag.split("}")[-1] for element in tree.iter()}
        assert tags <= {
            "svg",
            "g",
            "path",
            "rect",
            "text",
            "line",
            "defs",
            "clipPath",
            "tspan",
            "style",
            "title",
        }
        assert not [key for element in tree.iter() for key in element.attrib if key.startswith("on")]


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a/b\\c", "\x00\n", "", "." * 300, "CON", "é" * 99, "<b>", "a" * 500]
)
def test_file_names_stay_in_their_folder(name: str) -> None:
    """Whatever a system is called, its figures' names are letters, digits and dashes, and none is there twice."""
    found = stems([name, name])
    assert len(set(found)) == 2
    for stem in found:
        assert stem
        assert len(stem) <= 80
        assert stem.replace("-", "").isascii()
        assert stem.replace("-", "").isalnum()


def test_an_empty_run_has_a_page() -> None:
    """A run in which nothing happened has a page without figures over time that would divide by nothing."""
    empty: Run = large_run(0)
    assert runs_page([("empty", empty)]).html()
