"""The page of a sweep in a real browser."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from looking import DESKTOP, PHONE, look, seen

from aquasim.report.sweeps import read_sweep, sweep_page
from aquasim.sweep.plan import load_sweep
from aquasim.sweep.run import backend, run_sweep, write_tables

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]

SWEEP = """
question = "How much memory, <img src=x>?"
scenario = "small-h100"
systems = ["fcfs", "aqua"]
seeds = 2
objectives = ["min ttft_p99", "min rct_p99"]
[set]
workload.requests = 40
[grid]
machine.peer_gib = [1, 2, 4]
engine.kv_blocks = [300, 600]
"""


def test_a_sweeps_page_draws_and_fetches_nothing(driver: Any, tmp_path: Path) -> None:
    """On a phone, dark, and a desktop, light: figures drawn, no word on the console, nothing loaded, all fits."""
    (tmp_path / "it.sweep.toml").write_text(SWEEP)
    plan = load_sweep(tmp_path / "it.sweep.toml")
    write_tables(run_sweep(plan, tmp_path / "it", partial(backend, 1, None)).results, tmp_path / "it")
    page = tmp_path / "page.html"
    sweep_page(read_sweep(tmp_path / "it")).write(page)
    driver.get_log("browser")
    for size, mode in ((PHONE, "dark"), (DESKTOP, "light")):
        look(driver, page, size, mode)
        canvases = driver.find_elements("css selector", ".plot canvas")
        assert len(canvases) >= 7
        for canvas in canvases:
            image = seen(driver, canvas)
            assert image["colors"] > 4
            assert image["ink"] > 100
        assert driver.execute_script("return document.documentElement.scrollWidth") == size[0]
        assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert driver.find_elements("css selector", "img") == []
    assert [entry["message"] for entry in driver.get_log("browser")] == []
