"""Predictors for tests: simple machines, described by a few numbers."""

from aquasim.core.predictor import Copying, Curve, Predictor, Surface

MANY = 1 << 20


def predictor(
    *,
    flat: float = 1000.0,
    token: float = 8.0,
    kv: float = 0.1,
    host: float = 1.0,
    launch: float = 100.0,
    layers: int = 4,
    copies: dict[str, Copying] | None = None,
) -> Predictor:
    """Return tables of a machine whose products take `flat` ns up to 128 tokens and `token` ns for each beyond.

    Attention takes `token` / 4 ns per token of a prompt, `kv` ns per KV token on the GPU, 20 + `host` ns on the host.
    """
    line = [1, MANY]
    host_row = Curve(line, [20.0 + host, 20.0 + host * MANY])
    return Predictor(
        layers,
        Curve([1, 128, MANY], [flat, flat, flat + token * (MANY - 128)]),
        Curve(line, [token / 4, token / 4 * MANY]),
        Curve(line, [kv, kv * MANY]),
        Surface([1, 4096], [host_row, host_row]),
        launch,
        copies or {},
    )
