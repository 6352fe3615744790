"""Pages in a real browser: they draw, answer, fit and load nothing."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from large import large_run
from looking import DESKTOP, PHONE, contrast, look, seen, turn, until

from aquasim.figures.theme import png
from aquasim.report.page import Cell, Details, Page, Part, Points, Section, Table, Text
from aquasim.report.runs import runs_page

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]

TEXTS = """
const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
  if (!/, 0\\)$|transparent/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
const found = {};
for (const e of document.querySelectorAll('h1,h2,h3,p,li,th,td,small,a,button,summary,output,figcaption,footer')) {
  const words = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (words && e.getClientRects().length && !e.closest('.skip')) {
    const c = getComputedStyle(e).color + '|' + ground(e);
    found[c] = e.tagName + ' ' + e.textContent.trim().slice(0, 40);
  }
}
return found;
"""


def complaints(driver: Any) -> list[str]:
    """Return what the console says."""
    return [entry["message"] for entry in driver.get_log("browser")]


def requests(driver: Any) -> set[str]:
    """Return every address that was asked for since the last look at the log."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_figure_draws(driver: Any, page: Path, size: tuple[int, int], mode: str) -> None:
    """At both sizes, in both modes: no word on the console, every figure has many colours, all fits."""
    complaints(driver)
    look(driver, page, size, mode)
    assert complaints(driver) == []
    plots = driver.find_elements("css selector", ".plot")
    assert len(plots) > 12
    for canvas in driver.find_elements("css selector", ".plot canvas"):
        image = seen(driver, canvas)
        assert min(image["width"], image["height"]) > 30
        assert image["colors"] > 4
        assert image["ink"] > 100
    assert driver.execute_script("return document.documentElement.scrollWidth") == size[0]


def test_nothing_is_fetched(driver: Any, page: Path) -> None:
    """The browser asks for the file and for nothing else, and could not: the policy forbids it."""
    requests(driver)
    look(driver, page)
    asked = requests(driver)
    assert {address for address in asked if not address.startswith(("data:", "blob:"))} == {page.as_uri()}
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    refused = driver.execute_async_script(
        "const done = arguments[0]; addEventListener('securitypolicyviolation', (e) => done(e.violatedDirective));"
        "fetch('http://127.0.0.1:8080/').catch(() => setTimeout(() => done('no policy'), 500))"
    )
    assert refused == "connect-src"
    complaints(driver)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_can_be_read(driver: Any, page: Path, mode: str) -> None:
    """Every text on the page has a contrast of 4.5 or more, in both modes; so have the words in figures."""
    look(driver, page, mode=mode)
    for colors, where in driver.execute_script(TEXTS).items():
        assert contrast(*colors.split("|")) >= 4.5, (mode, where, colors)
    config = driver.execute_script(
        "return JSON.parse(document.getElementById('figures').textContent).config"
    )[mode]
    ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    for color in (config["axis"]["labelColor"], config["axis"]["titleColor"], config["text"]["color"]):
        assert contrast(_rgb(color), ground) >= 4.5
    for color in config["range"]["category"]:
        assert contrast(_rgb(color), ground) >= 3.0, color


def _rgb(color: str) -> str:
    return f"rgb({', '.join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))})"


def test_figures_follow_the_mode(driver: Any, page: Path) -> None:
    """Turning dark redraws the figures that are in sight, with light words."""
    look(driver, page, whole=False)
    plot = driver.find_elements("css selector", "figure .plot")[0]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
    until(driver, "return document.querySelector('figure .plot').dataset.drawn === 'light'")
    light = seen(driver, plot.find_element("css selector", "canvas"))
    turn(driver, "dark")
    until(driver, "return document.querySelector('figure .plot').dataset.drawn === 'dark'")
    dark = seen(driver, plot.find_element("css selector", "canvas"))
    assert dark["light"] > light["light"] + 8


