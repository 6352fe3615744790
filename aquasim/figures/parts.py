"""Pieces of charts that the families share: axes, colours, tables by system."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair as alt

WIDE = 20
"""Greatest over least value from which an axis is logarithmic."""


def color(names: Sequence[str], field: str = "system") -> "alt.Color":
    """Return the colour of each name, by its place in the palette."""
    import altair as alt

    return alt.Color(f"{field}:N", title=None, scale=alt.Scale(domain=list(names), range="category"))


def kind_scale(kinds: Sequence[str]) -> "alt.Scale":
    """Return the colours of what happens to a request."""
    import altair as alt

    from aquasim.figures.theme import KINDS

    return alt.Scale(domain=list(kinds), range=[KINDS[kind] for kind in kinds])


def time_axis(field: str = "t", title: str = "seconds since the start") -> "alt.X":
    """Return the horizontal axis of time: from `begin` to `until`, which a page may set."""
    import altair as alt

    scale = alt.Scale(domainMin=alt.ExprRef("begin"), domainMax=alt.ExprRef("until"), nice=False)
    return alt.X(f"{field}:Q", title=title, scale=scale)


def amount_axis(field: str, title: str, low: float, high: float) -> "alt.Y":
    """Return a vertical axis, logarithmic (and its title says so) where the values spread far."""
    import altair as alt

    if is_wide(low, high):
        return alt.Y(
            f"{field}:Q", title=f"{title}, log scale", scale=alt.Scale(type="log", nice=False, padding=6)
        )
    return alt.Y(f"{field}:Q", title=title)


def is_wide(low: float, high: float) -> bool:
    """Say whether values spread far enough for a logarithmic axis."""
    return low > 0 and high > WIDE * low


def tips(**titles: str) -> list[Any]:
    """Return what hovering tells: field names with their titles; numbers with four digits."""
    import altair as alt

    return [
        alt.Tooltip(f"{field}:N", title=title)
        if field in ("system", "kind", "tier", "path", "percentile", "what", "request", "lane")
        else alt.Tooltip(f"{field}:Q", title=title, format=",.4~g")
        for field, title in titles.items()
    ]


def data(name: str = "rows") -> Any:
    """Return a reference to a figure's table."""
    import altair as alt

    return alt.NamedData(name=name)
