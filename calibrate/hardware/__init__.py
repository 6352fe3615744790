"""A scenario on this machine, simulated and measured: the figures side by side, every decision replayed."""
