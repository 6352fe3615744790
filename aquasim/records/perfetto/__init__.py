"""Runs as traces for ui.perfetto.dev and chrome://tracing (the Trace Event Format, JSON).

A process per engine, with named threads: iterations, prefill chunks, stays in the decode batch, on the GPU and on the
host's cores, preemptions, arrivals, copies by direction and tier, fetches, work, leases; and a process for the links,
with a thread for each one that copies crossed. What overlaps is put on threads side by side ("prefill 2").

A request is an async track with its phases, and a flow through every slice that it was part of: a click on one shows
its whole life. Counters say how full everything was. Times are microseconds from the start of the run.
"""

from aquasim.records.perfetto.write import EmptyWindowError, write_trace

__all__ = ["EmptyWindowError", "write_trace"]
