"""Simulated against measured: replays serving runs that somebody measured and says how far off we are."""
