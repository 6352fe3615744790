"""Benchmarks: printed, not asserted."""
