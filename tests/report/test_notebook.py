"""Runs in notebooks: shown richly, and an example that runs by itself."""

import json
import os
from pathlib import Path

import pytest

from aquasim.figures.series import Systems

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "burst.ipynb"
OFFLINE = """
import sys

def check(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple) and not str(args[1][0]).startswith("127."):
        raise OSError(f"the notebook wanted {args[1]}")

sys.addaudithook(check)
"""


def test_a_run_shows_its_figures_and_charts(burst: Systems) -> None:
    """The HTML of a run has its table and two pictures within itself, and nothing of its name is markup."""
    _, run = burst[0]
    html = run._repr_html_()
    assert html.count("<img ") == 2
    assert html.count("data:image/svg+xml;base64,") == 2
    assert "http" not in html
    assert f"{run.summary()['ttft_p99']:,.2f}" in html
    run.name, before = "<script>", run.name
    try:
        assert "<script>" not in run._repr_html_()
    finally:
        run.name = before


def test_the_notebook_is_stored_without_outputs() -> None:
    """Outputs and counts are stripped, so that a change of figures is no change of the file."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's own libraries
def test_the_notebook_runs_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs, in a kernel that may talk to this machine only, and shows a run."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    (tmp_path / "sitecustomize.py").write_text(OFFLINE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    shown = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    assert all(out.output_type != "error" for out in shown)
    assert any("data:image/svg+xml" in out.get("data", {}).get("text/html", "") for out in shown)
