"""Whether a system meets an SLO at some value, judged over seeds.

The rule: every seed meets every bound. With n of n that assures, at confidence c, that at least (1 - c) ** (1 / n)
of all runs do (Clopper and Pearson's exact bound: 74 % for 10 seeds at 95 %, 90 % for 29, 95 % for 59). It assumes
nothing about how a metric is distributed. An interval of the mean would: percentiles under bursts are skewed, and one
run in five may miss by far while Student's t still puts the mean within the bound. Means and their t intervals are
said beside it. The same seeds are used for every value (common random numbers): neighbours differ by the value and
not by luck.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aquasim.sweep.intervals import Interval, interval, share_at_least
from aquasim.sweep.terms import Constraint

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Verdict:
    """What `n` seeds say at one value: how many pass every bound, and each metric's mean with its interval."""

    meets: bool
    n: int
    passed: int
    share: float
    """Of all runs, so many pass at least, at the confidence (Clopper and Pearson)."""
    means: dict[str, Interval]
    failed: str | None = None
    """Error of a seed that could not run."""


def judge(rows: "pd.DataFrame", bounds: Sequence[Constraint], confidence: float) -> Verdict:
    """Judge one value; a seed without a metric (nothing finished) does not meet its bound.

    Args:
        rows: status, error and metrics, a row per seed.
        bounds: what has to hold.
        confidence: of intervals and shares.
    """
    errors = rows.loc[rows["status"] != "ok", "error"]
    n = len(rows)
    slacks = [np.asarray(bound.slack(lambda name: rows[name.metric].to_numpy())) for bound in bounds]
    passed = int(np.all([bound.holds(s) for bound, s in zip(bounds, slacks, strict=True)], axis=0).sum())
    names = dict.fromkeys(name.metric for bound in bounds for name in bound.names())
    return Verdict(
        meets=not len(errors) and passed == n,
        n=n,
        passed=passed,
        share=share_at_least(passed, n, confidence),
        means={name: interval(rows[name], confidence) for name in names},
        failed=str(errors.iloc[0]) if len(errors) else None,
    )
