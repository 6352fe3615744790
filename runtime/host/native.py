"""The kernel in C: compiled for this processor at first use, kept in the user's cache, called through ctypes."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from aquasim.hardware.local import cache_folder, machine

FOLDER = Path(__file__).parent
SOURCES = ("kernel.c", "chunks.h", "job.h", "threads.h", "vectors.h")
TUNED = (("-march=native", "-mprefer-vector-width=512"), ("-march=native",), ("-mcpu=native",), ())
"""Tried in this order: what a compiler does not know of a processor it refuses."""
COMMON = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread")
COMPILE_S = 120


class Job(ctypes.Structure):
    """The arguments of one call; job.h says what they are."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in (
            "queries", "out", "keys", "values", "blocks", "segments", "firsts", "partial", "stats", "left"
        )),
        *((name, ctypes.c_int64) for name in ("block_bytes", "rows", "count")),
        *((name, ctypes.c_int32) for name in ("heads", "kv_heads", "dim", "size", "kind", "next")),
        ("scale", ctypes.c_float),
    )  # fmt: skip


class NativeError(RuntimeError):
    """There is no compiler, or it refused; the text says which."""


class Threads:
    """Threads of the kernel, the caller's among them; close them after use. One call at a time."""

    def __init__(self, library: ctypes.CDLL, count: int) -> None:
        assert count > 0, count
        self._library = library
        self._pool: int | None = library.aquasim_open(count)
        assert self._pool is not None, "no memory for threads"

    def attend(self, job: Job) -> None:
        """Compute; other Python threads run meanwhile."""
        self._library.aquasim_attend(self._pool, ctypes.byref(job))

    def read(self, address: int, mebibytes: int) -> None:
        """Read so much memory and do nothing with it: how fast it could be."""
        self._library.aquasim_read(self._pool, address, mebibytes)

    def close(self) -> None:
        """End the threads; closing twice is harmless."""
        if self._pool is not None:
            self._library.aquasim_close(self._pool)
            self._pool = None


@functools.cache
def library(*flags: str) -> ctypes.CDLL:
    """Return the kernel, compiled now if this machine has not done so before.

    Args:
        flags: more options of the compiler; -DPORTABLE: shorter registers, and no instructions of one processor.

    Raises:
        NativeError: no C compiler, it refuses the source, or the cache's folder cannot be written.
    """
    compiler = _compiler()
    path = _path(compiler, flags)
    if not path.exists():
        _compile(compiler, flags, path)
    try:
        found = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeError(f"{path} cannot be loaded: {error}") from None
    found.aquasim_open.restype = ctypes.c_void_p
    found.aquasim_open.argtypes = (ctypes.c_int,)
    found.aquasim_close.argtypes = (ctypes.c_void_p,)
    found.aquasim_attend.argtypes = (ctypes.c_void_p, ctypes.POINTER(Job))
    found.aquasim_read.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    return found


def _compiler() -> tuple[str, ...]:
    """Return the system's C compiler: $CC, or the first that is found."""
    if sys.platform == "win32":
        raise NativeError("the kernel needs POSIX threads")
    if given := os.environ.get("CC"):
        return tuple(shlex.split(given))
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return (found,)
    raise NativeError("there is no C compiler (cc, gcc, clang)")


def _path(compiler: tuple[str, ...], flags: tuple[str, ...]) -> Path:
    """Return where the library for this source, compiler and processor is, or would be."""
    about = hashlib.sha256()
    for name in SOURCES:
        about.update((FOLDER / name).read_bytes())
    here = machine()
    about.update(repr((compiler, flags, here["processor"], platform.machine(), TUNED, COMMON)).encode())
    return cache_folder().parent / "kernels" / f"host-{about.hexdigest()[:16]}.so"


def _compile(compiler: tuple[str, ...], flags: tuple[str, ...], path: Path) -> None:
    """Compile to a file of another name and rename it, so that other processes find all of it or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            part = Path(folder) / path.name
            for tuned in TUNED:
                done = _run(
                    [*compiler, *COMMON, *tuned, *flags, str(FOLDER / SOURCES[0]), "-o", str(part), "-lm"]
                )
                if done.returncode == 0:
                    part.replace(path)
                    return
    except OSError as error:
        raise NativeError(f"{path.parent}: cannot be written: {error.strerror or error}") from None
    said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    raise NativeError(f"{compiler[0]} does not compile the kernel: {said[0]}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeError(f"{command[0]}: {error}") from None
