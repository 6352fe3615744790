"""What is measured on: a GPU, or this machine's CPU, with torch on it."""

import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from aquasim import __version__
from aquasim.calibrate.bench.timing import Call, Patience, Timing, time_eagerly, time_on_cpu, time_on_cuda
from aquasim.errors import UserError

DTYPE_BYTES = 2
_TURNS = 32
_GRAPHLESS = ("captur", "graph")


def load_torch() -> Any:
    """Return the torch module. Raises UserError where it is not installed."""
    try:
        return import_module("torch")
    except ImportError:
        raise UserError(
            "measuring needs torch, which is not installed: pip install 'aquasim[runtime]' (--from needs none)"
        ) from None


def pick_device(wanted: str | None) -> str:
    """Return "cuda" or "cpu": what is wanted, or the GPU if there is one.

    Raises UserError for another word, without torch, and for a GPU that is not there.
    """
    if wanted not in (None, "cuda", "cpu"):
        raise UserError(f"--device {wanted}: valid are cuda, cpu")
    there = bool(load_torch().cuda.is_available())
    if wanted == "cuda" and not there:
        raise UserError("--device cuda: torch sees no CUDA device here; --device cpu measures the CPU")
    return wanted or ("cuda" if there else "cpu")


class Bench:
    """A device to measure on, in bf16, quick or in full.

    Quick on a CPU takes one thread, which other work on the machine disturbs least; in full it takes as many as
    are fastest, and leaves one core to others: threads that share a core wait for each other by whole time slices.
    """

    def __init__(self, kind: str, *, quick: bool) -> None:
        self.torch = load_torch()
        self.kind = kind
        self.quick = quick
        self.cuda = kind == "cuda"
        self.device = self.torch.device("cuda", 0) if self.cuda else self.torch.device("cpu")
        self.dtype = self.torch.bfloat16
        self.threads = self.torch.get_num_threads()
        if not self.cuda:
            self.use_threads(1 if quick else _fastest_threads(self.torch))
        self.generator = self.torch.Generator(device=self.device).manual_seed(0)
        self.patience = _PATIENCE[kind, quick]

    def use_threads(self, threads: int) -> None:
        """Take so many threads on a CPU from now on."""
        self.threads = threads
        self.torch.set_num_threads(threads)

    def tensor(self, *shape: int, dtype: Any = None) -> Any:
        """Return random numbers around 0 of this shape, small enough that sums of products stay finite."""
        made = self.torch.empty(shape, dtype=dtype or self.dtype, device=self.device)
        return made.uniform_(-0.1, 0.1, generator=self.generator)

    def turns(self, nbytes: float) -> int:
        """Return how many sets of operands of `nbytes` to use in turn so that none stays in the cache."""
        room = self.room / max(1.0, nbytes)
        return max(1, min(math.ceil(2 * self.cache_bytes / max(1.0, nbytes)), int(room), _TURNS))

    @property
    def room(self) -> float:
        """Bytes that one measurement may take."""
        if self.cuda:
            return 0.4 * float(self.torch.cuda.mem_get_info(self.device)[0])
        return 96e6 if self.quick else min(4e9, 0.2 * _host_memory())

    @property
    def cache_bytes(self) -> int:
        """Size of the last cache before memory."""
        if self.cuda:
            return int(getattr(self.torch.cuda.get_device_properties(self.device), "L2_cache_size", 64 << 20))
        return _host_cache()

    def time(self, calls: Sequence[Call]) -> Timing:
        """Return the time of one of `calls`, which do the same on operands of their own.

        On a GPU inside a CUDA graph, eagerly where that cannot be. Raises RuntimeError if a result is not finite.
        """
        if not self.cuda:
            timing = time_on_cpu(calls, self.patience)
        else:
            try:
                timing = time_on_cuda(self.torch, calls, self.patience)
            except RuntimeError as error:
                if not any(word in str(error).lower() for word in _GRAPHLESS):
                    raise
                self.torch.cuda.synchronize()
                timing = time_eagerly(self.torch, calls, self.patience)
        self._check(calls[0]())
        return timing

    def _check(self, result: object) -> None:
        tensor: Any = result if isinstance(result, self.torch.Tensor) else None
        if tensor is not None and tensor.is_floating_point() and not self.torch.isfinite(tensor).all():
            raise RuntimeError("the result is not finite")

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.cuda:
            self.torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Give memory that is no longer used back to the device."""
        if self.cuda:
            self.torch.cuda.empty_cache()

    def provenance(self) -> dict[str, str]:
        """Return device, driver, versions, clocks, time and command, as text."""
        about = _about_gpu(self.torch) if self.cuda else _about_cpu(self.threads)
        return {
            **about,
            "dtype": "bfloat16",
            "torch": str(self.torch.__version__),
            "python": platform.python_version(),
            "aquasim": __version__,
            "system": f"{platform.system()} {platform.release()}",
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "sizes": "quick" if self.quick else "full",
        }


_PATIENCE = {
    ("cuda", False): Patience(spread=0.02, least=7, most_s=0.3),
    ("cuda", True): Patience(spread=0.03, least=5, most_s=0.1),
    ("cpu", False): Patience(spread=0.05, least=7, most_s=0.5),
    ("cpu", True): Patience(spread=0.1, least=5, most_s=0.06),
}


def _fastest_threads(torch: Any) -> int:
    """Return with how many threads, short of all, a product of some milliseconds is fastest at this moment."""
    most = max(1, int(torch.get_num_threads()) - 1)
    x, w = torch.ones(256, 1024, dtype=torch.bfloat16), torch.ones(1024, 1024, dtype=torch.bfloat16)
    seconds = {}
    for threads in {most, max(1, most // 2), 1}:
        torch.set_num_threads(threads)
        seconds[threads] = time_on_cpu([lambda: torch.mm(x, w)], _PATIENCE["cpu", True]).seconds
    return min(seconds, key=lambda threads: seconds[threads])


def _about_gpu(torch: Any) -> dict[str, str]:
    properties = torch.cuda.get_device_properties(0)
    about = {
        "device": str(properties.name),
        "memory_bytes": str(properties.total_memory),
        "cuda": str(torch.version.cuda),
        "multiprocessors": str(properties.multi_processor_count),
        "gpus": str(torch.cuda.device_count()),
    }
    uuid = getattr(properties, "uuid", None)
    return {**about, **({"uuid": f"GPU-{uuid}"} if uuid else {}), **_about_driver(str(uuid))}


def _about_driver(uuid: str) -> dict[str, str]:
    """Return driver and clocks by NVML, and the total memory as nvidia-smi has it, where NVML is at hand."""
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except nvml.NVMLError:
            handle = nvml.nvmlDeviceGetHandleByIndex(0)
        names = {"sm": nvml.NVML_CLOCK_SM, "memory": nvml.NVML_CLOCK_MEM}
        clocks = {key: nvml.nvmlDeviceGetClockInfo(handle, kind) for key, kind in names.items()}
        return {
            "driver": str(nvml.nvmlSystemGetDriverVersion()),
            "memory_bytes": str(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            **{f"{key} clock": f"{clock} MHz" for key, clock in clocks.items()},
            "power limit": f"{nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000:.0f} W",
        }
    except Exception:  # NVML is a courtesy: absent, too old, or forbidden in a container
        return {}


def _about_cpu(threads: int) -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    clock = next((line.partition(":")[2].strip() for line in lines if line.startswith("cpu MHz")), "unknown")
    about = {
        "device": model,
        "memory_bytes": str(_host_memory()),
        "threads": str(threads),
        "cores": str(os.cpu_count()),
    }
    return {**about, "clock": f"{clock} MHz", "numpy": metadata.version("numpy")}


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _host_cache() -> int:
    """Return bytes of the CPU's last cache, 32 MiB where the system does not say."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="utf-8").strip()
        if text[:-1].isdigit() and text[-1] in "KM":
            sizes.append(int(text[:-1]) << {"K": 10, "M": 20}[text[-1]])
    return max(sizes, default=32 << 20)
