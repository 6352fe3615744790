"""What a sweep file means, and what is wrong with one."""

from pathlib import Path

import pytest
from sweeps import SMALL, run, written

from aquasim.errors import UserError
from aquasim.scenario.load import FOLDER
from aquasim.sweep.file import SUFFIX, find_sweep
from aquasim.sweep.plan import Overrides, load_sweep


def test_the_sweeps_that_ship_are_sound() -> None:
    """Each is found by name, says what it asks, and every key of it exists."""
    names = [path.relative_to(FOLDER).as_posix().removesuffix(SUFFIX) for path in FOLDER.rglob(f"*{SUFFIX}")]
    assert "sweeps/memory-and-link" in names
    for name in names:
        sweep = load_sweep(find_sweep(name))
        assert sweep.file.question.endswith("?")
        assert sweep.file.source
        assert sweep.file.expect


def test_every_way_to_name_points_multiplies(tmp_path: Path) -> None:
    """A grid, a list and a sample together: each with each, with every system and seed."""
    text = (
        SMALL
        + '[[list]]\n"engine.block_size" = 16\n[[list]]\n"engine.block_size" = 32\nengine.max_num_seqs = 64\n'
    )
    text += (
        '[sample]\nkind = "random"\ncount = 3\nranges.machine.host_gib = {kind = "log", low = 1, high = 9}\n'
    )
    sweep = load_sweep(written(tmp_path, text))
    assert len(sweep.assignments) == 2 * 2 * 2 * 3
    points = [point for assignment in sweep.assignments for point in sweep.points(assignment)]
    assert len(points) == len({point.key for point in points}) == 24 * 2 * 2
    assert sweep.keys == (
        "machine.peer_gib", "engine.kv_blocks", "engine.block_size", "engine.max_num_seqs", "machine.host_gib",
    )  # fmt: skip


