"""Messages of every kind, for hypothesis."""

import inspect
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from aquasim.core.leases import Extent
from aquasim.runtime.coordinator import codec

NATURAL = st.integers(0, 2**64 - 1)
NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}\Z")
KINDS = sorted(codec.LEASES)


def values(hint: Any, name: str = "") -> st.SearchStrategy[Any]:
    """Make values of an annotation of `messages`; sizes are positive."""
    if hint is int:
        return st.integers(1, 2**64 - 1) if name == "bytes" else NATURAL
    if hint in (bool, str):
        return st.booleans() if hint is bool else NAMES
    if inspect.isclass(hint) and hasattr(hint, "_fields"):
        hints = get_type_hints(hint)
        return st.builds(hint, **{key: values(inner, key) for key, inner in hints.items()})
    words = get_args(hint)
    if get_origin(hint) is Literal:
        return st.sampled_from(words)
    if get_origin(hint) is tuple and words[-1] is ...:
        return st.lists(values(words[0]), max_size=4).map(tuple)
    if get_origin(hint) is tuple:
        sizes = words in (
            (int, int),
            (Extent, int, int),
        )  # of Donate and of ConsumerReport: the last one is bytes
        names = [""] * (len(words) - 1) + ["bytes" if sizes else ""]
        return st.tuples(*(values(word, key) for word, key in zip(words, names, strict=True)))
    return st.one_of(*(st.none() if word is type(None) else values(word) for word in words))
