"""Image and audio producers in batches: how long a batch takes, and how much memory it leaves."""

from aquasim.producers.load import load_producer, producer_names
from aquasim.producers.producer import BatchTime, Load, Producer

__all__ = ["BatchTime", "Load", "Producer", "load_producer", "producer_names"]
