"""A browser, and pages to look at. Everything here is skipped where Chromium or Selenium is missing."""

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aquasim.api import simulate
from aquasim.report.runs import runs_page

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "report")]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def missing() -> str:
    """Say what is not there, if anything."""
    if importlib.util.find_spec("selenium") is None:
        return "Selenium is not installed (make browser)"
    return "" if CHROMIUM and DRIVER else "Chromium and its driver are not installed (make browser)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a browser, with the reason, where there is none."""
    reason = missing()
    for item in items:
        if reason and item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One headless browser with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(DRIVER))
    started.set_script_timeout(30)
    yield started
    started.quit()


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two systems of the burst."""
    runs = [(name, simulate("burst-h100", name)) for name in ("fcfs", "aqua")]
    path = tmp_path_factory.mktemp("page") / "burst.html"
    runs_page(runs).write(path)
    return path
