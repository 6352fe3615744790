"""The door to CUDA: CuPy and the driver, loaded when first needed; GPUs by UUID; error codes in words."""

import ctypes
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from aquasim.runtime.copy.copier import CopyError

SUCCESS, NOT_READY = 0, 600


@cache
def cupy() -> Any:
    """Return the cupy module; raises CopyError where it is not installed or sees no GPU."""
    try:
        with warnings.catch_warnings():  # of a toolkit that is not on disk, which nothing here needs
            warnings.simplefilter("ignore")
            module: Any = import_module("cupy")
    except ImportError as error:
        how = "pip install 'aquasim[cuda13]' or 'aquasim[cuda12]'"
        raise CopyError(f"CUDA needs CuPy: {how} ({error})") from error
    try:
        count = module.cuda.runtime.getDeviceCount()
    except module.cuda.runtime.CUDARuntimeError as error:
        raise CopyError(f"no CUDA device: {error} (error {error.status})", error.status) from error
    if not count:
        raise CopyError("no CUDA device: none is visible to this process")
    return module


def reason() -> str | None:
    """Say why CUDA cannot be used here, or None where it can."""
    try:
        cupy()
    except CopyError as error:
        return str(error)
    return None


def runtime() -> Any:
    """Return CuPy's bindings of the CUDA runtime; raises as `cupy` does."""
    return cupy().cuda.runtime


@contextmanager
def on(index: int) -> Iterator[None]:
    """Make GPU `index` current inside.

    CUDA's errors come out as CopyError, as in "cudaErrorInvalidValue: invalid argument (error 1)".
    """
    try:
        with cupy().cuda.Device(index):
            yield
    except (runtime().CUDARuntimeError, cupy().cuda.driver.CUDADriverError) as error:
        raise CopyError(f"{error} (error {error.status})", error.status) from error


@cache
def driver() -> ctypes.CDLL:
    """Return the driver's library for what CuPy does not bind; raises CopyError where it is missing."""
    cupy()
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise CopyError(f"the CUDA driver cannot be loaded: {error}") from error


def name(status: int) -> str:
    """Return the name of a driver status with its code, as in "CUDA_ERROR_INVALID_VALUE (error 1)"."""
    text = ctypes.c_char_p()
    driver().cuGetErrorName(ctypes.c_int(status), ctypes.byref(text))
    return f"{(text.value or b'unknown error').decode()} (error {status})"


def check(status: int, what: str) -> None:
    """Raise CopyError for a driver status that is no success."""
    if status != SUCCESS:
        raise CopyError(f"{what}: {name(status)}", status)


@cache
def uuid_of(index: int) -> str:
    """Return the UUID of the visible GPU `index`, as "GPU-8-4-4-4-12" hexadecimal digits.

    Indexes differ between processes with different CUDA_VISIBLE_DEVICES; UUIDs do not.
    """
    count = runtime().getDeviceCount()
    if not 0 <= index < count:
        raise CopyError(f"no GPU {index}: {count} are visible")
    device, raw = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    check(driver().cuInit(0), "cuInit")
    check(driver().cuDeviceGet(ctypes.byref(device), ctypes.c_int(index)), "cuDeviceGet")
    check(driver().cuDeviceGetUuid_v2(ctypes.byref(raw), device), "cuDeviceGetUuid")
    text = bytes(raw).hex()
    return f"GPU-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def index_of(device: str | int) -> int:
    """Return the visible index of a GPU that is given by UUID or by index; raises CopyError."""
    count = runtime().getDeviceCount()
    names = [uuid_of(index) for index in range(count)]
    if device in names:
        return names.index(str(device))
    if isinstance(device, int) and 0 <= device < count:
        return device
    raise CopyError(f"no GPU {device!r} is visible here; there are {', '.join(names)}")
