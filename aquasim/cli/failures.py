"""What a command may end in besides success: one line on stderr and an exit code, never a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, cast

import typer

from aquasim.errors import UserError

USAGE_ERROR: type[Exception] = next(k for k in typer.BadParameter.__mro__ if k.__name__ == "UsageError")
"""Click's, wherever this version of typer keeps it."""


class Interrupted(BaseException):
    """Ctrl-C. Not KeyboardInterrupt, which typer answers itself, in a way of its own in every version."""


def interrupt(*_: object) -> NoReturn:
    """Handle SIGINT."""
    raise Interrupted


class UnwrittenError(Exception):
    """What was printed cannot be written; not an OSError, which may be any file's."""


class _Stdout:
    """A stream whose errors are told from those of other files."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with _told():
            return int(self._stream.write(text))

    def flush(self) -> None:
        with _told():
            self._stream.flush()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UnwrittenError(f"stdout: cannot be written: {error.strerror}") from None


@contextmanager
def _watched() -> Iterator[None]:
    """Watch stdout, if there is one, and write out what was printed before the block ends."""
    before = sys.stdout
    if before is None:  # closed by who started us
        yield
        return
    ours = sys.stdout = cast(Any, _Stdout(before))
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        finally:
            if sys.stdout is ours:  # typer puts one of its own there when a pipe breaks
                sys.stdout = before


@contextmanager
def one_line() -> Iterator[None]:
    """Say in one line what a block ends in."""
    try:
        with _watched():
            yield
    except UserError as error:
        _fail(str(error), 2)
    except RecursionError:
        _fail("the input is nested too deeply", 2)
    except MemoryError:
        _fail("out of memory: fewer requests, or fewer systems at a time, need less", 2)
    except Interrupted:
        _fail("interrupted", 130)
    except USAGE_ERROR as error:
        _misused(error)
    except UnwrittenError as error:
        _drop()
        _fail(str(error), 2)
    except BrokenPipeError:
        _drop()
        sys.exit(141)


def _drop() -> None:
    """Leave nothing for the interpreter's last flush to fail at."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(text: str, code: int) -> NoReturn:
    print(f"aquasim: {text}", file=sys.stderr)
    sys.exit(code)


def _misused(error: Any) -> NoReturn:
    """Say in one line what is wrong with the words; help that was shown instead says nothing more."""
    message = error.format_message()
    if not message:
        sys.exit(2)
    command = error.ctx.command_path if error.ctx is not None else "aquasim"
    _fail(f"{message.rstrip('.')}; see {command} --help", 2)
