"""Pages: one file, and whatever strings it is given, the same elements."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from large import large_run

from aquasim.figures.text import shown
from aquasim.figures.theme import Figure
from aquasim.report import page as pages
from aquasim.report.headline import change, headline
from aquasim.report.page import Cell, Details, Page, Part, Points, Section, Table, Text
from aquasim.report.runs import runs_page

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "' autofocus onfocus=alert(1) '",
    "{{ 7 * 7 }}{% raw %}",
    "<!-- ]]> --><style>*{display:none}</style>",
    "../../../../tmp/aquasim-escaped",
    "javascript:alert(1)",
    "\u2028\u2029\x00\x08\x1b[31m\x7f\ufffe",
    "\u202etxt.exe",
    "\ud800",
    "${alert(1)}`",
    "datum.x; alert(1)",
)
STRINGS = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(), max_size=40))


class Shape(HTMLParser):
    """The elements of a page and their attributes, without text; and the text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._within = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self._within = tag
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Note its end."""
        self._within = ""
        self.tags.append((f"/{tag}", ()))

    def handle_data(self, data: str) -> None:
        """Note text, and what is in scripts."""
        (self.scripts if self._within == "script" else self.text).append(data)


@pytest.fixture(autouse=True)
def _without_vega(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a megabyte of library out of pages that are parsed."""
    monkeypatch.setattr(pages, "bundle", lambda: "0")


def sample(text: str) -> Page:
    """Return a page with one string in every place there is."""
    import altair as alt

    chart = alt.Chart(alt.NamedData(name="rows")).mark_point().encode(x="x:Q", color="system:N")
    figure = Figure(
        text, text, text, chart, {"rows": {"system": [text] * 20, "x": [1] * 20}}, (text, "other")
    )
    table = Table((text, text), [(Cell(text, text), Cell(text, text, text, True, text))], text, (text,))
    parts: list[Part] = [
        Text(text, True),
        Points([text]),
        table,
        Details(text, text),
        Details(text, table),
        figure,
    ]
    return Page(text, [Section(text, parts), Section(text, [figure], figure)], text, text)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STRINGS.filter(lambda text: text.strip()))
def test_no_string_becomes_an_element(text: str) -> None:
    """A page with any string in every place has the elements and attributes of a page with a plain word."""
    html = sample(text).html()
    found = Shape(html)
    assert found.tags == Shape(sample("word").html()).tags
    assert html.encode()
    assert shown(text).split()[0] in "".join(found.text)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STRINGS)
def test_data_comes_back_as_text(text: str) -> None:
    """The JSON of the figures has no character that HTML gives a meaning, and holds the string as it is shown."""
    document = Shape(sample(text).html()).scripts[0]
    assert document.isascii()
    assert not re.search("[<>&]", document)
    figure = json.loads(document)["figures"][0]
    column = figure["tables"]["rows"]["system"]
    assert column["levels"] == [shown(text)]
    assert re.fullmatch("[a-z0-9-]{1,80}", figure["name"])


def names(value: Any, text: str) -> Any:
    """Return plain values with every string replaced."""
    if isinstance(value, dict):
        return {text if key in ("big", "host") else key: names(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [names(item, text) for item in value]
    return text if isinstance(value, str) else value


@pytest.mark.parametrize("text", HOSTILE)
def test_runs_with_hostile_names_have_the_elements_of_others(text: str) -> None:
    """Scenario, system, tier, engine and model names that are HTML change no element of the page."""
    run, plain = large_run(40), large_run(40)
    for one, word in ((run, text), (plain, "word")):
        one.name = word
        one.labels = {**one.labels, "engine": [word], "tier": [word]}
        one.meta = {**names(one.meta, word), "profile": word, "notes": [word, word]}
    made = [Shape(runs_page([(shown(one.name), one)]).html()).tags for one in (run, plain)]
    assert made[0] == made[1]


def test_a_page_says_where_nothing_comes_from() -> None:
    """The policy forbids every load; scripts are allowed by their hash alone; no address is in a src or href."""
    html = sample("word").html()
    policy = re.search('Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe-inline" not in policy[1].split("style-src")[0]
    assert re.findall(r'(?:src|href)="(?!#|data:)', html) == []


@pytest.mark.parametrize(
    ("before", "after", "words", "sign"),
    [
        (10.0, 5.0, "2.0× shorter", -1), (1.0, 23.4, "23× longer", 1), (1.0, 1.12, "12 % longer", 1),  # noqa: RUF001
        (1.0, 0.87, "13 % shorter", -1), (1.0, 1.004, "the same", 0), (0.0, 3.0, "from 0", 1), (0.0, 0.0, "", 0),
    ],
)  # fmt: skip
def test_changes_are_words(before: float, after: float, words: str, sign: int) -> None:
    """A factor from two on, percent below, the same within one percent."""
    assert change(before, after) == (words, sign)


def test_the_best_is_marked_as_on_the_terminal(burst: Any) -> None:
    """What `compare` stars is what the page marks, figure by figure."""
    from aquasim.cli.tables import COLUMNS, rows_of

    summaries = {label: run.summary() for label, run in burst}
    table = headline(summaries, "fcfs")
    starred = {name: ["*" in cell for cell in cells] for name, cells in rows_of(COLUMNS, summaries).items()}
    assert {row[0].text: [cell.best for cell in row[1:]] for row in table.rows} == starred


def test_the_baseline_comes_first(burst: Any) -> None:
    """Whatever order runs come in, the scenario's baseline is first, and grey, in every figure."""
    made = [runs_page(order) for order in (burst, burst[::-1])]
    assert [figure.legend for figure in made[0].figures] == [figure.legend for figure in made[1].figures]
    assert made[0].figures[0].legend[0] == "fcfs"
