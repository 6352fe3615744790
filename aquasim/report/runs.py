"""A page of runs: one, a comparison, or tenants that share a server."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from aquasim import __version__
from aquasim.figures.distributions import distributions
from aquasim.figures.fairness import fairness_figures
from aquasim.figures.gantt import BUDGET, lanes_figure, request_figures
from aquasim.figures.links import link_figures
from aquasim.figures.load import load_figures
from aquasim.figures.overview import overview
from aquasim.figures.requests import strips
from aquasim.figures.theme import Figure
from aquasim.figures.work import work_figures
from aquasim.records.run import Run
from aquasim.report.headline import COLUMNS, WORK, headline, in_short
from aquasim.report.likeness import differences, in_words, tables
from aquasim.report.limits import cannot_tell
from aquasim.report.page import Details, Page, Part, Points, Section, Text
from aquasim.report.provenance import links_table, profile_details

Runs = Sequence[tuple[str, Run]]
LINKS = "What every link carried, and how much of what it could have from the first arrival to the last end"


def runs_page(runs: Runs) -> Page:
    """Return the page of some runs, the first of which is the baseline unless the scenario names another.

    Runs that are not of one experiment stand side by side, without a baseline and without a best.
    """
    unlike = differences(runs)
    runs, baseline = (runs, None) if unlike else _ordered(runs)
    scenario = runs[0][1].meta.get("scenario") or {}
    same = all((run.meta.get("scenario") or {}) == scenario for _, run in runs)
    asked = {(run.meta.get("scenario") or {}).get("question") for _, run in runs}
    title = str(
        (len(asked) == 1 and asked.pop())
        or (f"{len(runs)} runs side by side" if len(runs) > 1 else runs[0][0])
    )
    lead = _unlike_lead(runs, unlike) if unlike else _lead(runs)
    sections = [*_warning(unlike), *_content(runs, baseline), *_ending(runs, same)]
    return Page(title, sections, lead, _foot())


def _unlike_lead(runs: Runs, unlike: Mapping[str, Sequence[str]]) -> str:
    return f"{_kinds(runs)}: {len(runs)} runs that differ in {tables(unlike)}."


def _warning(unlike: Mapping[str, Sequence[str]]) -> list[Section]:
    """Say, before any figure, why runs are not compared."""
    if not unlike:
        return []
    says = f"Their scenarios differ in {tables(unlike)}: no run is set against another, and no figure is marked best."
    return [
        Section("These runs are not of one experiment", [Text(says, strong=True), Points(in_words(unlike))])
    ]


def _ordered(runs: Runs) -> tuple[Runs, str | None]:
    """Put the baseline first, so that it is grey in every figure; the others as the scenario lists them."""
    listed = list((runs[0][1].meta.get("scenario") or {}).get("systems") or {})
    place = {name: number for number, name in enumerate(listed)}
    runs = sorted(runs, key=lambda pair: place.get(str(pair[1].meta.get("system")), len(place)))
    names = {(run.meta.get("scenario") or {}).get("baseline") for _, run in runs}
    chosen = next((label for label, run in runs if run.meta.get("system") in names), runs[0][0])
    first = [pair for pair in runs if pair[0] == chosen]
    return [*first, *(pair for pair in runs if pair[0] != chosen)], chosen


def _foot() -> str:
    return f"Made by aquasim {__version__}. This file holds all it shows; it loads nothing."


def _lead(runs: Runs) -> str:
    meta = runs[0][1].meta
    machine = (meta.get("scenario") or {}).get("machine") or {}
    counts = {run.count("requests") for _, run in runs}
    most = max(counts, default=0)
    each = f"{most:,} request{'s' * (most != 1)}{' each' * (len(runs) > 1)}" if most else ""
    systems = f"{len(runs)} systems" if len(runs) > 1 else f"system {runs[0][0]}"
    place = f"on {machine['server']}" if machine.get("server") else ""
    model = meta.get("model")
    parts = [f"{_kinds(runs)}: {systems}", each, f"{model or ''} {place}".strip()]
    seeds = {run.meta.get("seed") for _, run in runs}
    parts += [f"seed {seeds.pop()}"] if len(seeds) == 1 else []
    return ", ".join(part for part in parts if part) + "."


def _kinds(runs: Runs) -> str:
    kinds = {"measured" if run.meta.get("on") == "hardware" else "simulated" for _, run in runs}
    return " and ".join(sorted(kinds)).capitalize()


def _content(runs: Runs, baseline: str | None) -> list[Section]:
    if not all("tenants" in run.meta for _, run in runs):
        return _serving(runs, baseline, "", BUDGET)
    shown = (runs[0][1].meta.get("scenario") or {}).get("show") or []
    names = dict.fromkeys([*shown, *(name for _, run in runs for name in run.meta["tenants"])])
    found: list[Section] = []
    for name in names:
        mine = [(label, tenant(run, name)) for label, run in runs if name in run.meta["tenants"]]
        found += _tenant(name, mine, baseline, BUDGET // len(names)) if mine else []
    return found


def tenant(run: Run, name: str) -> Run:
    """Return one tenant's run that still knows the server's links."""
    part = run.only(name)
    part.meta["links"] = run.meta.get("links")
    return part


def _tenant(name: str, runs: Runs, baseline: str | None, budget: int) -> list[Section]:
    kind = runs[0][1].meta.get("kind")
    if kind == "llm":
        return _serving(runs, baseline, name, budget)
    from aquasim.records.tenants import work_summary

    unit = "token" if kind == "long-prompt" else "item"
    summaries = {label: work_summary(run) for label, run in runs}
    ahead = f"{name} "
    figures = [*work_figures(runs, unit, ahead), *load_figures(runs, ahead), *link_figures(runs, ahead)]
    view = overview(runs, ahead)
    return [
        Section(f"{name} ({kind}): the figures", [headline(summaries, baseline, WORK)]),
        Section(f"{name}: over time", figures, view),
    ]


def _serving(runs: Runs, baseline: str | None, name: str, budget: int) -> list[Section]:
    """Return the sections of serving engines; `name` is a tenant's."""
    summaries = {label: run.summary() for label, run in runs}
    ahead, before = (f"{name} ", f"{name}: ") if name else ("", "")
    says = in_short(summaries, baseline)
    top: list[Part] = [Text(says, strong=True)] if says else []
    times: list[Figure] = [
        *strips(runs, ahead), *load_figures(runs, ahead), *fairness_figures(runs, ahead), *link_figures(runs, ahead),
    ]  # fmt: skip
    slices: list[Figure] = [*lanes_figure(runs, ahead, budget // 3), *request_figures(runs, ahead, budget)]
    spread = distributions(runs, ahead)
    sections = [
        Section(
            f"{before}The figures" if name else "The figures", [*top, headline(summaries, baseline, COLUMNS)]
        ),
        Section(f"{before}How times are spread" if name else "How times are spread", spread),
        Section(
            f"{before}What happened when" if name else "What happened when",
            [*times, *slices],
            overview(runs, ahead),
        ),
    ]
    return [section for section in sections if section.parts]


def _ending(runs: Runs, same: bool) -> list[Section]:
    parts: list[Part] = []
    scenarios = runs[:1] if same else runs
    for label, run in scenarios:
        if run.meta.get("scenario"):
            name = "The scenario as run" if same else f"The scenario of {label}"
            parts.append(Details(name, json.dumps(run.meta["scenario"], indent=1, ensure_ascii=False)))
    parts += profile_details([run for _, run in runs])
    for label, run in runs:
        parts.append(Details(f"{label}: what its records say of themselves", _meta(run.meta)))
    table = links_table(runs)
    return [
        Section("What these runs cannot tell" if len(runs) > 1 else "What this run cannot tell", [
            Points(cannot_tell(runs)),
        ]),
        Section("Where the numbers come from", [*parts, *([Details(LINKS, table)] if table else [])]),
    ]  # fmt: skip


def _meta(meta: dict[str, Any]) -> str:
    kept = {key: value for key, value in meta.items() if key not in ("scenario", "links")}
    return json.dumps(kept, indent=1, ensure_ascii=False)
