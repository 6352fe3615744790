"""The simulator: SimPy executors for the commands of `aquasim.core`, over modelled GPUs and links."""
