"""Attention over the paged cache: what a back end must do, and the back ends by name."""

from aquasim.runtime.engine.attention.base import Attend, Attention, Decodes, Span
from aquasim.runtime.engine.attention.sdpa import Sdpa
from aquasim.runtime.engine.pool import KvPool

__all__ = ["ATTENTIONS", "Attend", "Attention", "Decodes", "Sdpa", "Span", "make_attention"]

ATTENTIONS = ("sdpa", "triton")


def make_attention(name: str, pool: KvPool, heads: int, max_seqs: int, *, alone: bool = False) -> Attention:
    """Return a back end by name for `heads` query heads (of this rank) and at most `max_seqs` decoding sequences.

    `alone`: no request's result may depend, to the bit, on which others are in the batch. Raises ValueError for an
    unknown name; ImportError for `triton` where that package is missing.
    """
    if name not in ATTENTIONS:
        raise ValueError(f"attention is {name!r}; valid: {', '.join(ATTENTIONS)}")
    prefill = Sdpa(pool, alone=alone)
    if name == "sdpa":
        return prefill
    from aquasim.runtime.engine.attention.paged import PagedTriton

    return PagedTriton(pool, heads, max_seqs, prefill)
