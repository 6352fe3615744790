"""The explorer in a real browser: sliders answer, by mouse, by hand on a page's script, and by keyboard."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from looking import DESKTOP, PHONE, contrast, resize, seen, turn, until

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]

SET = """
const input = document.getElementById(`in-${arguments[0]}`);
input.value = arguments[1];
input.dispatchEvent(new Event('input', { bubbles: true }));
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A running `aquasim explore` of few requests."""
    command = [sys.executable, "-m", "aquasim", "explore", "--no-browser", "--set", "workload.requests=60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def opened(driver: Any, url: str, size: tuple[int, int] = DESKTOP, mode: str = "light") -> None:
    """Open the page and wait for its first answer."""
    turn(driver, mode)
    resize(driver, size)
    driver.get(url)
    answered(driver, 1)


def answered(driver: Any, count: int) -> None:
    """Wait until so many answers are shown, and nothing is under way."""
    until(
        driver,
        f"return Number(document.body.dataset.answers) >= {count} && !document.body.classList.contains('busy')",
        30,
    )


def table(driver: Any) -> str:
    """Return what the table says."""
    return str(driver.find_element("css selector", "tbody").text)


def complaints(driver: Any) -> list[str]:
    """Return what the console says."""
    return [entry["message"] for entry in driver.get_log("browser")]


def test_a_slider_changes_the_table_and_the_figures(driver: Any, url: str) -> None:
    """Moved: its value, the table, the figures, the time and the list of changes follow; reset brings all back."""
    complaints(driver)
    driver.get_log("performance")
    opened(driver, url)
    before = table(driver)
    figures = driver.find_elements("css selector", "#figures canvas")
    assert 3 <= len(figures) <= 4
    grids = [seen(driver, canvas)["grid"] for canvas in figures]
    driver.execute_script(SET, "burst", 0)
    assert driver.find_element("id", "out-burst").text == "2.5/s"
    answered(driver, 2)
    assert table(driver) != before
    assert [seen(driver, c)["grid"] for c in driver.find_elements("css selector", "#figures canvas")] != grids
    said = driver.find_element("id", "said").text
    assert said.startswith("5 systems, 60 requests each, simulated in ")
    assert said.endswith(" s")
    assert driver.find_element("id", "changed").text == "Rate within the burst: 2.5/s instead of 40/s"
    driver.find_element("css selector", "button[type=reset]").click()
    answered(driver, 3)
    assert table(driver) == before
    assert driver.find_element("id", "changed").text == "Nothing was changed."
    assert complaints(driver) == []
    asked = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"}
    assert {each for each in urls if not each.startswith((url, "data:", "blob:"))} == set()


def test_systems_can_be_chosen(driver: Any, url: str) -> None:
    """Boxes add and remove rows and lines; without any, one line says what is wrong and the figures stay."""
    opened(driver, url)
    driver.find_element("css selector", "input[data-name='sjf']").click()
    answered(driver, 2)
    assert len(driver.find_elements("css selector", "tbody tr")) == 6
    for box in driver.find_elements("css selector", "input[name=system]:checked"):
        box.click()
    until(driver, "return document.getElementById('err-page').textContent.includes('choose 1 to 8')", 30)
    assert len(driver.find_elements("css selector", "tbody tr")) == 6
    assert "older" in driver.find_element("id", "said").text
    assert [line for line in complaints(driver) if "400" not in line] == []


def test_an_error_is_beside_its_control(driver: Any, url: str) -> None:
    """What the scenario refuses is one line below the slider that was moved, gone with the next answer."""
    opened(driver, url)
    driver.execute_script(
        "const real = fetch; window.fetch = async (...given) => { window.fetch = real; return new Response("
        "JSON.stringify({ error: '<b>no</b> such', control: 'peer' })); };"
    )
    driver.execute_script(SET, "peer", 3)
    until(driver, "return document.getElementById('err-peer').textContent === '<b>no</b> such'")
    assert driver.find_element("id", "err-peer").is_displayed()
    driver.execute_script(SET, "peer", 4)
    answered(driver, 2)
    assert driver.find_element("id", "err-peer").text == ""


def test_the_keyboard_is_enough(driver: Any, url: str) -> None:
    """Tab reaches every slider, box and button, each named and with a ring; an arrow key moves a slider one stop."""
    from selenium.webdriver import ActionChains

    opened(driver, url)
    reached: list[str] = []
    for _ in range(40):
        ActionChains(driver).send_keys("\ue004").perform()
        focus = driver.switch_to.active_element
        assert focus.value_of_css_property("outline-style") != "none"
        reached.append(
            focus.get_attribute("id") or focus.get_attribute("data-name") or focus.get_attribute("class")
        )
        if focus.get_attribute("type") == "range":
            assert focus.accessible_name
            assert focus.get_attribute("aria-valuetext")
        if "scroll" in reached:
            break
    assert {"in-rate", "in-burst", "in-peer", "in-slice", "in-seed", "fcfs", "aqua", "scroll", "skip"} <= {
        *reached
    }
    slider = driver.find_element("id", "in-burst")
    place = int(slider.get_attribute("value"))
    slider.send_keys("\ue012")
    assert int(slider.get_attribute("value")) == place - 1
    answered(driver, 2)
    assert driver.find_element("id", "changed").text.startswith("Rate within the burst")


@pytest.mark.parametrize(("size", "mode"), [(PHONE, "dark"), (DESKTOP, "light"), (DESKTOP, "dark")])
def test_it_fits_and_can_be_read(driver: Any, url: str, size: tuple[int, int], mode: str) -> None:
    """Nothing is wider than the window; every figure is drawn in its mode; words have a contrast of 4.5 or more."""
    opened(driver, url, size, mode)
    assert driver.execute_script("return document.documentElement.scrollWidth") == size[0]
    assert {plot.get_attribute("data-drawn") for plot in driver.find_elements("css selector", ".plot")} == {
        mode
    }
    for canvas in driver.find_elements("css selector", ".plot canvas"):
        assert seen(driver, canvas)["ink"] > 100
    ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    for words in (
        "h1",
        ".lead",
        "label",
        ".control output",
        "#said",
        "small.better",
        "small.worse",
        ".check span",
    ):
        for element in driver.find_elements("css selector", words)[:3]:
            color = driver.execute_script("return getComputedStyle(arguments[0]).color", element)
            assert contrast(color, ground) >= 4.5, words
    if size == PHONE:
        assert driver.find_element("id", "said").is_displayed()
        assert driver.execute_script(
            "return document.getElementById('said').getBoundingClientRect().bottom <= innerHeight"
        )
    assert complaints(driver) == []
