"""Text of users in tables is shown as it is."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from aquasim.cli.text import shown, visible


@given(st.text(st.sampled_from("ab1/#@=[]\\ \n\x1b"), max_size=12))
def test_nothing_is_lost_or_obeyed(text: str) -> None:
    """Brackets, backslashes, tags: read as markup, alone or within it, every character comes out, once."""
    for markup, whole in ((shown(text), "{}"), (f"[bold]{shown(text)}[/bold]!", "{}!")):
        assert Text.from_markup(markup).plain == whole.format(visible(text))


def test_a_windows_path_keeps_its_bracket() -> None:
    """What looks like a tag after a backslash is text, and a line break is spelled out."""
    assert Text.from_markup(shown("C:\\[x]")).plain == "C:\\[x]"
    assert visible("a\nb\x1b[0m") == "a\\nb\\x1b[0m"


def test_commands_show_a_question_as_it_is(command: Callable[..., tuple[int, str, str]]) -> None:
    """What `run` and `compare` print holds a path and a tag letter by letter."""
    question = r"C:\[x] [red]y[/red] z" + "\\"
    changes = ("--set", f"question='{question}'", "--set", "workload.requests=3")
    for words in (("run", "small-h100", *changes), ("compare", "small-h100", *changes, "-s", "fcfs")):
        code, out, error = command(*words)
        assert (code, error) == (0, "")
        assert out.splitlines()[0].strip() == question
