"""Microbenchmarks: the operators an engine runs and the copies it makes, on a GPU or, by the same code, on a CPU."""
