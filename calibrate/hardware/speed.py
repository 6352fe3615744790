"""The speed of the core that computed, from a watch's probes, against the speed at which a profile was measured."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from aquasim.hardware.profile import Profile, profile_from

BIN_NS = 250_000_000
"""Probes of a quarter of a second are one look: iterations in between do not come evenly."""


def slowdown(probes: Sequence[tuple[int, float]], profile: Profile) -> float:
    """Return how many times as long as at calibration iterations take, on the mean over a run's time.

    Args:
        probes: (ns of the run, seconds of the probe).
        profile: says what the probe took at calibration, and how iterations follow it.
    """
    if not probes:
        return 1.0
    about = profile.blocks["runtime"]["probe"]
    reference, power = float(about["seconds"]), float(about["power"])
    times, seconds = np.array(probes, dtype=np.float64).T
    bins = (times // BIN_NS).astype(np.int64)
    looks = [float(np.median(seconds[bins == number])) for number in np.unique(bins)]
    return 1.0 / float(np.mean([(reference / look) ** power for look in looks]))


def slowed(profile: Profile, factor: float) -> Profile:
    """Return a profile of the same machine whose core takes `factor` times as long for everything."""
    blocks: dict[str, Any] = deepcopy(profile.blocks)
    step = blocks["runtime"]["step"]
    step["tokens_s"] = [seconds * factor for seconds in step["tokens_s"]]
    step["features_s"] = {name: seconds * factor for name, seconds in step["features_s"].items()}
    serving = blocks["runtime"]["serving"]
    for name in ("decode_s", "mixed_s", "transfer_s"):
        serving[name] *= factor
    return profile_from(blocks)
