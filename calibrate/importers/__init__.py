"""Read timings from tables that others published, and from our own sample files, by what columns they have."""

from aquasim.calibrate.importers.read import read_paths, read_table

__all__ = ["read_paths", "read_table"]
