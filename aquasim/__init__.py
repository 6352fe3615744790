"""aquasim: who runs, whose state moves, and where to, when GPU memory runs out."""

__version__ = "0.1.0"