def test_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    """Systems, seeds, fixed values, objectives and constraints replace the file's."""
    given = Overrides(("aqua",), (("workload.requests", 5),), 3, ("max throughput",), ("ttft_p99 <= 9",))
    sweep = load_sweep(written(tmp_path), given)
    assert (sweep.systems, sweep.seeds) == (("aqua",), (1, 2, 3))
    told = [each.text for each in sweep.objectives] + [each.text for each in sweep.constraints]
    assert told == [
        "max throughput",
        "ttft_p99 <= 9",
    ]
    assert sweep.base.data["workload"]["requests"] == 5


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("machine.peer_gib", "machine.peer_gb", "9: unknown key 'machine.peer_gb'; did you mean 'peer_gib'?"),
        ("[2, 10.5]", "[]", "9: grid.machine.peer_gib is []: list should have at least 1 item"),
        ("[2, 10.5]", '[2, "x"]', "10: machine.peer_gib is 'x': input should be a valid number"),
        ("[2, 10.5]", "3", "grid.machine.peer_gib is 3: input should be a valid list"),
        ("seeds = 2", "seds = 2", "4: unknown key 'seds'; did you mean 'seeds'? valid: confidence,"),
        ("seeds = 2", "seeds = 0", "4: seeds is 0: input should be greater than or equal to 1"),
        ('"fcfs", "aqua"', '"fcfs", "aqa"', "3: unknown system 'aqa'; the scenario has: fcfs,"),
        ("small-h100", "smal-h100", "2: scenario: unknown scenario 'smal-h100'; did you mean"),
        ("workload.requests", "workload.request", "8: workload.request=12: unknown key 'workload.request'"),
        ("engine.kv_blocks", "systems.aqua.options.slice", "policy 'aqua' has no option 'slice'; it has:"),
        ("min ttft_p99", "min ttft_p98", "5: objective 'min ttft_p98': unknown metric 'ttft_p98'; did you"),
        ("* fcfs.", "* mlfq.", "6: mlfq.throughput_tok_s: system 'mlfq' is not in the sweep"),
        ("[grid]", "[grd]", "unknown key 'grd'"),
        ("engine.kv_blocks", '"machine.peer_gib".x', "machine.peer_gib"),
        ("[300, 600]", "[300, nan]", "10: grid.engine.kv_blocks.1 is nan: input should be a finite number"),
        ("[2, 10.5]", "[2, -inf]", "9: grid.machine.peer_gib.1 is -inf: input should be a finite number"),
        ("seeds = 2", "seeds = true", "4: seeds is True: input should be a valid integer"),
        ("seeds = 2", "seeds = [1, true]", "4: seeds.1 is True: input should be a valid integer"),
        ("seeds = 2", "seeds = [-1]", "4: seeds.0 is -1: input should be greater than or equal to 0"),
        ("seeds = 2", f"seeds = [{2**63}]", f"4: seeds.0 is {2**63}: input should be less than or equal to"),
        (
            "seeds = 2",
            f"seeds = {10**9}",
            f"4: seeds is {10**9}: input should be less than or equal to 1000000",
        ),
        ("[set]", f"[set]\nseed = {10**20}", f"4: seed {10**20} with 2 seeds: a seed is at most {2**63 - 1}"),
        ("[2, 10.5]", "[2]\nseed = [1, 2]", "10: seed: give seeds = [...], every point is run with each"),
        ("[set]", "[set]\nengine.kv_blocks = 5", "9: engine.kv_blocks varies, and engine.kv_blocks is set"),
    ],
)
def test_a_faulty_file_is_refused_before_anything_runs(tmp_path: Path, old: str, new: str, says: str) -> None:
    """One line: file, line, key, what is valid. (The line of a value is its key's.)"""
    assert old in SMALL
    path = written(tmp_path, SMALL.replace(old, new))
    with pytest.raises(UserError) as caught:
        load_sweep(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    assert says.split(": ", 1)[-1] in text


LISTED = """
[[list]]
workload.requests = 12
%s
[[list]]
workload.requests = 13
%s
"""
SAMPLED = '[sample]\ncount = 3\nranges.%s = {kind = "integer", low = 1, high = 64}\n'
SEARCHED = SAMPLED.replace("[sample]\ncount", "[search]\ntrials")
HEAD = 'scenario = "small-h100"\nsystems = ["fcfs", "aqua"]\nobjectives = "min ttft_p99"\n'
STRANGE = "systems.aqau.options.slice_length"


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (f"[grid]\n{STRANGE} = [1, 64]\n", 5),
        ("[grid.systems.aqau]\noptions.slice_length = [1, 64]\nengine.max_num_seqs = [1]\n", 5),
        (LISTED % ("", f"{STRANGE} = 4"), 10),
        (SAMPLED % STRANGE, 6),
        (SEARCHED % STRANGE, 6),
        (f"[set]\n{STRANGE} = 4\n[grid]\nengine.kv_blocks = [300]\n", 5),
        ('[set]\nsystems.aqau.policy = "cfs"\n[grid]\nengine.kv_blocks = [300]\n', 5),
    ],
)
def test_a_key_of_another_system_is_refused(tmp_path: Path, more: str, line: int) -> None:
    """Mistyped or not in the sweep, varied or set: its line, and the sweep's systems."""
    for name in ("aqau", "mlfq"):
        path = written(tmp_path, HEAD + more.replace("aqau", name))
        with pytest.raises(UserError) as caught:
            load_sweep(path)
        text = str(caught.value)
        assert text.startswith(f"{path}:{line}: systems.{name}.")
        assert text.endswith(f": no system '{name}'; the sweep has: fcfs, aqua")


def test_a_change_of_another_system_is_refused(tmp_path: Path) -> None:
    """As in the file; fewer systems on the command line leave the file's keys as they are."""
    given = Overrides(changes=((STRANGE, 4),))
    with pytest.raises(UserError, match=rf"^--set {STRANGE}=4: no system 'aqau'; the sweep has: fcfs, aqua$"):
        load_sweep(written(tmp_path), given)
    text = SMALL.replace("engine.kv_blocks = [300, 600]", "systems.aqua.options.slice_length = [4, 8]")
    assert load_sweep(written(tmp_path, text), Overrides(systems=("fcfs",))).systems == ("fcfs",)


