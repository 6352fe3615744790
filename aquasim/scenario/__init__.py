"""Scenario files: what is simulated, on what, under which load."""

from aquasim.scenario.load import load_scenario, scenario_names
from aquasim.scenario.schema import Scenario
from aquasim.scenario.server import ServerScenario

__all__ = ["Scenario", "ServerScenario", "load_scenario", "scenario_names"]
