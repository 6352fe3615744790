"""Workloads: tables of requests, synthetic or read from published traces."""

from aquasim.workload.adapters import Adapters
from aquasim.workload.arrivals import Arrivals, AtOnce, ClosedLoop, Gamma, Piecewise, Poisson
from aquasim.workload.arrivals import Fixed as FixedGap
from aquasim.workload.lengths import (
    Empirical,
    EmpiricalPairs,
    Histogram,
    Lengths,
    Lognormal,
    Quantiles,
    Uniform,
)
from aquasim.workload.lengths import Fixed as FixedLength
from aquasim.workload.standin import STAND_INS, stand_in
from aquasim.workload.streams import STREAMS, stream
from aquasim.workload.synthetic import SharedPrefix, synthetic
from aquasim.workload.table import Workload, save
from aquasim.workload.traces import FORMATS, TraceError, lengths_from_sharegpt, read_trace

__all__ = [
    "FORMATS",
    "STAND_INS",
    "STREAMS",
    "Adapters",
    "Arrivals",
    "AtOnce",
    "ClosedLoop",
    "Empirical",
    "EmpiricalPairs",
    "FixedGap",
    "FixedLength",
    "Gamma",
    "Histogram",
    "Lengths",
    "Lognormal",
    "Piecewise",
    "Poisson",
    "Quantiles",
    "SharedPrefix",
    "TraceError",
    "Uniform",
    "Workload",
    "lengths_from_sharegpt",
    "read_trace",
    "save",
    "stand_in",
    "stream",
    "synthetic",
]
