"""Every policy by name. A new one is a file beside these and a line here."""

from typing import Any

from aquasim.core.policies.base import Policy
from aquasim.core.policies.cfs import Aqua, Cfs
from aquasim.core.policies.fcfs import Fcfs, FcfsSwap
from aquasim.core.policies.hybrid import Hybrid
from aquasim.core.policies.mlfq import Mlfq
from aquasim.core.policies.neo import FastDecode, GpuOnly, Neo
from aquasim.core.policies.oracles import Sjf, Srpt
from aquasim.core.policies.priority import Priority

POLICIES: dict[str, type[Policy]] = {
    "fcfs": Fcfs,
    "fcfs-swap": FcfsSwap,
    "fcfs-v0": Fcfs,
    "priority": Priority,
    "mlfq": Mlfq,
    "sjf": Sjf,
    "srpt": Srpt,
    "cfs": Cfs,
    "aqua": Aqua,
    "neo": Neo,
    "gpu-only": GpuOnly,
    "fastdecode": FastDecode,
    "hybrid": Hybrid,
}


def make_policy(name: str, **options: Any) -> Policy:
    """Return a new policy by name.

    Raises:
        ValueError: the name is unknown, it has no such option, or an option has another type or range.
    """
    if name not in POLICIES:
        raise ValueError(f"unknown policy {name!r}; known: {', '.join(POLICIES)}")
    kind = POLICIES[name]
    known = getattr(kind.__init__, "__kwdefaults__", None) or {}
    for option, value in options.items():
        if option not in known:
            valid = ", ".join(known) or "none"
            raise ValueError(f"policy {name!r} has no option {option!r}; it has: {valid}")
        wanted = type(known[option])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise ValueError(f"option {option} of policy {name!r} is {value!r}; {wanted.__name__} is needed")
    return kind(**options)
