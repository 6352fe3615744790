"""Files of studies that are no simulations: links, and profiles of producers and LLMs."""

import tomllib
from functools import cache
from typing import Annotated

from pydantic import Field

from aquasim.scenario.load import FOLDER
from aquasim.scenario.schema import ModelTable, Positive, Table


class LinksStudy(Table):
    """`[links]`: bandwidth by size on these servers, and of these models' pages."""

    servers: tuple[str, ...]
    sizes_kib: tuple[Positive, ...]
    tokens: Positive
    models: tuple[ModelTable, ...]


class ProfilesStudy(Table):
    """`[profiles]`: throughput and memory by batch."""

    servers: tuple[str, ...]
    producers: tuple[str, ...]
    llms: tuple[str, ...]
    prompt: Positive
    output: Positive


class Study(Table):
    """A study file: one of its tables."""

    question: str
    source: str
    expect: str
    links: Annotated[LinksStudy, Field()] = LinksStudy(servers=(), sizes_kib=(), tokens=1, models=())
    profiles: ProfilesStudy = ProfilesStudy(servers=(), producers=(), llms=(), prompt=1, output=1)


@cache
def load_study(name: str) -> Study:
    """Read a study that ships with the package."""
    text = (FOLDER / f"{name}.study.toml").read_text(encoding="utf-8")
    return Study.model_validate(tomllib.loads(text))
