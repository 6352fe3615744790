"""What decodes add to a launch of attention that carries a chunk of prefill as well."""

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from aquasim.calibrate.lines import round_to
from aquasim.calibrate.operators import spread
from aquasim.calibrate.points import Points
from aquasim.calibrate.samples import Samples

if TYPE_CHECKING:
    from aquasim.calibrate.attention import DecodeAttentionTime, PrefillAttentionTime

Floats = NDArray[np.float64]

_SHARE = 0.3  # of a launch's time that decodes must add for the row to say something about them


class MixedAttentionTime:
    """Seconds that decodes add to a launch with chunks, over the axes of decode attention, plus a start.

    A kernel that serves chunks and decodes at once does not split a decode's context over the GPU, nor share
    a KV head among its queries: decodes then cost a multiple of what they cost alone. A launch lasts as long as
    its chunk alone (`prefill`) and what its decodes add, which is no less than they cost alone (`decode`),
    both less the start that is in either.
    """

    def __init__(self, decode: "DecodeAttentionTime", prefill: "PrefillAttentionTime") -> None:
        self.decode = decode
        self.prefill = prefill

    def fit(self, samples: Samples) -> Self:
        """Fit what decodes add in `samples` of one head dimension.

        Sets `residual_`, relative errors of whole launches held out, also with decodes as they cost alone.
        """
        before = self.prefill.predict(self._chunks(samples))
        self.start_ = float(np.exp2(self.prefill.surface_.table_.min()) * 1e-9)
        added = samples.seconds - before + self.start_
        telling = added - self.start_ > _SHARE * samples.seconds
        points = Points(samples.source, _steps(samples), added, np.zeros(len(added)), len(added))
        held = points.held_out()
        self.added_ = type(self.decode)(self.decode.heads, self.decode.token_seconds).fit(
            points.take(telling & ~held)
        )
        self._raise_to_alone()
        alone = before + self.decode.predict(_steps(samples)) - self.start_
        self.residual_ = {
            "rows_fitted": int((telling & ~held).sum()),
            "rows_held_out": int(held.sum()),
            **self._judge(self.predict(samples.take(held)), samples.take(held)),
            "with_decodes_as_alone": self._judge(alone[held], samples.take(held)),
        }
        return self

    def predict(self, samples: Samples) -> Floats:
        """Return seconds of whole launches."""
        return (
            self.prefill.predict(self._chunks(samples)) + self.added_.predict(_steps(samples)) - self.start_
        )

    def block(self) -> dict[str, Any]:
        """Return the table of what decodes add, with the residuals of whole launches."""
        return {**self.added_.block(), "residual": self.residual_}

    def _raise_to_alone(self) -> None:
        """Let no knot be below decoding alone, which has another table of the same axes."""
        surface = self.added_.surface_
        knots = np.stack(np.meshgrid(*surface.knots, indexing="ij"), axis=-1).reshape(-1, len(surface.knots))
        alone = np.log2(self.decode.predict(knots) * 1e9).reshape(surface.table_.shape)
        surface.table_ = np.maximum(surface.table_, alone)

    def _chunks(self, samples: Samples) -> Floats:
        """Return the coordinates of prefill attention."""
        rows = samples["heads"] * np.maximum(samples["new"], self.prefill.tile)
        reach = samples["cached"] + samples["new"] / 2
        return np.stack([samples["heads"] / samples["kv_heads"], rows, reach], axis=1)

    @staticmethod
    def _judge(seconds: Floats, samples: Samples) -> dict[str, Any]:
        ratio = seconds / samples.seconds
        return {**spread(ratio), "ratio": round_to(float(np.median(ratio)))}


def _steps(samples: Samples) -> Floats:
    """Return the coordinates of decode attention."""
    group = samples["heads"] / samples["kv_heads"]
    return np.stack([group, samples["kv_heads"], samples["batch"], samples["length"]], axis=1)
