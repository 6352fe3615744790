"""Microbenchmarks, samples, fits and hardware profiles."""
