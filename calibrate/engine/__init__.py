"""Measures our own engine on this machine, with the very code that runs: steps, paging, and what lies between."""
