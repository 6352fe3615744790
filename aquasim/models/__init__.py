"""Shapes of language models: known by name, or read from a Hugging Face config.json."""

from difflib import get_close_matches
from pathlib import Path

from aquasim.models.catalogue import ALIASES, MODELS
from aquasim.models.hf import read_config
from aquasim.models.shape import TP_DEGREES, Gemm, Model

__all__ = ["TP_DEGREES", "Gemm", "Model", "load_model", "model_names"]


def model_names() -> list[str]:
    """Names `load_model` knows, without aliases."""
    return [model.name for model in MODELS.values()]


def load_model(name_or_path: str | Path) -> Model:
    """Return the shape of a model known by name (any case, hub ids too), or of a config.json or its folder.

    Raises a one-line ValueError: for an unknown name with the nearest known ones, for a bad file naming file
    and key.
    """
    key = str(name_or_path).lower()
    known = MODELS.get(ALIASES.get(key, key))
    if known is not None:
        return known
    path = Path(name_or_path)
    if path.suffix == ".json" or path.exists():
        return read_config(path)
    near = get_close_matches(key.rpartition("/")[2], MODELS, n=3, cutoff=0.5)
    names = [MODELS[name].name for name in near] or model_names()
    lead = "nearest" if near else "known"
    raise ValueError(f"unknown model {str(name_or_path)!r}; {lead}: {', '.join(names)} (or a config.json)")
