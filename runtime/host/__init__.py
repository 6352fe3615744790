"""Decode attention on the host's cores, over KV blocks in host memory (NEO, section 4).

    attention = HostAttention(pool, heads=32, threads=8)
    plan = attention.plan(blocks, lengths)
    attention.attend(plan, layer, queries, out)

Importing this loads nothing; torch comes with the first name.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aquasim.runtime.host.attention import HostAttention, Work

__all__ = ["HostAttention", "Work"]


def __getattr__(name: str) -> Any:
    """Load torch when it is first needed."""
    if name in __all__:
        from aquasim.runtime.host import attention

        return getattr(attention, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
