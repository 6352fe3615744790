"""What a run cannot tell: the honest list beside its figures."""

from collections.abc import Iterator, Sequence
from typing import Any

from aquasim.figures.requests import MOST
from aquasim.records.run import Run

FEW = 1000
"""Requests below which a 99th percentile rests on fewer than ten."""


def cannot_tell(runs: Sequence[tuple[str, Run]]) -> list[str]:
    """Return what a reader should not conclude from these runs."""
    metas = [run.meta for _, run in runs]
    return list(dict.fromkeys([*_kinds(metas), *_samples(runs), *_notes(runs)]))


def _kinds(metas: Sequence[dict[str, Any]]) -> Iterator[str]:
    measured = [meta for meta in metas if meta.get("on") == "hardware"]
    if len(measured) < len(metas):
        yield (
            "These figures are simulated. Replayed measurements came out within a few percent at the median "
            "(aquasim validate), and further off at the 99th percentile."
        )
        yield "Step times at sizes that nobody measured are interpolated, or extrapolated; pauses are not simulated."
    if measured:
        yield "These figures were measured on one machine; another machine, or a busier one, gives others."
    for meta in measured:
        if meta.get("weights") == "random":
            yield "The model ran with random weights: its times are real, its words are not."
            break
    for profile, sources in assumptions(metas).items():
        yield f"The hardware profile {profile} assumes what nobody published: {'; '.join(sources)}."


def assumptions(metas: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Return what each profile that was used says it assumes, by name."""
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(str(meta["profile"]) for meta in metas if meta.get("profile")):
        texts = [text for text in _sources(profile_blocks(name)) if "assum" in text]
        short = dict.fromkeys(text.removeprefix("assumption: ") for text in texts)
        if short:
            found[name] = list(short)
    return found


def profile_blocks(name: str) -> dict[str, Any]:
    """Return a shipped profile's JSON; nothing for one that does not ship."""
    from aquasim.hardware.profile import load_profile, profile_names

    return load_profile(name).blocks if name in profile_names() else {}


def _sources(block: Any) -> Iterator[str]:
    if isinstance(block, dict):
        for key, value in block.items():
            if key == "source" and isinstance(value, str):
                yield value
            else:
                yield from _sources(value)


def _samples(runs: Sequence[tuple[str, Run]]) -> Iterator[str]:
    metas = [run.meta for _, run in runs]
    seeds = {meta.get("seed") for meta in metas}
    if len(seeds) == 1:
        yield f"All is from one seed ({seeds.pop()}): other arrivals and lengths of the same kind give other tails."
    most = max((run.count("requests") for _, run in runs), default=0)
    if 0 < most < FEW:
        many = f"{most:,} request{'s' * (most != 1)}"
        yield f"With {many}, the 99th percentile rests on the {max(1, most // 100)} slowest."
    for label, run in runs:
        lost = _unfinished(run)
        if lost:
            yield f"{label}: {lost}; percentiles are of finished requests only."
    if any(meta.get("oracle") for meta in metas):
        names = ", ".join(label for label, run in runs if run.meta.get("oracle"))
        yield f"{names} knows how long outputs will be, which no server does: a bound, not a proposal."
    if most > MOST:
        yield "Figures over time fold many requests into each point, as they say; what is shorter is not seen there."
    yield "What happens beyond the last request, or under a longer load of the same kind, was not run."


def _unfinished(run: Run) -> str:
    outcomes = run.columns("requests")["outcome"]
    names = run.labels["outcome"]
    counts = {name: int((outcomes == code).sum()) for code, name in enumerate(names) if code}
    return ", ".join(
        f"{count:,} request{'s' * (count != 1)} {name}" for name, count in counts.items() if count
    )


def _notes(runs: Sequence[tuple[str, Run]]) -> Iterator[str]:
    for label, run in runs:
        notes = run.meta.get("notes")
        for note in notes if isinstance(notes, list) else []:
            yield f"{label}: {note}"