def test_hovering_tells(driver: Any, page: Path) -> None:
    """Somewhere on the distribution's line there is a tooltip with the system and the time."""
    from selenium.webdriver import ActionChains

    look(driver, page, whole=False)
    plot = driver.find_elements("css selector", "figure .plot")[0]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
    until(driver, "return document.querySelector('figure .plot').dataset.drawn")
    width, height = plot.size["width"], plot.size["height"]
    for down in np.linspace(-0.45, 0.3, 12):
        ActionChains(driver, duration=0).move_to_element_with_offset(
            plot, -width // 3, int(height * down)
        ).perform()
        for across in range(10):
            ActionChains(driver, duration=0).move_by_offset(width // 18, across % 2).perform()
            text = driver.execute_script(
                "const t = document.querySelector('#vg-tooltip-element.visible'); return t && t.innerText"
            )
            if text:
                assert "system" in text
                return
    pytest.fail("no tooltip anywhere")


def span(driver: Any) -> float:
    """Return how much time is shown."""
    low, high = json.loads(driver.execute_script("return document.documentElement.dataset.range"))
    return float(high - low)


def test_time_can_be_chosen(driver: Any, page: Path) -> None:
    """Buttons, keys, dragging over the strip and the wheel change the time shown, and the figures with it."""
    from selenium.webdriver import ActionChains

    look(driver, page)
    whole = driver.execute_script("return JSON.parse(document.getElementById('figures').textContent)")
    end = max(figure["window"] or 0 for figure in whole["figures"])
    gantt = driver.find_elements("css selector", "figure.wide .plot")[0]
    canvas = gantt.find_element("css selector", "canvas")
    before = seen(driver, canvas)["grid"]
    driver.execute_script("document.querySelector('[data-zoom=in]').click()")
    until(driver, "return document.documentElement.dataset.range")
    assert span(driver) == pytest.approx(end / 2)
    until(driver, "return document.querySelector('.timebar output').textContent.includes('to')")
    assert seen(driver, canvas)["grid"] != before
    driver.execute_script("arguments[0].focus({preventScroll: true})", gantt)
    ActionChains(driver).send_keys("+").perform()
    until(driver, f"return JSON.parse(document.documentElement.dataset.range)[1] < {end * 0.7}")
    assert span(driver) == pytest.approx(end / 4)
    ActionChains(driver).send_keys("0").perform()
    until(driver, f"return JSON.parse(document.documentElement.dataset.range)[1] > {end * 0.99}")
    strip = driver.find_element("css selector", ".timebar canvas")
    ActionChains(driver).move_to_element_with_offset(strip, -100, 0).click_and_hold().move_by_offset(
        200, 0
    ).perform()
    ActionChains(driver).release().perform()
    wide = strip.size["width"]
    until(
        driver,
        f"const r = JSON.parse(document.documentElement.dataset.range); return r[1] - r[0] < {end * 0.5}",
    )
    assert span(driver) == pytest.approx(end * 200 / wide, rel=0.1)
    assert complaints(driver) == []


def test_everything_is_reached_by_keyboard(driver: Any, page: Path) -> None:
    """Tab goes to the links, the table, the buttons, the figures and the folded parts, each with a visible ring."""
    from selenium.webdriver import ActionChains

    look(driver, page, whole=False)
    reached = set()
    for _ in range(60):
        ActionChains(driver).send_keys("\ue004").perform()
        focus = driver.switch_to.active_element
        reached.add(focus.get_attribute("data-zoom") or focus.get_attribute("class") or focus.tag_name)
        assert focus.value_of_css_property("outline-style") != "none"
        if focus.tag_name == "summary":
            break
    assert {"skip", "a", "scroll", "in", "all", "summary"} <= reached
    assert any("plot" in name for name in reached)


def test_it_looks_as_without_a_browser(driver: Any, tmp_path: Path) -> None:
    """A figure in the page has its ink where vl-convert, which needs no browser, puts it: in a coarse grid."""
    made = runs_page([("big", large_run(300))])
    made.write(tmp_path / "big.html")
    look(driver, tmp_path / "big.html", (720, 900))
    for name in ("rct-distribution", "queue", "engines"):
        place = next(i for i, figure in enumerate(made.figures) if figure.name == name)
        canvas = driver.find_element("css selector", f"[data-figure='{place}'] canvas")
        ours = seen(driver, canvas)["grid"]
        plain = made.figures[place]._replace(title="", legend=())
        source = f"data:image/png;base64,{b64encode(png(plain)).decode()}"
        driver.execute_async_script(
            "const i = new Image(); i.id = 'static'; i.onload = arguments[1]; "
            "i.src = arguments[0]; document.body.append(i)",
            source,
        )
        image = driver.find_element("id", "static")
        theirs = seen(driver, image)["grid"]
        driver.execute_script("arguments[0].remove()", image)
        assert np.corrcoef(ours, theirs)[0, 1] > 0.6, name


def test_hostile_strings_are_text(driver: Any, tmp_path: Path) -> None:
    """Names that are scripts and elements run nothing, add nothing, and can be read."""
    evil = "<img src=x onerror=window.hit=1></script><script>window.hit=1</script>\"'{{7*7}}"
    run = large_run(60)
    run.meta = {**run.meta, "notes": [evil], "scenario": {"question": evil}, "model": evil, "profile": evil}
    run.labels = {**run.labels, "engine": [evil], "tier": [evil]}
    runs_page([(evil, run)]).write(tmp_path / "evil.html")
    complaints(driver)
    look(driver, tmp_path / "evil.html")
    assert driver.execute_script("return window.hit") is None
    assert driver.find_elements("css selector", "img") == []
    assert driver.find_element("css selector", "h1").text == evil
    assert complaints(driver) == []


def test_a_page_of_others_works_too(driver: Any, tmp_path: Path) -> None:
    """A page without any figure: text, lists, tables, folded text; on the smallest phone nothing is too wide."""
    long = "a-name-without-any-space-" * 8
    table = Table(("what", *(f"column {i}" for i in range(9))), [[Cell(long)] + [Cell("1,000")] * 9])
    parts: list[Part] = [
        Text(long, True),
        Points([long]),
        table,
        Details("folded", long),
        Details("folded", table),
    ]
    Page(long, [Section(long, parts)], long, long).write(tmp_path / "page.html")
    look(driver, tmp_path / "page.html", (360, 640), whole=False)
    assert driver.execute_script("return document.documentElement.scrollWidth") == 360
    assert complaints(driver) == []
