"""How much host memory there is to take. The kernel does not refuse a memfd: it kills somebody once all is taken."""

from collections.abc import Iterator
from pathlib import Path


def host_room() -> int | None:
    """Return the bytes of host memory that can still be taken here, or None where the machine does not say."""
    rooms = [limit - used for _, limit, used in group_limits()]
    available = _available()
    if available is not None:
        rooms.append(available)
    return max(0, min(rooms)) if rooms else None


def group_limits() -> Iterator[tuple[Path, int, int]]:
    """Yield (control group, limit, bytes used) of our group and those above it, as far as they can be seen (v2)."""
    root = Path("/sys/fs/cgroup")
    own = root / _own_group()
    for group in (own, *own.parents):
        if not group.is_relative_to(root):
            return
        try:
            limit, used = (group / "memory.max").read_text().strip(), (group / "memory.current").read_text()
        except OSError:
            continue
        if limit != "max":
            yield group, int(limit), int(used)


def _own_group() -> str:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    return next((line[4:] for line in lines if line.startswith("0::/")), "")


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
