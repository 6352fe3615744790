"""The one error of this package, and what CUDA's codes mean where memory is shared."""

HINTS = {
    2: "the device has no memory left for this",
    201: "the processes must have different PIDs as the driver sees them: containers have to share a PID namespace",
    205: "the device's node may be missing in this container, or its address space may be full",
    400: "the exporter must be another, living process on the same machine that has not freed the memory yet",
    711: "too many peers: a GPU can map a limited number of others",
    800: "not permitted: MIG instances and some virtual GPUs do not share memory between processes",
    801: "not supported: MIG instances and some virtual GPUs do not share memory between processes",
}


class ArenaError(RuntimeError):
    """Memory cannot be made, shared, mapped or used as asked; the text says why, and what to look at."""


def hint(code: int) -> str:
    """Return what usually lies behind CUDA error `code` here (LMCache#4014, vLLM PR#55906), or nothing."""
    return f" ({HINTS[code]})" if code in HINTS else ""
