"""One driver call for a whole list of copies: cuMemcpyBatchAsync, from numpy columns.

It is called through ctypes because cuda-bindings takes Python lists, at microseconds per element. The symbol is
asked for as of CUDA 12.8, a form that every later driver keeps, so that one signature serves all of them: CUDA 13's
own form merely lacks the index of the failed copy.
"""

import ctypes
from functools import cache
from typing import Any

from aquasim.runtime.copy import cuda
from aquasim.runtime.copy.copier import CopyError
from aquasim.runtime.copy.descriptors import Descriptors

_VERSION = 12080
_STREAM_ORDER, _ANY_ORDER = 1, 3  # CUmemcpySrcAccessOrder
_PREFER_OVERLAP = 1  # CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE


class _Attributes(ctypes.Structure):
    """CUmemcpyAttributes: two location hints, which plain memory does not need, between order and flags."""

    _fields_ = (
        ("source_order", ctypes.c_int),
        ("hints", ctypes.c_int * 4),
        ("flags", ctypes.c_uint),
    )


@cache
def function() -> Any:
    """Return the driver's function, or None where the driver is older than CUDA 12.8."""
    driver, address, found = cuda.driver(), ctypes.c_void_p(), ctypes.c_int()
    words = (ctypes.byref(address), ctypes.c_int(_VERSION), ctypes.c_uint64(0), ctypes.byref(found))
    if driver.cuGetProcAddress_v2(b"cuMemcpyBatchAsync", *words) or not address.value:
        return None
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    kinds = (pointer, pointer, pointer, size, pointer, pointer, size, pointer, pointer)
    return ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(address.value)


def submit(copies: Descriptors, stream: int, stable: bool) -> None:
    """Queue all copies on a raw stream, which must not be the NULL stream, in the current device's context.

    Sources are read in stream order, or at any time when they are `stable`. The columns may go when this returns.
    Raises CopyError with the driver's word and the descriptor it stopped at.
    """
    attributes = _Attributes(_ANY_ORDER if stable else _STREAM_ORDER, (0, 0, 0, 0), _PREFER_OVERLAP)
    first, failed = ctypes.c_size_t(0), ctypes.c_size_t(0)
    columns = (column.ctypes.data for column in (copies.dst, copies.src, copies.sizes))
    words = (ctypes.byref(attributes), ctypes.byref(first), 1, ctypes.byref(failed), stream)
    status = function()(*columns, len(copies), *words)
    if status:
        where = f"a batch of {len(copies)} copies, at number {failed.value}"
        raise CopyError(f"{where}: {cuda.name(status)}", status)
