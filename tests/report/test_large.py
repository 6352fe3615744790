"""A run of a million requests: bounded time, memory and page."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from large import large_run

from aquasim.records.store import save

MEASURED = """
import re, sys
from aquasim.cli.app import main
sys.argv = ["aquasim", "report", sys.argv[1], "-o", sys.argv[2]]
try:
    main()
finally:
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())  # ru_maxrss begins with the parent's
    print(int(peak[1]) * 1024)
"""


@pytest.mark.slow
def test_a_million_requests_fit_a_page(tmp_path: Path) -> None:
    """The page is below 5 MB, made within a minute and 2 GB, and its figures cover the whole run in words."""
    save(large_run(1_000_000), tmp_path / "run")
    started = time.monotonic()
    words = [sys.executable, "-c", MEASURED, str(tmp_path / "run"), str(tmp_path / "page.html")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 60
    assert int(done.stdout.split()[-1]) < 2 * 2**30
    html = (tmp_path / "page.html").read_text()
    assert len(html.encode()) < 5_000_000
    found = re.search('id="figures">(.*?)</script>', html)
    assert found is not None
    figures = {figure["name"]: figure for figure in json.loads(found[1])["figures"]}
    window = figures["queue"]["window"]
    assert max(figures["queue"]["tables"]["rows"]["t"]) == pytest.approx(window, rel=0.01)
    assert "median of about 8,333 requests" in html
    assert "aquasim trace writes all of them" in html
