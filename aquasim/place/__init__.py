"""Which job goes on which server, and which GPU lends memory to which: AQUA's placer (ASPLOS 2025)."""

from aquasim.place.load import load_problem
from aquasim.place.methods import METHODS, place
from aquasim.place.plan import Plan
from aquasim.place.problem import Model, Problem

__all__ = ["METHODS", "Model", "Plan", "Problem", "load_problem", "place"]
