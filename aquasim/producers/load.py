"""Producers by name, from the data file of the package."""

import tomllib
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from aquasim.errors import UserError
from aquasim.producers.autoencoder import PixelDecoder, SoundDecoder
from aquasim.producers.autoregressive import AudioLM, Autoregressive
from aquasim.producers.diffusion import Diffusion, Kernels, Phase, encoder
from aquasim.producers.producer import GIB, Engine, Producer
from aquasim.producers.unet import UNet

FILE = Path(__file__).parent / "producers.toml"
ALIASES = {
    "stable-diffusion-v1-5": "sd",
    "sd1.5": "sd",
    "stable-diffusion-xl-base-1.0": "sdxl",
    "kandinsky-2-2-decoder": "kandinsky",
    "audiogen-medium": "audiogen",
    "musicgen-large": "musicgen",
}


def producer_names() -> list[str]:
    """Names `load_producer` knows, without aliases."""
    return list(_data()["producers"])


def load_producer(name: str) -> Producer:
    """Return a producer by name (any case, hub ids too); UserError with the nearest names for an unknown one."""
    key = name.lower().rpartition("/")[2]
    key = ALIASES.get(key, key)
    if key not in producer_names():
        near = get_close_matches(key, [*producer_names(), *ALIASES], n=3, cutoff=0.5)
        names = list(dict.fromkeys(ALIASES.get(close, close) for close in near)) or producer_names()
        raise UserError(f"unknown producer {name!r}; {'nearest' if near else 'known'}: {', '.join(names)}")
    return _producer(key)


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


@cache
def _producer(name: str) -> Producer:
    common, block = _data()["common"], _data()["producers"][name]
    engine: Engine
    engine, params = _image(block) if "unet" in block else _audio(block)
    weights = sum(count * size for count, size in params)
    return Producer(
        name=name,
        title=block["title"],
        items=block["items"],
        max_batch=block["batches"]["max_batch"],
        resident_bytes=weights + round(common["context_gib"] * GIB),
        profiled_free_bytes=round(block["batches"]["profiled_free_gb"] * GIB),
        engine=engine,
    )


def _kernels() -> Kernels:
    common = _data()["common"]
    return Kernels(common["host_s_per_kernel"], common["idle_s_per_kernel"], common["products"]["shares"])


def _shape(block: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of a table: all but its source, lists as tuples."""
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in block.items()
        if key not in ("source", "params", "weight_bytes")
    }


def _encoders(block: dict[str, Any]) -> tuple[list[Phase], list[tuple[int, int]]]:
    """Return phases and (parameters, bytes of each) of a producer's encoders and prior."""
    phases, params = [], []
    for part in block["encoders"]:
        params.append((part["params"], part["weight_bytes"]))
        if part["runs"]:
            work = encoder(part["layers"], part["width"], part["tokens"])
            phases.append(Phase(part["runs"], part["per_item"], work))
    return phases, params


def _image(block: dict[str, Any]) -> tuple[Diffusion, list[tuple[int, int]]]:
    common = _data()["common"]
    unet, decoder = UNet(**_shape(block["unet"])), PixelDecoder(**_shape(block["decoder"]))
    work, steps = unet.tally(), block["denoising"]
    phases, params = _encoders(block)
    phases.append(Phase(steps["steps"], steps["per_item"], work))
    speed = 1.0 if decoder.dtype_bytes == _data()["common"]["half_bytes"] else common["fp32_speed"]
    phases.append(Phase(1, 1, decoder.tally(), speed))
    params += [(work.params, common["half_bytes"]), (block["decoder"]["params"], decoder.dtype_bytes)]
    engine = Diffusion(phases, decoder, steps["efficiency"], common["held"]["images"], _kernels())
    return engine, params


def _audio(block: dict[str, Any]) -> tuple[Autoregressive, list[tuple[int, int]]]:
    common = _data()["common"]
    lm = AudioLM(**_shape(block["lm"]), host_s_per_layer=common["audio"]["host_s_per_layer"])
    decoder = SoundDecoder(**_shape(block["decoder"]))
    phases, params = _encoders(block)
    phases.append(Phase(1, 1, decoder.tally(), common["fp32_speed"]))
    params += [(lm.params, common["half_bytes"]), (block["decoder"]["params"], 4)]
    engine = Autoregressive(
        lm, phases, decoder, common["audio"]["efficiency"], common["held"]["audio"], _kernels()
    )
    return engine, params
