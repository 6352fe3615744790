"""Hardware profiles: what ships, how it is read, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path
from time import process_time

import pytest
from gpus import kernel_profile_names

from aquasim.hardware.grid import Grid, locate
from aquasim.hardware.links import LinkKind
from aquasim.hardware.profile import FOLDER, load_profile, profile_names

LINKS = {"nvlink", "pcie_h2d", "pcie_d2h", "host_dram"}


def test_shipped_profiles() -> None:
    """Eight GPUs ship, each known in any case, small and quick to load."""
    assert profile_names() == ["a100", "a10g", "h100", "h200", "l40s", "rtx4090", "rtxpro6000", "t4"]
    for name in profile_names():
        assert (FOLDER / f"{name}.json").stat().st_size < 250_000
        start = process_time()
        assert load_profile(name.upper()).name == name
        assert process_time() - start < 0.1


@pytest.mark.parametrize("name", kernel_profile_names())
def test_every_block_says_where_it_comes_from(name: str) -> None:
    """Each block of figures has a source, each fit its residuals on samples held out."""

    def check(block: dict[str, object], path: str) -> None:
        if "milli_log2_ns" in block:
            assert {"source", "residual"} <= block.keys(), path
        inner = {key: value for key, value in block.items() if isinstance(value, dict) and key != "residual"}
        assert "source" in block or inner, path
        for key, value in inner.items():
            check(value, f"{path}.{key}")

    blocks = load_profile(name).blocks
    for key, block in blocks.items():
        if isinstance(block, dict):
            check(block, key)


@pytest.mark.parametrize("name", kernel_profile_names())
def test_rates_are_below_peaks(name: str) -> None:
    """What was measured stays below what the vendor states, for memory and for every link."""
    profile = load_profile(name)
    assert profile.hbm_copy <= profile.hbm_read <= profile.peak_hbm
    assert set(profile.links) == (LINKS if name in ("a100", "h100", "h200") else LINKS - {"nvlink"})
    for link in profile.links.values():
        assert 0 < link.bandwidth <= link.peak


@pytest.mark.parametrize("name", kernel_profile_names())
def test_products_rise_along_every_axis(name: str) -> None:
    """At the knots a product of more tokens, outputs or inputs takes no less time."""
    grid = load_profile(name).gemm
    shape = [len(axis) for axis in grid.axes]
    strides = [shape[1] * shape[2], shape[2], 1]
    for stride, size in zip(strides, shape, strict=True):
        for i in range(len(grid.values) - stride):
            if (i // stride) % size < size - 1:
                assert grid.values[i] <= grid.values[i + stride]


def test_unknown_profile_lists_the_known() -> None:
    """An unknown name is answered with the known ones in one line."""
    with pytest.raises(
        ValueError, match=r"^unknown hardware profile 'b200'; known: a100, .*, rtxpro6000, t4$"
    ):
        load_profile("b200")


def test_profile_from_a_file(tmp_path: Path) -> None:
    """A profile of one's own is read from its path."""
    path = tmp_path / "mine.json"
    path.write_text((FOLDER / "h100.json").read_text().replace('"name": "h100"', '"name": "mine"'))
    assert load_profile(path).name == "mine"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema": 99}, "schema version is 99, this package reads 1"),
        ({"schema": None}, "schema version is None, this package reads 1"),
        ({"peak": {}}, "key flops is missing"),
        ({"memory": 80}, "'int' object is not subscriptable"),
        (
            {"links": {"x": {"bytes_per_s": 0, "start_s": 0, "peak_bytes_per_s": 1}}},
            "link x: bandwidth 0.0 must be",
        ),
    ],
)
def test_bad_profile_names_the_file(tmp_path: Path, change: dict[str, object], text: str) -> None:
    """An error is one line that opens with the file."""
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(json.loads((FOLDER / "h100.json").read_text()) | change))
    with pytest.raises(ValueError, match=text) as caught:
        load_profile(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_malformed_files(tmp_path: Path) -> None:
    """A file that is absent or not JSON is refused by name."""
    with pytest.raises(ValueError, match=r"none\.json: cannot be read"):
        load_profile(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json: not JSON"):
        load_profile(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"bad\.json: expected a JSON object"):
        load_profile(tmp_path / "bad.json")


def test_grid_between_and_beyond_its_knots() -> None:
    """Times are linear in logarithms between knots, held before the first, in proportion after the last."""
    grid = Grid.from_block({"knots": [[1, 4], [1, 16]], "milli_log2_ns": [1000, 3000, 2000, 4000]})
    assert grid.fix(1).ns(1) == 2
    assert grid.fix(2).ns(4) == pytest.approx(2**2.5)
    assert grid.fix(4).ns(64) == 2 ** (4 + 2)
    assert grid.fix(8).ns(1) == 2 ** (2 + 1)
    assert grid.fix(8, grow=False).ns(1) == 2**2
    assert grid.fix(0.5).ns(0.5) == 2
    assert locate((0.0, 2.0), 1.0) == (0, 0.5, 0.0)
    assert grid.turn().fix(4).ns(1) == grid.fix(1).ns(4)
    with pytest.raises(ValueError, match="grid of 4 knots has 1 values"):
        Grid.from_block({"knots": [[1, 4], [1, 16]], "milli_log2_ns": [1]})


def test_small_copies_pay_their_start() -> None:
    """A descriptor of start x bandwidth bytes runs at half the bandwidth; many cost a start each."""
    link = LinkKind("link", bandwidth=50e9, start=4e-6, peak=64e9)
    assert link.rate(200_000) == pytest.approx(25e9)
    assert link.rate(1e12) == pytest.approx(50e9, rel=1e-4)
    assert link.seconds(200_000, 10) == pytest.approx(80e-6)
    with pytest.raises(ValueError, match="descriptor of 0 bytes"):
        link.rate(0)


def test_nothing_heavy_is_imported() -> None:
    """Models and hardware need the standard library only, so a program that uses them starts at once."""
    code = (
        "import sys; import aquasim.models, aquasim.hardware.cost, aquasim.hardware.memory; "
        "print(sorted({'numpy', 'scipy', 'pandas', 'simpy', 'pydantic'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
