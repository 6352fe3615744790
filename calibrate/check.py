"""A whole layer's measured time against what the profile gives for the sum of its parts."""

from dataclasses import replace
from typing import Any

import numpy as np

from aquasim.calibrate.bench.sizes import MODELS
from aquasim.calibrate.lines import round_to
from aquasim.calibrate.operators import spread
from aquasim.calibrate.samples import Samples
from aquasim.hardware.cost import StepCost
from aquasim.hardware.profile import Profile
from aquasim.models import Model, load_model

Block = dict[str, Any]


def layer_block(profile: Profile, samples: Samples) -> Block | None:
    """Return how far sums of fitted parts are from whole layers as measured; None without a single row.

    A layer is what a model of two layers takes longer than one of one layer.
    """
    ratios = []
    for i in range(len(samples)):
        row = {name: int(column[i]) for name, column in samples.shape.items()}
        model = _model(str(samples.labels["model"][i]))
        one, two = (_seconds(profile, replace(model, layers=layers), row) for layers in (1, 2))
        ratios.append((two - one) / samples.seconds[i])
    if not ratios:
        return None
    residual = {"rows": len(ratios), "ratio": round_to(float(np.median(ratios))), **spread(np.array(ratios))}
    return {"residual": residual, "source": samples.source}


def _model(name: str) -> Model:
    return MODELS.get(name) or load_model(name)


def _seconds(profile: Profile, model: Model, row: dict[str, int]) -> float:
    """Return the seconds of an iteration of `model`."""
    tokens = max(row["new"], row["batch"])
    cost = StepCost(profile, model, row["tp"], max_tokens=max(8192, tokens))
    if row["new"]:
        return cost.step([(row["new"], row["cached"])], 0, 0) * 1e-9
    return cost.decode(row["batch"], row["batch"] * row["length"])[0] * 1e-9
