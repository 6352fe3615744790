"""What runs on hardware: a scenario's plan with the model that is really there, on this machine's memory."""

from dataclasses import replace
from typing import TYPE_CHECKING

from aquasim.errors import UserError
from aquasim.hardware.local import LOCAL, SIZES, as_stored, load_cached, unmeasured_profile
from aquasim.models import Model, load_model
from aquasim.scenario import Scenario
from aquasim.sim.simulate import Plan

if TYPE_CHECKING:
    from aquasim.runtime.engine import LlamaConfig
    from aquasim.runtime.local.options import Options

ITEMSIZES = {"float32": 4, "bfloat16": 2, "float16": 2}


def hardware_plan(scenario: Scenario, options: "Options") -> Plan:
    """Resolve a scenario for this machine. The server it names counts only where nothing better is known.

    Raises:
        UserError: the weights are missing or of another family, or what `Plan.of` finds.
    """
    if options.weights is None and scenario.machine.server != LOCAL:
        return Plan.of(scenario)
    model = real_model(scenario, options)
    profile = load_cached(model, kind_of(options)) if options.weights is None else None
    return Plan.of(scenario, profile or unmeasured_profile(), model)


def real_model(scenario: Scenario, options: "Options") -> Model:
    """Return the model that is run, as it is stored: the weights' own, or the scenario's."""
    dtype = options.dtype or ("float32" if kind_of(options) == "cpu" else "bfloat16")
    if options.weights is None:
        try:
            return as_stored(load_model(scenario.model.name), ITEMSIZES[dtype])
        except ValueError as error:
            raise UserError(str(error)) from None
    from aquasim.runtime.engine import LlamaConfig

    if not options.weights.exists():
        raise UserError(f"--weights {options.weights}: no such file")
    try:
        config = LlamaConfig.read(options.weights)
    except (ValueError, OSError) as error:
        raise UserError(f"--weights {error}") from None
    return as_stored(shape_of(config, options.weights.stem), ITEMSIZES[dtype])


def kind_of(options: "Options") -> str:
    """Return "cpu" or "cuda": what is asked for, or a GPU where there is one."""
    if options.device != "auto":
        return options.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def shape_of(config: "LlamaConfig", name: str) -> Model:
    """Return the shape of a model that the engine runs."""
    model = Model(name, **{key: getattr(config, key) for key in SIZES})
    return replace(model, tied_embeddings=config.tied_embeddings, max_position=config.max_positions)