def test_a_system_may_be_made_by_what_is_set(tmp_path: Path) -> None:
    """One that the file names, or is given a policy where it names none, is new, and no mistake."""
    text = SMALL.replace(
        "[set]", '[set]\nsystems.mine.policy = "aqua"\nsystems.mine.options.slice_length = 4'
    )
    sweep = load_sweep(written(tmp_path, text.replace('"aqua"]', '"mine"]')))
    assert sweep.systems == ("fcfs", "mine")
    every = load_sweep(written(tmp_path, text.replace('systems = ["fcfs", "aqua"]\n', "")))
    assert every.systems[-1] == "mine"


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("[grid]\nmachine.host_gib = [1, 2]\n", 7),
        (LISTED % ("machine.host_gib = 1", "machine.host_gib = 2"), 9),
        (SAMPLED % "machine.host_gib", 8),
        (SEARCHED % "machine.host_gib", 8),
    ],
)
def test_what_varies_cannot_be_set(tmp_path: Path, more: str, line: int) -> None:
    """In the file or on the command line: no point would have what is set."""
    path = written(tmp_path, f"{HEAD}[set]\nengine.block_size = 16\n{more}")
    given = Overrides(changes=(("machine.host_gib", 5),))
    with pytest.raises(UserError) as caught:
        load_sweep(path, given)
    where = f"machine.host_gib varies in {path}:{line}; one of them"
    assert str(caught.value) == f"--set machine.host_gib=5: {where}"
    path = written(tmp_path, f"{HEAD}[set]\nmachine.host_gib = 5\n{more}")
    with pytest.raises(UserError, match=r"5: machine\.host_gib varies, and machine\.host_gib is set; one of"):
        load_sweep(path)


def test_what_some_points_have_may_be_set(tmp_path: Path) -> None:
    """With a key that only some rows of a list give, or one below what is set; not with a table that varies."""
    rows = LISTED % ("machine.host_gib = 1", "")
    assert load_sweep(written(tmp_path, f"{HEAD}[set]\nmachine.host_gib = 5\n{rows}")).axes
    below = (
        '[set]\n"workload.arrivals" = {kind = "poisson", rate = 1}\n[grid]\nworkload.arrivals.rate = [1, 2]\n'
    )
    assert load_sweep(written(tmp_path, HEAD + below)).axes
    above = '[set]\nworkload.requests = 9\n[grid]\n"workload.arrivals" = [{kind = "at-once"}]\n'
    assert load_sweep(written(tmp_path, HEAD + above)).axes
    with pytest.raises(UserError, match=r"workload\.arrivals varies, and workload\.arrivals\.phases is set"):
        load_sweep(written(tmp_path, HEAD + above.replace("requests = 9", "arrivals.phases = [[1.0, 9]]")))


def test_a_fault_in_a_list_has_the_line_of_its_row(tmp_path: Path) -> None:
    """Rows give the same keys; the line is that of the faulty one."""
    path = written(tmp_path, HEAD + LISTED % ("machine.host_gib = 1", "machine.host_gib = inf"))
    with pytest.raises(UserError, match=r":10: list\.1\.machine\.host_gib is inf: input should be a finite"):
        load_sweep(path)


def test_values_that_depend_on_each_other_are_not_refused(tmp_path: Path) -> None:
    """A key that exists for some kinds of arrivals only is fine if some point has such arrivals."""
    arrivals = '[{kind = "at-once"}, {kind = "poisson", rate = 1}]'
    text = SMALL.replace(
        "engine.kv_blocks = [300, 600]",
        f'"workload.arrivals" = {arrivals}\n"workload.arrivals.rate" = [1, 2]',
    )
    sweep = load_sweep(written(tmp_path, text))
    assert len(sweep.assignments) == 8


def test_a_scenario_is_found_beside_the_sweep(tmp_path: Path) -> None:
    """A path is relative to the sweep file, whatever the working folder."""
    (tmp_path / "mine.toml").write_text((FOLDER / "small-h100.toml").read_text())
    sweep = load_sweep(written(tmp_path, SMALL.replace('"small-h100"', '"mine.toml"')))
    assert sweep.base.file == str(tmp_path / "mine.toml")
    assert sweep.base.point((), "aqua", 1).key == load_sweep(written(tmp_path)).base.point((), "aqua", 1).key


def test_what_makes_no_difference_runs_once(tmp_path: Path) -> None:
    """Another system's option is no part of a point: its rows are there, its simulation is one."""
    text = SMALL.replace("engine.kv_blocks = [300, 600]", "systems.aqua.options.slice_length = [4, 8]")
    outcome = run(written(tmp_path, text), tmp_path / "s")
    assert len(outcome.results.points) == 16
    assert outcome.ran == 8 + 4
