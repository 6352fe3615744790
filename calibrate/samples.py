"""Timings of operators in one form, whether measured here or read from published tables."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aquasim.errors import UserError

Floats = NDArray[np.float64]

SCHEMA = 1
"""Version of the sample format."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of operator: its numeric `shape` columns, its text `labels`, and what a row means."""

    shape: tuple[str, ...]
    labels: tuple[str, ...]
    meaning: str


KINDS = {
    "gemm": Kind(("tokens", "outputs", "inputs"), ("kernel",), "a tokens x inputs by inputs x outputs product"),
    "decode_attention": Kind(
        ("heads", "kv_heads", "head_dim", "batch", "length"), ("kernel",),
        "one layer: `batch` sequences add a token each, reading `length` tokens each",
    ),
    "prefill_attention": Kind(
        ("heads", "kv_heads", "head_dim", "batch", "new", "cached"), ("kernel",),
        "one layer: `batch` sequences of `new` tokens each behind `cached` ones, causal",
    ),
    "mixed_attention": Kind(
        ("heads", "kv_heads", "head_dim", "new", "cached", "batch", "length"), ("kernel",),
        "one layer: a chunk of `new` tokens behind `cached` ones, beside `batch` decodes of `length` tokens",
    ),
    "elementwise": Kind(("bytes", "kernels", "tokens"), ("kernel",), "norm, rotary, activation, embedding"),
    "sampling": Kind(("sequences", "vocab"), ("kernel",), "from logits to tokens, without the output head"),
    "memory": Kind(("bytes",), ("method",), "bytes read (method read) or read and written (copy) on the device"),
    "all_reduce": Kind(("gpus", "bytes"), ("kernel",), "all-reduce of `bytes` on each of `gpus`"),
    "send_recv": Kind(("gpus", "bytes"), ("kernel",), "a send of `bytes` from one GPU to another"),
    "copy": Kind(
        ("bytes", "count", "both"), ("link", "method"),
        "`count` copies of `bytes` each over a link; both is 1 if the other direction is busy as well",
    ),
    "launch": Kind(("kernels",), ("method",), "host time per kernel launched, replay of a graph, readback"),
    "layer": Kind(
        ("new", "cached", "batch", "length", "tp"), ("model",), "a whole decoder layer, to check the sum of its parts"
    ),
    "overlap": Kind(("batch", "length", "traffic"), ("link",), "a decode step; traffic is 1 beside copies"),
    "ipc": Kind(("bytes",), ("method",), "opening or closing memory of another process"),
    "host_memory": Kind(("threads", "bytes"), ("method",), "bytes moved in host memory by `threads`"),
    "cpu_attention": Kind(
        ("threads", "heads", "kv_heads", "head_dim", "batch", "length"), ("kernel",), "decode attention on the CPU"
    ),
}  # fmt: skip
"""What can be measured. Sizes are bytes and tokens; heads are those of one GPU."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Timings of one kind of operator (shape of every column: rows).

    `seconds` is the median of `repeats` runs, `q25` and `q75` their quartiles; `shape` and `labels` hold the
    columns of `KINDS[operator]`; `source` names the files, `provenance` the machine and versions, where known.
    """

    operator: str
    shape: dict[str, Floats]
    labels: dict[str, NDArray[Any]]
    seconds: Floats
    q25: Floats
    q75: Floats
    repeats: NDArray[np.int64]
    source: str
    provenance: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.seconds)

    def __getitem__(self, column: str) -> Floats:
        """Return one shape column."""
        return self.shape[column]

    def take(self, rows: NDArray[Any]) -> "Samples":
        """Return the rows that a mask or an array of row numbers picks."""
        return replace(
            self,
            shape={name: column[rows] for name, column in self.shape.items()},
            labels={name: column[rows] for name, column in self.labels.items()},
            seconds=self.seconds[rows],
            q25=self.q25[rows],
            q75=self.q75[rows],
            repeats=self.repeats[rows],
        )

    def where(self, label: str, *values: str) -> "Samples":
        """Return the rows in which `label` has one of `values`."""
        return self.take(np.isin(self.labels[label].astype(str), values))


def make_samples(
    operator: str,
    source: str,
    columns: Mapping[str, Any],
    seconds: Any,
    *,
    q25: Any = None,
    q75: Any = None,
    repeats: Any = 1,
    provenance: Mapping[str, str] | None = None,
) -> Samples:
    """Build `Samples` from columns (arrays, or one value for all rows); absent labels are empty text.

    Quartiles default to the median. Raises UserError, as `check`, for a time that is not above 0.
    """
    kind, times = KINDS[operator], np.asarray(seconds, dtype=float)
    rows = times.shape

    def column(value: Any, dtype: Any) -> NDArray[Any]:
        return np.broadcast_to(np.asarray(value, dtype=dtype), rows).copy()

    made = Samples(
        operator=operator,
        shape={name: column(columns[name], float) for name in kind.shape},
        labels={name: column(columns.get(name, ""), object) for name in kind.labels},
        seconds=times,
        q25=column(times if q25 is None else q25, float),
        q75=column(times if q75 is None else q75, float),
        repeats=column(repeats, np.int64),
        source=source,
        provenance=dict(provenance or {}),
    )
    check(made)
    return made


def check(samples: Samples) -> None:
    """Raise UserError, naming source, row and value, for a time or shape that cannot be."""
    where = f"{samples.source}: {samples.operator}"
    for name, column in (("seconds", samples.seconds), *samples.shape.items()):
        least = 0.0 if name in ("cached", "both", "traffic", "new", "batch", "length") else None
        bad = ~np.isfinite(column) | ((column <= 0) if least is None else (column < least))
        if bad.any():
            row = int(np.argmax(bad))
            raise UserError(f"{where}: row {row + 1}: {name} is {column[row]:g}; a number above 0 is needed")


def concat(parts: Iterable[Samples]) -> Samples:
    """Return the rows of all parts, which are of one kind; sources are joined by " + "."""
    listed = list(parts)
    first = listed[0]
    return replace(
        first,
        shape={name: np.concatenate([part.shape[name] for part in listed]) for name in first.shape},
        labels={name: np.concatenate([part.labels[name] for part in listed]) for name in first.labels},
        seconds=np.concatenate([part.seconds for part in listed]),
        q25=np.concatenate([part.q25 for part in listed]),
        q75=np.concatenate([part.q75 for part in listed]),
        repeats=np.concatenate([part.repeats for part in listed]),
        source=" + ".join(dict.fromkeys(part.source for part in listed)),
        provenance={key: value for part in reversed(listed) for key, value in part.provenance.items()},
    )


def by_operator(parts: Iterable[Samples]) -> dict[str, Samples]:
    """Return the samples of each operator in one piece, in order of `KINDS`."""
    groups: dict[str, list[Samples]] = {}
    for part in parts:
        groups.setdefault(part.operator, []).append(part)
    return {operator: concat(groups[operator]) for operator in KINDS if operator in groups}
