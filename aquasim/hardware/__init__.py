"""Simulated hardware: profiles of GPUs and links, how long a step takes, how much KV cache fits."""
