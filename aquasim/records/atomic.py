"""Files and folders that appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex


def _sibling(path: Path) -> Path:
    """Return a name beside `path`, so on the same file system, that nobody else uses."""
    return path.parent / f".{path.name}.{token_hex(4)}"


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; the file then takes the place of `path`, or vanishes if the block raises."""
    part = _sibling(path)
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it then takes the place of `path`, or vanishes if the block raises.

    A folder that was there is removed only after the new one is in its place.
    """
    part = _sibling(path)
    part.mkdir(parents=True)
    try:
        yield part
        if path.exists():
            _swap(part, path)
        else:
            os.rename(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _swap(part: Path, path: Path) -> None:
    old = _sibling(path)
    os.rename(path, old)
    try:
        os.rename(part, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)
