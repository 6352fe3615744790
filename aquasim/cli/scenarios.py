"""`scenarios`: what ships, one of them as it is, and what a file may say."""

from dataclasses import asdict

from aquasim.cli.output import Form, emit
from aquasim.scenario import load_scenario, scenario_names
from aquasim.scenario.load import find


def show_all(form: Form) -> None:
    """List the shipped scenarios."""
    rows = {}
    for name in scenario_names():
        scenario = load_scenario(name)
        rows[name] = {
            "question": scenario.question,
            "source": scenario.source,
            "expect": scenario.expect,
            "systems": list(scenario.systems),
            "file": str(find(name)),
        }

    def table() -> None:
        from aquasim.cli.tables import print_scenarios

        print_scenarios(rows)

    emit(form, lambda: rows, lambda: ({"scenario": name, **row} for name, row in rows.items()), table)


def show_file(name: str) -> None:
    """Print a scenario's file."""
    print(find(name).read_text(encoding="utf-8"), end="")


def show_keys(form: Form) -> None:
    """Print all keys of a scenario of one engine."""
    from aquasim.scenario.keys import keys

    rows = [asdict(key) for key in keys()]

    def table() -> None:
        from aquasim.cli.tables import print_keys

        print_keys(rows)

    emit(form, lambda: rows, lambda: rows, table)
