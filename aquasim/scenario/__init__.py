"""Scenario files: what is simulated, on what, under which load."""

from aquasim.scenario.load import load_scenario, scenario_names
from aquasim.scenario.schema import Scenario

__all__ = ["Scenario", "load_scenario", "scenario_names"]
