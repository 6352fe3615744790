"""The table a reader looks at first: every system's figures, the best marked, and the change in words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aquasim.report.page import Cell, Table

Summary = Mapping[str, Any]


class Column(NamedTuple):
    """A figure of a summary: heading, meaning, how to read it, its digits, which way is better, and two words.

    `words` are what more and less of it are called.
    """

    title: str
    meaning: str
    pick: Callable[[Summary], float | None]
    digits: int
    better: int
    words: tuple[str, str]


def _key(name: str, scale: float = 1.0) -> Callable[[Summary], float | None]:
    return lambda summary: None if summary.get(name) is None else float(summary[name]) * scale


def _paged(summary: Summary) -> float | None:
    paged = summary.get("paged_bytes")
    return None if paged is None else float(sum(paged.values())) / 1e9


TIMES = "\N{MULTIPLICATION SIGN}"
TIME, AMOUNT = ("longer", "shorter"), ("more", "less")
COLUMNS = (
    Column("TTFT p50, s", "time to first token, median", _key("ttft_p50"), 2, -1, TIME),
    Column("TTFT p99, s", "time to first token that one in a hundred exceeds", _key("ttft_p99"), 2, -1, TIME),
    Column("TPOT p50, ms", "time per output token, median", _key("tpot_p50", 1e3), 1, -1, TIME),
    Column(
        "ITL p99, ms",
        "inter-token latency that one token in a hundred exceeds",
        _key("itl_p99", 1e3),
        0,
        -1,
        TIME,
    ),
    Column("RCT p50, s", "request completion time, median", _key("rct_p50"), 1, -1, TIME),
    Column(
        "RCT p99, s", "request completion time that one in a hundred exceeds", _key("rct_p99"), 1, -1, TIME
    ),
    Column("tok/s", "tokens generated per second", _key("throughput_tok_s"), 0, 1, AMOUNT),
    Column("preempted", "how often a request lost its memory", _key("preemptions"), 0, 0, AMOUNT),
    Column("paged, GB", "KV cache moved between the GPU and other memory", _paged, 0, 0, AMOUNT),
)
WORK = (
    Column("items/s", "items made per second", _key("items_per_s"), 2, 1, AMOUNT),
    Column("unit p50, ms", "time of one unit, median", _key("unit_p50_s", 1e3), 1, -1, TIME),
    Column(
        "unit p99, ms", "time of one unit that one in a hundred exceeds", _key("unit_p99_s", 1e3), 1, -1, TIME
    ),
    Column("from peer, GB", "read from a peer's memory", _key("peer_bytes", 1e-9), 0, 0, AMOUNT),
    Column("from host, GB", "read from host memory", _key("host_bytes", 1e-9), 0, 0, AMOUNT),
)


def headline(
    summaries: Mapping[str, Summary], baseline: str | None, columns: Sequence[Column] = COLUMNS
) -> Table:
    """Return a row per system, each figure with its change against the baseline below it.

    Without a baseline nothing is compared: no figure is marked best.
    """
    best = [_best(column, summaries) if baseline is not None else None for column in columns]
    base = summaries.get(baseline) if baseline is not None else None
    rows = []
    for name, summary in summaries.items():
        note = "baseline" if base is summary and len(summaries) > 1 else ""
        cells = [
            _cell(column, summary, base if base is not summary else None, top)
            for column, top in zip(columns, best, strict=True)
        ]
        rows.append([Cell(name, note), *cells])
    heads = ["system", *(column.title for column in columns)]
    return Table(
        heads, rows, _caption(columns, baseline if base and len(summaries) > 1 else None), [*summaries]
    )


def _caption(columns: Sequence[Column], baseline: str | None) -> str:
    words = "; ".join(f"{column.title.split(',')[0]}: {column.meaning}" for column in columns)
    against = f" Below each figure: the change against {baseline}." if baseline else ""
    return f"{words}.{against}"


def _text(column: Column, value: float) -> str:
    return f"{value:,.{column.digits}f}"


def _best(column: Column, summaries: Mapping[str, Summary]) -> str | None:
    values = [value for summary in summaries.values() if (value := column.pick(summary)) is not None]
    if not column.better or len({_text(column, value) for value in values}) < 2:
        return None
    return _text(column, min(values) if column.better < 0 else max(values))


def _cell(column: Column, summary: Summary, base: Summary | None, best: str | None) -> Cell:
    value = column.pick(summary)
    if value is None:
        return Cell("-", title="not recorded")
    text = _text(column, value)
    before = column.pick(base) if base is not None else None
    note, more = ("", 0) if before is None else change(before, value, column.words)
    tone = {1: "better", -1: "worse", 0: ""}[more * column.better]
    return Cell(text, note, tone, text == best)


def change(before: float, after: float, words: tuple[str, str] = TIME) -> tuple[str, int]:
    """Say how `after` differs from `before`: a factor from two on, else percent.

    Returns:
        The words, and 1, -1 or 0 for more, less or within 1 %.
    """
    if before <= 0 or after <= 0:
        return (
            ("", 0) if after == before else ("from 0" if after > 0 else "none", 1 if after > before else -1)
        )
    ratio = after / before
    if abs(ratio - 1) < 0.01:
        return "the same", 0
    sign, word = (1, words[0]) if ratio > 1 else (-1, words[1])
    factor = max(ratio, 1 / ratio)
    if factor >= 2:
        return f"{factor:,.{1 if factor < 10 else 0}f}{TIMES} {word}", sign
    return f"{abs(ratio - 1):.0%} {word}".replace("%", " %"), sign


def in_short(summaries: Mapping[str, Summary], baseline: str | None) -> str:
    """Say in two sentences what became of the slowest first tokens and completions, and at what price."""
    base = summaries.get(baseline) if baseline is not None else None
    others = {k: v for k, v in summaries.items() if v is not base and v.get("ttft_p99") and v.get("rct_p99")}
    if not base or not others or not base.get("ttft_p99") or not base.get("rct_p99"):
        return ""
    first = min(others, key=lambda name: others[name]["ttft_p99"])
    cheap = min(others, key=lambda name: others[name]["rct_p99"])
    text = (
        f"Under {baseline}, one request in a hundred waits {base['ttft_p99']:,.3g} s or more for its first token; "
        f"under {first} {others[first]['ttft_p99']:,.3g} s ({_words(base, others[first], 'ttft_p99')}). "
        f"The slowest hundredth of completions takes {base['rct_p99']:,.3g} s under {baseline}, "
    )
    known = {first: others[first], cheap: others[cheap]}
    each = [f"{s['rct_p99']:,.3g} s under {name} ({_words(base, s, 'rct_p99')})" for name, s in known.items()]
    return f"{text}{' and '.join(each)}."


def _words(base: Summary, summary: Summary, key: str) -> str:
    return change(base[key], summary[key])[0]
