"""The sweep of an image or audio producer, in the form the profiler judges."""

from aquasim.hardware.profile import Profile
from aquasim.producers import Producer
from aquasim.surplus.sweep import Point


def producer_sweep(producer: Producer, profile: Profile) -> list[Point]:
    """Return a point per batch size: items/s, bytes beside weights and context, and the seconds a batch takes."""
    return [
        Point(load.batch, load.items_per_s, load.memory_bytes - producer.resident_bytes, load.seconds)
        for load in producer.sweep(profile)
    ]


def producer_room(producer: Producer, profile: Profile) -> int:
    """Return the bytes of HBM beside weights and context; ValueError if those do not fit."""
    room = profile.memory_bytes - producer.resident_bytes
    if room < 0:
        need, have = producer.resident_bytes / 2**30, profile.memory_bytes / 2**30
        raise ValueError(
            f"{producer.name} needs {need:.1f} GiB for its weights; {profile.name} has {have:.1f}"
        )
    return room
