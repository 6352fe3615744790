"""Clocks under load: a GPU that has computed hard for tens of milliseconds runs slower than a rested one.

Microbenchmarks time kernels one by one, with rests in between. At its power limit a GPU lowers its clock within
tens of milliseconds of dense products, and raises it again as fast while it waits for memory.
"""

from math import exp
from typing import NamedTuple

NS = 1e-9


class Throttle(NamedTuple):
    """How compute-bound time grows with heat, which goes towards 1 under load and towards 0 at rest.

    A kernel measured alone to last t lasts t * (1 + gain * (heat - rest)); `rest` is the heat at which kernels
    were measured. Heat follows the load with time constant `tau_s`.
    """

    gain: float
    rest: float
    tau_s: float


class Heat:
    """The heat of one engine's GPUs as time passes. Owned by one simulation."""

    def __init__(self, throttle: Throttle) -> None:
        self.throttle = throttle
        self.heat = 0.0
        self.until = 0
        """Up to when `heat` holds, in ns; from then on the chip rests."""

    def stretch(self, now: int, nanoseconds: int, compute: float) -> int:
        """Return how long an iteration from `now` lasts, `compute` ns of its `nanoseconds` bound by compute.

        Heat goes exponentially towards the share of compute; its mean over the iteration sets the clock.
        """
        gain, rest, tau_s = self.throttle
        start = self.heat * exp((self.until - now) * NS / tau_s)
        load = compute / nanoseconds
        fades = nanoseconds * NS / tau_s
        mean = load + (start - load) * (1 - exp(-fades)) / fades
        lasted = nanoseconds + round(compute * gain * (mean - rest))
        self.heat = load + (start - load) * exp(-lasted * NS / tau_s)
        self.until = now + lasted
        return lasted
