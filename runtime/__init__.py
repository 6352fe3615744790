"""Peer paging and time-sliced execution on real hardware."""
